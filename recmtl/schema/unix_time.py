"""Unix time: its units, and which of them numbers are likely to have."""

from __future__ import annotations

from collections.abc import Mapping

UNIX_TIME = (631_152_000, 4_102_444_800)  # 1990 to 2099, in seconds
TICKS: Mapping[str, int] = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
SECONDS_OF_DAY = 86_400
NO_TIME = (0, -1)  # what writers put where there is no time


def unix_unit(low: float, high: float) -> str | None:
    """Return the unit in which all numbers of a range are Unix times of 1990 to 2099; ``None`` if there is none."""
    first, last = UNIX_TIME
    return next((unit for unit, ticks in TICKS.items() if first * ticks <= low and high <= last * ticks), None)
