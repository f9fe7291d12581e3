"""Training in fp16: losses scaled so that small gradients survive, and steps with an overflow skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from recmtl.runs.checkpoint_file import check_state_like


class LossScaler:
    """Scales the losses of a step, and takes the step if its gradients did not overflow.

    The scale starts at 2¹⁶, halves at an overflow, and doubles after 2,000 steps without one. Each step waits for the
    device to know which.

    Attributes:
        scaler: The scaler, for the balancer.
        skipped: The number of steps that were not taken since the last one that trained something.
    """

    def __init__(self, device: torch.device) -> None:
        self.scaler = GradScaler(device.type)
        self.skipped = 0

    def scaled(self, losses: Mapping[str, Tensor], penalty: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the losses and the penalty times the scale."""
        scaled = {name: self.scaler.scale(loss) for name, loss in losses.items()}
        return scaled, None if penalty is None else self.scaler.scale(penalty)

    def unscaled(self, norms: Tensor) -> Tensor:
        """Return the norms of gradients of scaled losses for the losses themselves."""
        return norms / self.scaler.scale(torch.ones((), device=norms.device))

    def update(self, tensors: Sequence[Tensor], take: Callable[[], None]) -> bool:
        """Divide the gradients of all tensors by the scale; take the step, unless one is not finite.

        Returns:
            Whether the step was taken.
        """
        step = _WholeStep(tensors, take)
        if any(tensor.grad is not None for tensor in tensors):
            self.scaler.unscale_(step)
            self.scaler.step(step)
            self.scaler.update()
        else:
            step.step()
        self.skipped += not step.taken
        return step.taken

    @property
    def exhausted(self) -> bool:
        """Whether the scale is below 1: what is still not finite is no overflow that a smaller one would prevent."""
        return self.scaler.get_scale() < 1

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the steps since it changed, and the steps skipped."""
        return self.scaler.state_dict() | {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; raise a `ValueError` if it is something else."""
        check_state_like(state, self.state_dict(), "the loss scale")
        self.scaler.load_state_dict(state)
        self.skipped = state["skipped"]


class _WholeStep(Optimizer):
    """All that follows the gradients of a step, as the one optimizer that the scaler sees."""

    def __init__(self, tensors: Sequence[Tensor], take: Callable[[], None]) -> None:
        super().__init__([{"params": list(tensors)}], {})
        self._take = take
        self.taken = False

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self._take()
        self.taken = True
