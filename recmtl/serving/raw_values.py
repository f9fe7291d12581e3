"""One raw value of a request at a time: to text, to a number, to a list, to a time, as training reads columns of them.

It needs the standard library and NumPy alone, as it is part of the reader that is shipped with an exported model.
"""

from __future__ import annotations

import datetime
import itertools
import math
import re
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from recmtl.io.list_text import BRACKETED, UNCLOSED, parse_list
from recmtl.io.spellings import (
    DECIMAL_NUMBER,
    EXACT_INTEGERS,
    FINITE,
    FLOAT_OF_ID,
    FRACTION,
    ISO_DATE,
    ISO_TIME,
    LATEST,
    LONGEST_TIME,
    MISSING_NUMBERS,
    NAN_SPELLINGS,
    NO_NUMBER,
    NO_TIME,
    OFFSET,
    ONE_CATEGORY,
    ROUNDED,
    SCIENTIFIC,
    TICKS,
    TIME_OF_DAY,
    TRUTH_VALUES,
    UNCLOSED_LIST,
    UNIX_TIME,
    UTC,
    WHOLE_NUMBER,
    ZONE,
    digits_of,
)

NOTHING = ("NAType", "NaTType")  # the classes of missing values of pandas
A_NUMBER, A_TEXT, AN_INTEGER = "a number", "text in UTF-8", "an integer of 64 bits"
_DECIMAL_NUMBER = re.compile(DECIMAL_NUMBER)
INFINITE = re.compile(r"[+-]?inf(inity)?", re.I)
ISO = re.compile(
    r"(?P<year>[0-9]{4})(?P<sign>-?)(?P<month>[0-9]{2})(?P=sign)(?P<day>[0-9]{2})([T ]("
    r"(?P<digits>([0-9]{2}){1,3})|(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})(:(?P<second>[0-9]{1,2}))?))?"
)
NANOSECONDS = re.compile(r"([.,][0-9]{6})[0-9]{1,3}(?![0-9])")
DAYS_OF_400_YEARS, EPOCH = 146_097, datetime.date(1970, 1, 1).toordinal()
_WHOLE, _FLOAT_OF_ID, _SCIENTIFIC = re.compile(WHOLE_NUMBER), re.compile(FLOAT_OF_ID), re.compile(SCIENTIFIC)
_BRACKETED, _UNCLOSED = re.compile(BRACKETED, re.A), re.compile(UNCLOSED, re.A)
_UTC, _ISO_TIME, _ISO_DATE, _OFFSET, _FRACTION = (
    re.compile(pattern, re.A) for pattern in (UTC, ISO_TIME, ISO_DATE, OFFSET, FRACTION)
)


class UnreadableError(ValueError):
    """A value that does not parse; the text is what would be accepted."""


def text_of(value: Any, nulls: Container[Any], ids: bool = True) -> str | None:
    """Return a category as text, ``None`` if it is missing; with `ids`, refuse floats that stand for several integers.

    Integers are written exactly, whole floats as integers, booleans as ``true`` and ``false``, and text that spells one
    of these alike.
    """
    if isinstance(value, str):
        return None if value in nulls else _canonical(value, ids)
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return None if value in nulls else str(_checked(int(value)))
    if isinstance(value, float | np.floating):
        return None if value in nulls else _float_text(value, ids)
    if isinstance(value, bytes):
        return text_of(_decoded(value), nulls, ids)
    if isinstance(value, Decimal) and not value.is_snan():
        return None if value.is_nan() or value in nulls else _canonical(format(value, "f"), ids)
    if type(value).__name__ in NOTHING:
        return None
    if isinstance(value, datetime.datetime):
        zone = value.strftime("%z")
        return f"{value.replace(tzinfo=None).isoformat(' ', 'microseconds')}{'Z' if zone == '+0000' else zone}"
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise UnreadableError(ONE_CATEGORY)


def _canonical(text: str, ids: bool) -> str:
    if "." in text:
        if ids and _is_rounded(text):
            raise UnreadableError(ROUNDED)
        whole = _WHOLE.fullmatch(text)
        return whole[1] if whole else text
    if text == "True" or text == "False":
        return text.lower()
    if not text.isascii():
        _check_text(text)
    return text


