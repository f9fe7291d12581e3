"""Adam on one number per task, in buffers."""

import torch
from torch import Tensor, nn

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.ema import bias_corrected

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class TaskAdam(nn.Module):
    """Adam (Kingma and Ba, ICLR 2015) on one number per task, which methods with learned loss weights descend.

    Numbers and moments are buffers. Each task counts its own updates, and an absent one keeps its number and moments.

    Shape:
        - values, slope, present: `[K]`.

    Args:
        tasks: The number of tasks, K.
        lr: The learning rate.
        decay: The L2 penalty on the numbers, whose gradient is added to the slope.

    Attributes:
        values: The numbers, at first 0.

    Example:
        >>> import torch
        >>> adam = TaskAdam(tasks=2, lr=0.1)
        >>> adam.step(torch.tensor([3.0, -1.0]), torch.tensor([True, False]))
        >>> adam.values
        tensor([-0.1000,  0.0000])
    """

    values: Tensor
    mean: Tensor
    square: Tensor
    updates: Tensor

    def __init__(self, tasks: int, lr: float, decay: float = 0.0) -> None:
        super().__init__()
        self.lr = lr
        self.decay = decay
        for name in ("values", "mean", "square"):
            self.register_buffer(name, torch.zeros(tasks))
        self.register_buffer("updates", torch.zeros(tasks, dtype=torch.int64))

    @torch.no_grad()
    def step(self, slope: Tensor, present: Tensor) -> None:
        """Descend the slope of the `present` tasks, bool `[K]`; one whose square overflows counts as absent."""
        slope = slope + self.decay * self.values if self.decay else slope
        present = present & is_finite(slope.square())
        self.updates += present
        for average, value, beta in ((self.mean, slope, _BETAS[0]), (self.square, slope.square(), _BETAS[1])):
            average.copy_(torch.where(present, beta * average + (1 - beta) * value, average))
        mean = bias_corrected(self.mean, _BETAS[0], self.updates)
        square = bias_corrected(self.square, _BETAS[1], self.updates)
        self.values -= masked(self.lr * mean / (square.sqrt() + _EPSILON), present)
