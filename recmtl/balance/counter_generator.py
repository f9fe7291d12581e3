"""Random numbers whose state is a seed and a counter."""

import math

import torch
from torch import Tensor, nn

from recmtl.balance.constructor_checks import check_integer

_BITS = 0xFFFFFFFF  # of a random word: its products with the factors below stay under 2⁶³


class CounterGenerator(nn.Module):
    """A generator of random numbers whose state is a seed and a counter.

    It uses no global generator, draws the same on any device, and does not wait for the device. A draw stays the same
    until `advance`.

    Example:
        >>> import torch
        >>> generator = CounterGenerator(seed=0)
        >>> first = generator.uniform(count=3)
        >>> bool(((first > 0) & (first < 1)).all())
        True
        >>> generator.advance(torch.tensor(True))
        >>> bool((generator.uniform(count=3) == first).any())
        False
    """

    generator: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        check_integer("seed", seed, least=0)
        if seed > _BITS:
            raise ValueError(f"`seed` must be below 2**32, got {seed}")
        self.register_buffer("generator", torch.tensor([seed, 0]))  # the seed, and the number of draws

    def words(self, count: int) -> Tensor:
        """Return so many different random words of 32 bits, int64 `[count]`."""
        seed, drawn = self.generator.unbind()
        start = _hashed(_hashed(seed) ^ (drawn & _BITS))
        places = torch.arange(count, device=self.generator.device)
        return _hashed((start + places) & _BITS)

    def uniform(self, count: int) -> Tensor:
        """Return so many uniform numbers between 0 and 1, both excluded, float64 `[count]`."""
        return (self.words(count).double() + 0.5) * 2.0**-32

    def normal(self, count: int) -> Tensor:
        """Return so many normal numbers, float64 `[count]`, by the method of Box and Muller."""
        radius, angle = self.uniform(2 * count).view(2, count).unbind()
        return (-2.0 * radius.log()).sqrt() * (2.0 * math.pi * angle).cos()

    def advance(self, used: Tensor) -> None:
        """Move on to the next numbers if these were `used`, bool `[]`: if any task was present."""
        self.generator[1] += used


class RandomOrders(CounterGenerator):
    """A generator of random task orders.

    Example:
        >>> import torch
        >>> orders = RandomOrders(seed=0)
        >>> orders(tasks=3).sort(1).values[0]  # each row is a permutation of all tasks
        tensor([0, 1, 2])
        >>> first = orders(tasks=8)
        >>> orders.advance(torch.tensor(True))
        >>> bool((orders(tasks=8) == first).all())
        False
    """

    def forward(self, tasks: int) -> Tensor:
        """Return the orders of the next step, int64 `[K, K]`: one of all tasks per row; `advance` changes them."""
        return self.words(tasks * tasks).view(tasks, tasks).argsort(1)  # [K, K]


def _hashed(words: Tensor) -> Tensor:
    """Hash 32-bit words, held in int64, one to one."""
    words = (words ^ (words >> 16)) * 0x21F0AAAD & _BITS
    words = (words ^ (words >> 15)) * 0x735A2D97 & _BITS
    return words ^ (words >> 15)
