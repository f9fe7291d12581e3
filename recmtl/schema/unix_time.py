"""Unix time: its units, and which of them numbers are likely to have."""

from __future__ import annotations

from recmtl.io.spellings import TICKS, UNIX_TIME

RECENT = (946_684_800, 2_145_916_800)  # 2000 to 2037, in seconds: the same on any day and by any clock
NARROW = 0.1  # of the latest time, which is 5 years in 2025: amounts vary more
SECONDS_OF_DAY = 86_400


def unix_unit(low: float, high: float) -> str | None:
    """Return the unit in which all numbers of a range are Unix times of 1990 to 2099; ``None`` if there is none."""
    first, last = UNIX_TIME
    return next((unit for unit, ticks in TICKS.items() if first * ticks <= low and high <= last * ticks), None)


def is_recent(low: float, high: float, unit: str) -> bool:
    """Return whether a range in a unit lies in 2000 to 2037 and is narrow against its size."""
    first, last = (limit * TICKS[unit] for limit in RECENT)
    return first <= low and high <= last and high - low <= NARROW * high