def _check_text(text: str) -> None:
    """Refuse text that holds half of a surrogate pair, as JSON may write it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnreadableError(A_TEXT) from None


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnreadableError(A_TEXT) from None


def _is_rounded(text: str) -> bool:
    """Return whether text is a float that stands for several integers, or has fewer decimals than digits."""
    if _FLOAT_OF_ID.fullmatch(text) is None:
        return False
    parts = _SCIENTIFIC.fullmatch(text)
    cut = parts is not None and len(parts["decimals"]) < int(parts["exponent"])
    return cut or abs(float(text)) >= EXACT_INTEGERS[64]


def _checked(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise UnreadableError(AN_INTEGER)
    return value


def _float_text(value: float | np.floating[Any], ids: bool) -> str | None:
    bits = value.dtype.itemsize * 8 if isinstance(value, np.floating) else 64
    number = float(value) if bits == 64 else float(str(np.float32(value)))
    if ids and EXACT_INTEGERS[min(bits, 64)] <= abs(number) < math.inf:
        raise UnreadableError(ROUNDED)
    if number != number:
        return None
    if number.is_integer() and abs(number) < 2.0**63:
        return str(int(value))
    return _shortest(number)


def _shortest(number: float) -> str:
    """Return a number that is not whole as Arrow writes it: with an exponent below 1e-6 and from 1e10."""
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    places = len(digits) + int(exponent) - 1  # of the exponent
    if -6 <= places < 10:
        return format(Decimal(repr(number)).normalize(), "f")
    first, *others = map(str, digits)
    mantissa = first + "." * bool(others) + "".join(others)
    return f"{'-' * sign}{mantissa}e{places:+d}" if places > 0 else f"{'-' * sign}{mantissa}e{places:d}"


def number_of(value: Any, nulls: Container[Any], decimal: str = ".") -> float:
    """Return a finite number, NaN if it is missing."""
    if isinstance(value, str):
        number = _parse_number(value, nulls, decimal)
    elif isinstance(value, bytes):
        number = _parse_number(_decoded(value), nulls, decimal)
    elif value is None or type(value).__name__ in NOTHING:
        return math.nan
    elif isinstance(value, bool | np.bool_):
        return float(value)
    elif isinstance(value, int | np.integer | float | np.floating | Decimal):
        number = math.nan if value in nulls else _float_of(value)
    else:
        raise UnreadableError(A_NUMBER)
    if math.isinf(number):
        raise UnreadableError(FINITE)
    return number


def _float_of(value: Any) -> float:
    if isinstance(value, Decimal) and value.is_snan():
        raise UnreadableError(A_NUMBER)
    with suppress(OverflowError):
        return float(value)
    return math.inf  # an integer of more digits


def _parse_number(text: str, nulls: Container[Any], decimal: str) -> float:
    if text in nulls:
        return math.nan
    pointed = text if decimal == "." else text.replace(".", NO_NUMBER).replace(decimal, ".")
    if pointed in MISSING_NUMBERS:
        return math.nan
    word = pointed.strip()
    if _DECIMAL_NUMBER.fullmatch(word):
        return math.nan if (number := float(word)) in nulls else number
    word = word.lower()
    if word in TRUTH_VALUES:
        return TRUTH_VALUES[word]
    if word in NAN_SPELLINGS:
        return math.nan
    if INFINITE.fullmatch(word):
        return math.inf
    raise UnreadableError(A_NUMBER)


def elements_of(value: Any, separator: str, nulls: Container[Any]) -> list[Any]:
    """Return the elements of a list, which may be text: split at the separator, or written as Python or JSON do.

    They are not yet text; text among them is stripped, and missing elements are left in.
    """
    if isinstance(value, list | tuple):
        found = value
    elif isinstance(value, np.ndarray) and value.ndim == 1:
        found = list(value)
    else:
        text = text_of(value, nulls)
        return [] if text is None else [part.strip() for part in _split(text, separator)]
    return [element.strip() if isinstance(element, str) else element for element in found]


def _split(text: str, separator: str) -> list[str]:
    if _UNCLOSED.match(text):
        raise UnreadableError(UNCLOSED_LIST)
    if _BRACKETED.fullmatch(text):
        try:
            found = parse_list(text, separator)
        except ValueError as error:
            raise UnreadableError(str(error)) from None
        if found is not None:
            return [element for element in found if element is not None]
    return text.split(separator)


def seconds_of(value: Any, nulls: Container[Any], parse: Callable[[str], int | None]) -> int | None:
    """Return the second of a date or time since 1970, local as written; ``None`` if it is missing."""
    if isinstance(value, datetime.date) and type(value).__name__ not in NOTHING:
        clock = value.hour * 3600 + value.minute * 60 + value.second if isinstance(value, datetime.datetime) else 0
        return (value.toordinal() - EPOCH) * 86_400 + clock
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else int(value.astype("M8[s]").astype(np.int64))
    text = text_of(value, nulls, ids=False)
    return None if text is None else parse(text)


def time_parser(date_format: str | None) -> Callable[[str], int | None]:
    """Return a function from text in a format to seconds since 1970; ``None`` for words that stand for no time."""
    unix = TICKS.get(date_format or "")
    words = {*map(str, NO_TIME), *MISSING_NUMBERS} if unix or digits_of(date_format) else ()
    parse = _parse_iso if date_format is None else _unix_parser(date_format) if unix else _format_parser(date_format)

    def read(text: str) -> int | None:
        if text in words:
            return None
        if len(text.strip()) > LONGEST_TIME:
            raise _expected_time(date_format)
        return parse(text)

    return read


def _expected_time(date_format: str | None) -> UnreadableError:
    if date_format in TICKS:
        return UnreadableError(f"a Unix time in {date_format}")
    return UnreadableError(f"a date in the format {date_format!r}" if date_format else "an ISO 8601 date")


def _parse_iso(given: str) -> int:
    text = _ISO_TIME.sub(r"\1", _UTC.sub("", given.strip()))
    match = ISO.fullmatch(text) if _ISO_DATE.match(text) else None
    if match is None:
        raise _expected_time(None)
    digits = match["digits"]
    clock = [digits[i : i + 2] for i in (0, 2, 4)] if digits else match.group("hour", "minute", "second")
    seconds = _seconds(*map(int, match.group("year", "month", "day")), *(int(part or 0) for part in clock))
    if seconds is None:
        raise _expected_time(None)
    return seconds


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Return the seconds since 1970 of a time in the Gregorian calendar, ``None`` if there is none like it."""
    if not (hour < 24 and minute < 60 and second < 60):
        return None
    cycles = 0 if year else 1  # the year 0 is like the year 400
    try:
        days = datetime.date(year + 400 * cycles, month, day).toordinal() - DAYS_OF_400_YEARS * cycles
    except ValueError:
        return None
    return (days - EPOCH) * 86_400 + hour * 3600 + minute * 60 + second


