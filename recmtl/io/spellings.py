"""How values are spelled in text: what training and the reader of an exported model both go by.

The patterns mean the same to Python and to Arrow; this file needs the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Self

# Text read as missing in any column: what pandas, Polars, DuckDB, Spark, Hive, R and databases write.
NULLS = ("", "nan", "NaN", "null", "NULL", "None", "NA", "<NA>", "\\N")
# Further words for a missing number; as a category they are text like any other.
MISSING_NUMBERS = (*NULLS, "N/A", "n/a", "#N/A", "none", "Null", "-", "?")
NAN_SPELLINGS = ("nan", "+nan", "-nan")  # numbers to Arrow, missing to us
TRUTH_VALUES = {"true": 1.0, "false": 0.0}  # in text, as booleans are numbers
NO_NUMBER = "\u00b7"  # in place of a point in numbers that have a decimal comma: `1.234` is then no number
NUMBER = "a number"
FINITE = "a finite number"
# Of a regular expression; no character can be read in two ways, so that a search takes linear time.
DECIMAL_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

# A word that stands for a number however it is written; a float holds its digits.
PLAIN_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,307}|-0(?=\.0*[1-9]))(?:\.([0-9]+))?")

WHOLE_NUMBER = r"^(-?[0-9]+)\.0+$"
SPELLINGS = ((WHOLE_NUMBER, r"\1"), (r"^True$", "true"), (r"^False$", "false"))  # how pandas writes values
FLOAT_OF_ID = r"^-?([0-9]{16,22}\.0+|[0-9]\.[0-9]+[eE]\+?(1[1-9]|2[0-9]))$"  # spreadsheets begin at 12 digits
SCIENTIFIC = r"^-?[0-9]\.(?P<decimals>[0-9]+)[eE]\+?(?P<exponent>[0-9]+)$"
EXACT_INTEGERS = {16: 2**11, 32: 2**24, 64: 2**53}  # from which on floats of so many bits stand for several integers
ROUNDED = (
    "an exact id: it went through a float or a spreadsheet, which do not tell such numbers apart; "
    "write ids as text or integers"
)
ONE_CATEGORY = "one category: a column of lists is a `multi_categorical` feature"
UNCLOSED_LIST = "a whole list: its closing bracket is missing"

ZONE = "%z"  # of a strptime format
LONGEST_TIME = 128  # characters of a date or time; the patterns below take quadratic time
ISO_DATE = r"^[0-9]{4}-?[0-9]{2}-?[0-9]{2}([T ][^+-]*)?$"  # with or without a time, whose offset has been dropped
ISO_TIME = r"([T ][0-9:]+)([.,][0-9]+)?\s*(Z|(UTC|GMT)?[+-][0-9]{1,2}(:?[0-9]{2})?)?$"  # drops fraction and offset
UTC = r"\s*(Z|UTC|GMT)$"
OFFSET = r"\s*(Z|UTC|GMT|(UTC|GMT)?[+-][0-9]{2}:?[0-9]{2})$"
FRACTION = r"(:[0-9]{2})[.,][0-9]+"  # of a second
TIME_OF_DAY = re.compile(r"[T ,]+%[HI].*$")  # of a format
DIGITS_OF: Mapping[str, int] = {"%Y": 4, "%y": 2, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2}
UNIX_TIME = (631_152_000, 4_102_444_800)  # 1990 to 2099, in seconds
TICKS: Mapping[str, int] = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
NO_TIME = (0, -1)  # what writers put where there is no time
# The end of the year 9999; of nanoseconds, the last that 64 bits hold.
LATEST: Mapping[str, int] = {
    "seconds": 253_402_300_799,
    "milliseconds": 253_402_300_799_999,
    "microseconds": 253_402_300_799_999_999,
    "nanoseconds": 2**63 - 1024,
}


def digits_of(date_format: str | None) -> int:
    """Return the number of digits of a format that consists of digits alone, such as ``%Y%m%d``; 0 for any other."""
    parts = re.findall(r"%.|[^%]+", date_format or "")
    return sum(DIGITS_OF[part] for part in parts) if set(parts) <= set(DIGITS_OF) else 0


class NullWords(tuple[str, ...]):
    """Words for a missing value. One that is a number stands for it, as a value and however text spells it.

    ``-999`` also stands for ``-999.0``, and for the integer and the float in a table that has types.

    Args:
        words: The words.
        decimal: The decimal mark of numbers in text.

    Attributes:
        decimal: The decimal mark.
        others: Those that are no numbers.
        numbers: Those that are numbers, the whole ones as integers.
        spellings: A regular expression of how text spells these in columns of text; ``None`` if there are none.
    """

    decimal: str
    others: tuple[str, ...]
    numbers: frozenset[int | float]
    spellings: str | None

    def __new__(cls, words: Iterable[str] = NULLS, decimal: str = ".") -> Self:
        """Find the numbers among some words."""
        own = super().__new__(cls, words)
        own.decimal = decimal
        found = {word: match for word in own if (match := PLAIN_NUMBER.fullmatch(word.replace(decimal, ".")))}
        parts = [(match[1], (match[2] or "").rstrip("0")) for match in found.values()]
        own.others = tuple(word for word in own if word not in found)
        values = (float(f"{whole}.{rest}") if rest else int(whole) for whole, rest in parts)
        own.numbers = frozenset(value if abs(value) < 2**64 else float(value) for value in values)
        marks = re.escape(decimal) if decimal == "." else f"[.{decimal}]"
        spelled = (rf"{whole}{marks}{rest}0*" if rest else rf"{whole}(?:{marks}0*)?" for whole, rest in parts)
        own.spellings = f"^(?:{'|'.join(spelled)})$" if parts else None
        return own

    def __contains__(self, value: object) -> bool:
        """Return whether text or a number stands for a missing value."""
        if isinstance(value, str):
            return super().__contains__(value) or bool(self.spellings and re.fullmatch(self.spellings, value))
        try:
            if isinstance(value, Decimal):
                value = float(value)
            elif getattr(value, "itemsize", 8) < 8:  # a number of NumPy, which its text tells exactly
                value = float(str(value))
            return value in self.numbers
        except (TypeError, ValueError):  # it has no hash, as a list, or is a NaN that signals
            return False


COMMON_NULLS = NullWords()
