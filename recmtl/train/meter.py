"""Losses, rows and seconds of a training, counted without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Meter:
    """Sums losses on the device and counts rows and seconds.

    Args:
        names: The names of the losses.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._sum: Tensor | None = None
        self._steps = self._rows = 0
        self._started = time.perf_counter()

    def add(self, losses: Tensor, rows: int) -> None:
        """Add the losses ``[K]`` of a step."""
        self._sum = losses.double() if self._sum is None else self._sum.to(losses.device) + losses
        self._steps += 1
        self._rows += rows

    def take_losses(self) -> dict[str, float]:
        """Give the mean losses since the last call. Waits for the device."""
        mean = (self._sum / self._steps).tolist() if self._sum is not None else []
        self._sum, self._steps = None, 0
        return dict(zip(self._names, mean, strict=False))

    @property
    def rows_per_second(self) -> float:
        """Rows per second since the start, pauses not counted."""
        return self._rows / (time.perf_counter() - self._started)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Give what was counted so far."""
        seconds = time.perf_counter() - self._started
        return {"sum": self._sum, "steps": self._steps, "rows": self._rows, "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from what another one's `state_dict` gave."""
        self._sum, self._steps, self._rows = state["sum"], state["steps"], state["rows"]
        self._started = time.perf_counter() - state["seconds"]