def _format_parser(date_format: str) -> Callable[[str], int]:
    digits, zoned = digits_of(date_format), date_format.endswith(ZONE)
    short = date_format.removesuffix(ZONE).rstrip()
    formats = dict.fromkeys((short, TIME_OF_DAY.sub("", short)))
    whole, exact = "%S" in date_format and "%f" not in date_format, "%f" in date_format

    def parse(given: str) -> int:
        text = given.strip()
        text = _OFFSET.sub("", text) if zoned else text
        text = _FRACTION.sub(r"\1", text) if whole else NANOSECONDS.sub(r"\1", text) if exact else text
        if digits and not re.fullmatch(f"[0-9]{{{digits}}}", text):
            raise _expected_time(date_format)
        if date_format.startswith("%Y") and text.startswith("0000"):  # a leap year, as 400 is, to pandas
            text = f"0400{text[4:]}"
        for known in formats:
            with suppress(ValueError):
                found = time.strptime(text, known)
                days = datetime.date(*found[:3]).toordinal() - EPOCH
                return days * 86_400 + found.tm_hour * 3600 + found.tm_min * 60 + found.tm_sec
        raise _expected_time(date_format)

    return parse


def _unix_parser(unit: str) -> Callable[[str], int]:
    smaller = [TICKS[name] for name in itertools.takewhile(lambda name: name != unit, TICKS)]

    def parse(text: str) -> int:
        word = text.strip(" \t\n\r\v\f")
        number = float(word) if _DECIMAL_NUMBER.fullmatch(word) else math.nan
        wrong = any(UNIX_TIME[0] * ticks <= number <= UNIX_TIME[1] * ticks for ticks in smaller)
        if wrong or not abs(number) <= LATEST[unit]:
            raise _expected_time(unit)
        return int(number) // TICKS[unit]

    return parse


def calendar_parts(seconds: int) -> Mapping[str, int]:
    """Return the parts of a time, each counted from 0."""
    days, clock = divmod(seconds, 86_400)
    date = datetime.date.fromordinal((days + EPOCH - 1) % DAYS_OF_400_YEARS + 1)  # weekdays and months recur, too
    return {
        "minute": clock // 60 % 60,
        "hour": clock // 3600,
        "weekday": date.weekday(),
        "day": date.day - 1,
        "month": date.month - 1,
        "quarter": (date.month - 1) // 3,
    }
