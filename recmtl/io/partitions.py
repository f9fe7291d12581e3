"""A folder of daily or hourly partitions as rows: the files of the days from one to another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from recmtl.errors import DataError
from recmtl.io.location import Location, expand, public_name

# A month, a day or an hour: 2024-01, 2024-01-31, 20240131, 2024-01-31T05, 2024-01-31-05, 2024-01-31 05:00:00.
MOMENT = re.compile(r"(\d{4})(?:-(\d\d)|-?(\d\d)-?(\d\d)(?:[T -]?(\d\d)(?::?00){0,2}(?:\.0+)?)?)")
DATES, CALENDAR, HOURS = ("date", "dt"), ("year", "month", "day"), ("hour", "hr")  # the usual keys
FORMS = "such as 2024-01-31, 20240131, 2024-01-31T05 or 2024-01"


class Span(NamedTuple):
    """The time that a partition or a bound stands for: from `start` to before `end`."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> Span | None:
        """Return the month, day or hour that a text names; ``None`` if it is none."""
        found = MOMENT.fullmatch(text)
        if found is None:
            return None
        year, month, other, day, hour = found.groups()
        return cls.of(year, month or other, day, hour)

    @classmethod
    def of(cls, year: str, month: str | None, day: str | None, hour: str | None) -> Span | None:
        """Return a year, or a month, day or hour of it; ``None`` if there is none of these numbers."""
        try:
            start = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0))
        except ValueError:
            return None
        if hour is not None:
            return cls(start, start + timedelta(hours=1))
        if day is not None:
            return cls(start, start + timedelta(days=1))
        years, months = divmod(start.month if month is not None else 12, 12)
        return cls(start, start.replace(year=start.year + years, month=months + 1))

    def __str__(self) -> str:
        length = self.end - self.start
        form = "%Y-%m-%dT%H" if length < timedelta(days=1) else "%Y-%m-%d" if length < timedelta(days=2) else "%Y-%m"
        return self.start.strftime(form)


