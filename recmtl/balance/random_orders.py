"""The random orders in which tasks meet each other, drawn from a counter."""

import torch
from torch import Tensor, nn

_BITS = 0xFFFFFFFF  # of a random word: products with the factors below stay under 2⁶³


class RandomOrders(nn.Module):
    """Draws an order of all tasks for each of them; seed and counter are the state.

    No global generator is touched, any device draws the same, and nothing waits for the device.

    Shape:
        - output: int64 `[K, K]`.

    Args:
        seed: Decides the orders; below 2³².

    Raises:
        ValueError: If `seed` is out of its range.

    Example:
        >>> import torch
        >>> orders = RandomOrders(seed=0)
        >>> orders(tasks=3).sort(1).values[0]  # row by row a permutation of all tasks
        tensor([0, 1, 2])
        >>> first = orders(tasks=8)
        >>> orders.advance(torch.tensor(True))
        >>> bool((orders(tasks=8) == first).all())
        False
    """

    generator: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        if not 0 <= seed <= _BITS:
            raise ValueError(f"`seed` must be at least 0 and below 2**32, got {seed}")
        self.register_buffer("generator", torch.tensor([seed, 0]))  # the seed, and how often it was drawn from

    def forward(self, tasks: int) -> Tensor:
        """Gives the orders that the next step takes, the same until `advance`.

        Args:
            tasks: The number of tasks, K.
        """
        seed, drawn = self.generator.unbind()
        start = _mixed(_mixed(seed) ^ (drawn & _BITS))
        places = torch.arange(tasks * tasks, device=self.generator.device)
        return _mixed((start + places) & _BITS).view(tasks, tasks).argsort(1)  # [K, K]

    def advance(self, used: Tensor) -> None:
        """Counts the orders as drawn.

        Args:
            used: Whether a task had a gradient, bool `[]`; without one the next step takes the same orders.
        """
        self.generator[1] += used


def _mixed(words: Tensor) -> Tensor:
    """Scatters words of 32 bits, held in int64, over all words; one to one."""
    words = (words ^ (words >> 16)) * 0x21F0AAAD & _BITS
    words = (words ^ (words >> 15)) * 0x735A2D97 & _BITS
    return words ^ (words >> 15)
