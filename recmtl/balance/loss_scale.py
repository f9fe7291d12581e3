"""The factor in losses that a `GradScaler` scales or that are divided for accumulation, and steps that are skipped."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler


class LossScale:
    """The factor in the losses, and the state before a step that the scaler may skip.

    The scaler decides after the gradients are there. Its scale falls exactly if it skips the step, so this is looked up
    when the state is used next. No step waits for the device.

    Attributes:
        scaler: The scaler, if there is one.
        number: The factor beside that of the scaler.
    """

    def __init__(self, scaler: GradScaler | None = None, number: float = 1.0) -> None:
        self.scaler = scaler
        self.number = number
        self.forget()

    @property
    def guarded(self) -> bool:
        """Whether a scaler looks for gradients that are not finite."""
        return self.scaler is not None and self.scaler.is_enabled()

    def on(self, device: torch.device) -> Tensor | None:
        """Return the factor in the losses, float32 `[]`; None if it is 1."""
        if self.scaler is not None and self.scaler.is_enabled():
            return self.scaler.scale(torch.full((), self.number, device=device))
        return None if self.number == 1 else torch.full((), self.number, device=device)

    def forget(self) -> None:
        """Keep no state."""
        self._kept: dict[str, Tensor] = {}
        self._scale: Tensor | None = None  # when the state was kept
        self._optimizers: object = None  # what the scaler knew of them then; each update makes a new one

    @property
    def begun(self) -> bool:
        """Whether a state was kept for the scaler's decision."""
        return self._scale is not None and self.guarded

    @torch.no_grad()
    def keep(self, buffers: Mapping[str, Tensor]) -> bool:
        """Put back what was kept if the scaler's scale fell since, and keep the state unless the step is the same.

        Returns:
            Whether this is another step: the scaler has decided on the last one.
        """
        if not self.guarded or not buffers:
            return False
        optimizers = getattr(self.scaler, "_per_optimizer_states", object())
        another = optimizers is not self._optimizers
        if another:
            assert self.scaler is not None
            scale = self.scaler.scale(torch.ones((), device=next(iter(buffers.values())).device))
            if self._scale is not None:
                self.put_back(buffers, scale < self._scale.to(scale.device))
            self._kept, self._scale, self._optimizers = {}, scale, optimizers
        for name in buffers.keys() - self._kept.keys():
            self._kept[name] = buffers[name].clone()
        return another

    @torch.no_grad()
    def put_back(self, buffers: Mapping[str, Tensor], skipped: Tensor) -> None:
        """Put back what was kept if the step is `skipped`, bool `[]`."""
        for name, buffer in buffers.items() if self.guarded else ():
            if name in self._kept:
                buffer.copy_(torch.where(skipped, self._kept[name].to(buffer), buffer))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.scaler, self.number)

    def __reduce__(self) -> tuple[type[Self], tuple[None, float]]:
        return type(self), (None, self.number)
