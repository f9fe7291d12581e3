"""What is shown of long work: a bar on a terminal and in notebooks, plain lines in a log, and its numbers."""

from __future__ import annotations

import json
import math
import time
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn

LINE_SECONDS = 10.0  # between two plain lines
FIXED_POINT = 1e-3, 1e6  # the range of numbers that are written with four decimals


class Display:
    """A bar on a terminal and in notebooks, plain lines in a log; a transient bar disappears at the end."""

    def __init__(self, *columns: ProgressColumn, shown: bool = True, transient: bool = False) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        notebook = self._console.is_jupyter and find_spec("ipywidgets") is not None
        self._has_bar = self._console.is_terminal or notebook
        self._bar = Progress(*columns, console=self._console, transient=transient, disable=not self._has_bar)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def note(self, *lines: str) -> None:
        """Show lines that stay."""
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def note_if_due(self, text: str) -> None:
        """Show a plain line if the last one is ten seconds old; the bar shows it instead if there is one."""
        if not self._has_bar and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.note(text)


def decimal(value: float, scale: float | None = None) -> str:
    """Write a number with four decimals; with four digits if it (or `scale`) is very small, seven if very large.

    Example:
        >>> decimal(0.76543), decimal(-12345.67894), decimal(0.000012345), decimal(123456789.0)
        ('0.7654', '-12345.6789', '1.234e-05', '1.234568e+08')
        >>> decimal(0.00012, scale=0.7), decimal(0.7, scale=0.00012)
        ('0.0001', '0.7')
    """
    size = abs(value if scale is None else scale)
    smallest, largest = FIXED_POINT
    if size == 0 or smallest <= size < largest:
        return f"{value:.4f}"
    return f"{value:.4g}" if size < smallest else f"{value:.7g}"


def signed(value: float, *ends: float) -> list[str]:
    """Write a difference, and the ends of its interval, with signs and the digits of the largest, as by `decimal`.

    Example:
        >>> signed(0.0123, -0.00004, 0.02), signed(-1.2e-07, -2.5e-07, 1e-08)
        (['+0.0123', '−0.0000', '+0.0200'], ['−1.2e-07', '−2.5e-07', '+1e-08'])
    """
    scale = max((abs(number) for number in (value, *ends) if not math.isnan(number)), default=0.0)
    return [f"{'−' if number < 0 else '+'}{decimal(abs(number), scale)}" for number in (value, *ends)]


def as_written(value: Any) -> str:
    """Return a value as a YAML file says it, such as ``null``, where it fits into a cell."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
