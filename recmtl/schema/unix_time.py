"""Unix time: its units, and which of them numbers are likely to have."""

from __future__ import annotations

from collections.abc import Mapping

UNIX_TIME = (631_152_000, 4_102_444_800)  # 1990 to 2099, in seconds
RECENT = (946_684_800, 2_145_916_800)  # 2000 to 2037, in seconds: the same on any day and by any clock
NARROW = 0.1  # of the latest time, which is 5 years in 2025: amounts vary more
TICKS: Mapping[str, int] = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
SECONDS_OF_DAY = 86_400
NO_TIME = (0, -1)  # what writers put where there is no time


def unix_unit(low: float, high: float) -> str | None:
    """Return the unit in which all numbers of a range are Unix times of 1990 to 2099; ``None`` if there is none."""
    first, last = UNIX_TIME
    return next((unit for unit, ticks in TICKS.items() if first * ticks <= low and high <= last * ticks), None)


def is_recent(low: float, high: float, unit: str) -> bool:
    """Return whether a range in a unit lies in 2000 to 2037 and is narrow against its size."""
    first, last = (limit * TICKS[unit] for limit in RECENT)
    return first <= low and high <= last and high - low <= NARROW * high