@dataclass(frozen=True)
class Partitions:
    """The rows of a folder of partitions from one day, month or hour to another, both included.

    Folders are named like ``date=2024-01-31``, also with ``hour=05`` in it, or ``year=2024/month=01/day=31``. Those of
    rows without a date (``date=__HIVE_DEFAULT_PARTITION__``) are left out.

    Args:
        place: The folder, or a glob: a path or URI.
        since: The first day (``2024-01-01``), month (``2024-01``) or hour (``2024-01-01T05``); ``None``: the earliest.
        until: The last one; ``None``: the latest.
        key: The key of the folders, ``date`` in ``date=2024-01-31``; ``None``: the only one with dates.

    Raises:
        DataError: A bound is no day, month or hour, or `since` is after `until`.
    """

    place: str | Path
    since: str | None = None
    until: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        first, last = self._bounds
        if first and last and first.start >= last.end:
            raise DataError(f"`since` {self.since} is after `until` {self.until}")

    @property
    def name(self) -> str:
        """The place without options and credentials."""
        return public_name(self.place)

    @property
    def _bounds(self) -> tuple[Span | None, Span | None]:
        found = []
        for name, text in (("since", self.since), ("until", self.until)):
            span = None if text is None else Span.parse(str(text))
            if text is not None and span is None:
                raise DataError(f"`{name}` must be a day, a month or an hour, {FORMS}, got {str(text)!r}")
            found.append(span)
        return found[0], found[1]

    def files(self) -> list[Location]:
        """Return the files in the range, by time and then by path.

        Raises:
            DataError: There are none, a file lies in no folder of a date, or a folder is partly in the range.
        """
        return [location for location, _ in self._dated()]

    def by_day(self) -> dict[str, list[Location]]:
        """Return the files of each day in the range, in order; of each month, if folders are those of months."""
        found: dict[str, list[Location]] = {}
        for location, span in self._dated():
            found.setdefault(str(span)[: len("2024-01-31")], []).append(location)
        return found

    def days(self) -> list[str]:
        """Return the days in the range, in order, such as ``["2024-01-01"]``; months, if folders have months."""
        return list(self.by_day())

    def date_keys(self) -> list[str]:
        """Return the keys of the folders that say the day, such as ``["date"]``, or ``["year", "month", "day"]``."""
        keys = self._dated()[0][0].part_keys
        found = [key for key, text in keys.items() if text and Span.parse(text)] if self.key is None else [self.key]
        return found or [key for key in CALENDAR if key in keys]

    def missing(self) -> list[str]:
        """Return the days in the range that have no folder, unless folders are those of hours or months."""
        found, (first, last) = {span for _, span in self._dated()}, self._bounds
        day = timedelta(days=1)
        if any(span.end - span.start != day for span in found):
            return []
        start = first.start if first else min(found).start
        end = last.end if last else max(found).end
        days = (Span(start + i * day, start + (i + 1) * day) for i in range((end - start).days))
        return [str(span) for span in days if span not in found]

    def _dated(self) -> list[tuple[Location, Span]]:
        first, last = self._bounds
        outside: list[Span] = []

        def wanted(keys: Mapping[str, str | None], folder: str) -> bool:
            """Whether a folder has rows in the range, as far as its keys say."""
            span = self._span(keys, folder)
            inside = span is None or not ((first and span.end <= first.start) or (last and span.start >= last.end))
            if span is not None and not inside:
                outside.append(span)
            return inside

        dated: list[tuple[Location, Span]] = []
        for location in expand(self.place, wanted):
            span = self._span(location.part_keys, location.name)
            if span is None and None in location.part_keys.values():
                continue  # rows without a date
            if span is None:
                named = f"{self.key}=2024-01-31" if self.key else "its date, such as date=2024-01-31"
                raise DataError(f"{location.name!r} lies in no folder named by {named}: `since` and `until` need one")
            if (first and span.start < first.start) or (last and span.end > last.end):
                if not wanted(location.part_keys, location.name):
                    continue
                raise DataError(
                    f"{location.name!r} has rows from {span.start:%Y-%m-%dT%H} to before {span.end:%Y-%m-%dT%H}, "
                    "which are partly out of the range: choose whole folders by `since` and `until`"
                )
            dated.append((location, span))
        if not dated:
            raise self._none_found(outside)
        return sorted(dated, key=lambda found: found[1])  # they are sorted by path already

    def _none_found(self, outside: Sequence[Span]) -> DataError:
        bounds = f"from {self.since}" if self.since else ""
        bounds += f"{' ' if bounds else ''}until {self.until}" if self.until else ""
        if not outside:
            return DataError(f"{self.name!r} holds no files {bounds}".rstrip())
        return DataError(
            f"{self.name!r} holds no files {bounds}: its folders are from {min(outside)} to {max(outside)}"
        )

    def _span(self, keys: Mapping[str, str | None], name: str) -> Span | None:
        """Return the time that the keys of a path stand for; ``None`` if they have no date, or a missing one."""
        if self.key is not None:
            text = keys.get(self.key)
            span = None if text is None else Span.parse(text)
            if text is not None and span is None:
                raise DataError(f"{name!r}: {text!r} is no date, {FORMS}")
        else:
            found = {key: span for key, text in keys.items() if text is not None and (span := Span.parse(text))}
            if len(found) > 1:
                raise DataError(f"{name!r} has several keys with dates: name one of {', '.join(found)} (`date_key`)")
            wrong = None if found else next((text for key in DATES if (text := keys.get(key))), None)
            if wrong:
                raise DataError(f"{name!r}: {wrong!r} is no date, {FORMS}")
            span = next(iter(found.values()), None) or _calendar(keys)
        hour = next((text for key in HOURS if (text := keys.get(key))), None)
        if span is None or hour is None or span.end - span.start != timedelta(days=1):
            return span
        within = Span.of(f"{span.start:%Y}", f"{span.start:%m}", f"{span.start:%d}", hour) if hour.isdecimal() else None
        if within is None:
            raise DataError(f"{name!r}: {hour!r} is no hour from 0 to 23")
        return within


def _calendar(keys: Mapping[str, str | None]) -> Span | None:
    """Return the time of keys such as ``year=2024/month=01/day=31``, also of the first of them alone."""
    year, month, day = (keys.get(key) for key in CALENDAR)
    if year is None or not year.isdecimal() or len(year) != 4:
        return None
    month = month if month and month.isdecimal() else None
    return Span.of(year, month, day if month and day and day.isdecimal() else None, None)


def public_name_of(data: str | Path | Partitions) -> str:
    """Return the name of rows without credentials and options."""
    return data.name if isinstance(data, Partitions) else public_name(data)


def files_of(data: str | Path | Partitions) -> list[Location]:
    """Return the files of a path, folder, glob or range of partitions, as `expand` and `Partitions.files` do."""
    return data.files() if isinstance(data, Partitions) else expand(data)
