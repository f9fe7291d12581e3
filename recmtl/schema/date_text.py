"""Dates and times that were written as text or digits: what they are, and in which format they are written.

A format is one of ``strptime``; ``None`` is ISO 8601.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.io.spellings import FRACTION, ISO_DATE, ISO_TIME, LONGEST_TIME, OFFSET, TIME_OF_DAY, UTC, ZONE, digits_of

DIGIT_FORMATS: Mapping[int, tuple[str, ...]] = {
    8: ("%Y%m%d", "%y%m%d%H"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
}
# How dates are written, and the formats of each, with a hyphen for the sign that stands between their parts.
DATE_FORMS = tuple(
    (re.compile(form), formats)
    for form, formats in (
        (r"[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}", ("%Y-%m-%d",)),
        (r"[0-9]{1,2}([-/.])[0-9]{1,2}\1[0-9]{4}", ("%d-%m-%Y", "%m-%d-%Y")),
        (r"[0-9]{2}([/.])[0-9]{2}\1[0-9]{2}", ("%d-%m-%y", "%m-%d-%y")),
        (r"[0-9]{1,2}([- ])[A-Za-z]{3,9}\1[0-9]{4}", ("%d-%b-%Y", "%d-%B-%Y")),
        (r"[0-9]{1,2}(-)[A-Za-z]{3}\1[0-9]{2}", ("%d-%b-%y",)),
        (r"[A-Za-z]{3,9}( )[0-9]{1,2}, [0-9]{4}", ("%b-%d, %Y", "%B-%d, %Y")),
    )
)
CLOCK, NAME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}", "[A-Za-z]{3}"  # 14:05:00; of a month or a weekday
# How programs write dates with times: web servers, ISO 8601 without signs, mail, `ctime`, file names.
LOG_FORMS = tuple(
    (re.compile(form), written)
    for form, written in (
        (rf"[0-9]{{2}}/{NAME}/[0-9]{{4}}:{CLOCK}", "%d/%b/%Y:%H:%M:%S"),
        (rf"[0-9]{{2}}/{NAME}/[0-9]{{4}}:{CLOCK} [+-][0-9]{{4}}", f"%d/%b/%Y:%H:%M:%S{ZONE}"),
        (r"[0-9]{8}T[0-9]{6}", "%Y%m%dT%H%M%S"),
        (r"[0-9]{8}T[0-9]{6}Z", f"%Y%m%dT%H%M%S{ZONE}"),
        (r"[0-9]{8}_[0-9]{6}", "%Y%m%d_%H%M%S"),
        (rf"{NAME}, [0-9]{{2}} {NAME} [0-9]{{4}} {CLOCK} (GMT|[+-][0-9]{{4}})", f"%a, %d %b %Y %H:%M:%S{ZONE}"),
        (rf"{NAME} {NAME} [ 0-9][0-9] {CLOCK} [0-9]{{4}}", "%a %b %d %H:%M:%S %Y"),
        (rf"{NAME} {NAME} [0-9]{{2}} {CLOCK} \+0000 [0-9]{{4}}", "%a %b %d %H:%M:%S +0000 %Y"),
    )
)
REST = re.compile(
    r"((?P<gap>T|, | +)[0-9]{1,2}:[0-9]{2}(?P<second>:[0-9]{2}([.,][0-9]+)?)?(?P<half>\s*[AaPp][Mm])?)?"
    r"(?P<zone>\s*(Z|UTC|GMT|(UTC|GMT)?[+-][0-9]{2}:?[0-9]{2}))?"
)


def formats_of(text: str) -> list[str | None]:
    """Return the formats in which a text may be a date: with day and month in either order, if it is unknown."""
    values, text = pa.array([text], pa.string()), text.strip()
    found: list[str | None] = [written for form, written in LOG_FORMS if form.fullmatch(text)]
    for form, formats in DATE_FORMS:
        date = form.match(text)
        rest = REST.fullmatch(text, date.end()) if date else None
        if date and rest:
            found += [written.replace("-", date[1]) + _time_format(rest) for written in formats]
    iso: list[str | None] = [None] if re.match(r"[0-9]{4}-", text) else []
    return [written for written in [*iso, *found] if parse_dates(values, written).null_count == 0]


def _time_format(rest: re.Match[str]) -> str:
    """Return the format of what follows a date."""
    gap, half, zone = (rest[name] or "" for name in ("gap", "half", "zone"))
    if not gap:
        return ZONE if zone else ""
    hours = f"%I:%M{':%S' * bool(rest['second'])}{' ' * (half != half.strip())}%p"
    return gap.replace("  ", "") + (hours if half else f"%H:%M{':%S' * bool(rest['second'])}") + ZONE * bool(zone)


def other_order(date_format: str | None) -> str | None:
    """Return a format with day and month in the other order; ``None`` if it does not begin with digits of both."""
    match = re.match(r"(%[dm])([-/.])(%[dm])(?=\2)", date_format or "")
    return None if date_format is None or match is None else f"{match[3]}{match[2]}{match[1]}{date_format[5:]}"


def has_time(date_format: str) -> bool:
    """Return whether a format has a time of day."""
    return "%H" in date_format or "%I" in date_format


def parse_dates(values: pa.StringArray, date_format: str | None) -> pa.TimestampArray:
    """Return text as dates and times, null where it is none ``[values]``.

    Times are local as written: fractions of a second and time zones are dropped. A time of day may lack.
    """
    text = pc.utf8_trim_whitespace(values)
    text = pc.if_else(pc.less_equal(pc.utf8_length(text), LONGEST_TIME), text, None)
    if date_format is None:
        text = pc.replace_substring_regex(pc.replace_substring_regex(text, UTC, ""), ISO_TIME, r"\1")
        return _read(pc.if_else(pc.match_substring_regex(text, ISO_DATE), text, None), "ISO8601")
    if digits := digits_of(date_format):  # else `2024131` is two dates
        text = pc.if_else(pc.match_substring_regex(text, f"^[0-9]{{{digits}}}$"), text, None)
    if date_format.endswith(ZONE):
        text = pc.replace_substring_regex(text, OFFSET, "")
    if "%S" in date_format and "%f" not in date_format:
        text = pc.replace_substring_regex(text, FRACTION, r"\1")
    text = pc.if_else(pc.match_substring_regex(text, r"\d"), text, None)  # pandas parses "now"
    date_format = date_format.removesuffix(ZONE).rstrip()
    times, day = _read(text, date_format), TIME_OF_DAY.sub("", date_format)
    if times.null_count > text.null_count and day != date_format:
        times = pc.coalesce(times, _read(pc.if_else(times.is_null(), text, None), day))
    return times


def _read(text: pa.StringArray, date_format: str) -> pa.TimestampArray:
    times = pd.to_datetime(text.to_pandas(), format=date_format, errors="coerce")
    return pa.Array.from_pandas(times).cast(pa.timestamp("us"), safe=False)


def are_dates(values: pa.StringArray, date_format: str | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which texts are dates in a format ``[values]``."""
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        parse_dates(values, date_format).is_valid().to_numpy(zero_copy_only=False)
    )
    return found
