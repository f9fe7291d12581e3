"""What a training tells a balancer beside its losses."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor


class TrainingEvents:
    """What a training tells a balancer beside its losses: the losses after a step, and the ends of epochs.

    The trainer tells both to a method that needs them; a loop of your own calls the methods itself. Where a method does
    not need them, a call does nothing.

    Attributes:
        needs_losses_after_step: Whether the method compares the losses of a batch before and after the step.
        needs_epochs: Whether the method compares epochs.
    """

    needs_losses_after_step: ClassVar[bool] = False
    needs_epochs: ClassVar[bool] = False

    @torch.no_grad()
    def after_step(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Take the losses of the last `backward`'s batch, computed again after the optimizer's step.

        Args:
            losses: K scalars as in `backward`, but neither scaled nor divided; no graph is needed. If several processes
                share the batch, each passes its part.
        """
        if self.needs_losses_after_step:
            self._compare(losses)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """End an epoch: the losses from here on are those of the next one."""
        if self.needs_epochs:
            self._close_epoch()

    def _compare(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Use the losses after the step."""
        raise NotImplementedError

    def _close_epoch(self) -> None:
        """Use the losses of the epoch that ends."""
        raise NotImplementedError
