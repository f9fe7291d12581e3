"""Backward passes that forks let through by the chain rule, without balancing."""

from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0  # of the blocks; not thread-local: autograd uses threads of its own for some devices


@contextmanager
def bypass_forks() -> Iterator[None]:
    """Let gradients pass all forks by the chain rule within the block, without balancing; no state changes."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def forks_are_bypassed() -> bool:
    """Return whether a block of `bypass_forks` is open."""
    return _depth > 0
