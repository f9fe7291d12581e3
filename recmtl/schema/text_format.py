"""How text stands for values: the words for missing ones, the decimal mark, and the layout of CSV files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.errors import SchemaError
from recmtl.io.list_text import BRACKETED, UNCLOSED
from recmtl.io.spellings import COMMON_NULLS, EXACT_INTEGERS, FLOAT_OF_ID, NO_NUMBER, SCIENTIFIC, NullWords
from recmtl.schema.validation import check_separator

DECIMALS = (".", ",")
TYPED = re.compile(r"\\(?:t|\\|x([0-9a-fA-F]{2}))")  # a character that a shell leaves written out


@dataclass(frozen=True)
class TextFormat:
    r"""How text stands for values, in CSV files and in text columns of other sources.

    Args:
        separator: The column separator of CSV files, perhaps written out as ``\t`` or ``\x01``; ``None`` detects it in
            the header.
        header: The columns of CSV files that have no header line; empty takes the first line of each file.
        nulls: Words for a missing value, in any column; ``None`` takes those of common writers. One that is a number,
            such as ``-999``, stands for it however it is written, and in columns of numbers.
        decimal: The decimal mark of numbers, ``.`` or ``,``.
        escape: The character before a quote within a quoted value, as Spark writes ``\"``; ``None`` expects ``""``.
    """

    separator: str | None = None
    header: Sequence[str] = ()
    nulls: Sequence[str] | None = None
    decimal: str = "."
    escape: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("separator", "escape"):
            object.__setattr__(self, name, typed_character(getattr(self, name)))
            check_separator(self, name)
        if self.escape is not None and self.escape == self.separator:
            raise SchemaError(f"`separator` and `escape` must differ, got {self.escape!r} for both")
        for name in ("header", "nulls"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, list | tuple) and all(isinstance(w, str) for w in value)):
                raise SchemaError(f"`{name}` must be a list of text, got {value!r}")
            object.__setattr__(self, name, value if value is None else tuple(value))
        if self.decimal not in DECIMALS:
            raise SchemaError(f"`decimal` must be '.' or ',', got {self.decimal!r}")
        if self.decimal == self.separator:
            raise SchemaError(f"`separator` and `decimal` must differ, got {self.decimal!r} for both")

    @property
    def null_words(self) -> NullWords:
        """The words for a missing value, the empty one among them."""
        return COMMON_NULLS if self.nulls is None else NullWords(dict.fromkeys(("", *self.nulls)), self.decimal)

    @property
    def with_all_numbers(self) -> TextFormat:
        """The same format of columns that computers wrote, in which no number stands for a missing value."""
        return replace(self, nulls=None if self.nulls is None else self.null_words.others)


TEXT_OPTIONS = tuple(option.name for option in fields(TextFormat))
BACKSLASH, ESCAPED = "\\", re.compile(rb"\\(.)", re.DOTALL)


def keep_null_words(escape: str | None) -> Callable[[bytes], bytes]:
    r"""Return a function that passes the parts of a file on, so that ``\N`` stays a word where a backslash escapes.

    The parts end with an empty one.
    """
    held = b""

    def passed(part: bytes) -> bytes:
        nonlocal held
        text, held = held + bytes(part), b""
        if escape == BACKSLASH and part and (len(text) - len(text.rstrip(b"\\"))) % 2:
            text, held = text[:-1], text[-1:]
        return ESCAPED.sub(lambda m: b"\\\\N" if m[1] == b"N" else m[0], text) if escape == BACKSLASH else text

    return passed


def format_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some options that `TextFormat` has."""
    return {name: options[name] for name in TEXT_OPTIONS if name in options}


def typed_character(text: Any) -> Any:
    r"""Return the character that text such as ``\t`` or ``\x01`` writes out; any other value as it is."""
    if not isinstance(text, str) or TYPED.fullmatch(text) is None:
        return text
    return text.encode("ascii").decode("unicode_escape")


def rounded_ids(values: pa.Array) -> pa.BooleanArray:
    """Return which values are whole numbers that a float no longer tells from their neighbours ``[values]``.

    They are floats of 2⁵³ or more, of less digits in narrower types, or text as such floats are written: also with
    fewer decimals than digits, as spreadsheets write ``1.15292E+18``.
    """
    if pa.types.is_floating(values.type):
        largest = float(EXACT_INTEGERS[values.type.bit_width])
        size = pc.abs(values.cast(pa.float64()))
        return pc.and_(pc.greater_equal(size, largest), pc.is_finite(size)).fill_null(False)
    none = pa.array(np.zeros(len(values), np.bool_))
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return none
    written = pc.match_substring_regex(values, FLOAT_OF_ID).fill_null(False)
    if not pc.any(written).as_py():
        return none
    floats, parts = pc.if_else(written, values, None).cast(pa.float64()), pc.extract_regex(values, SCIENTIFIC)
    exponent = pc.if_else(written, pc.struct_field(parts, "exponent"), None).cast(pa.int64())
    cut = pc.less(pc.utf8_length(pc.struct_field(parts, "decimals")).cast(pa.int64()), exponent)
    return pc.or_(pc.greater_equal(pc.abs(floats), float(EXACT_INTEGERS[64])).fill_null(False), cut.fill_null(False))


def with_decimal_point(text: pa.Array, decimal: str) -> pa.Array:
    """Return text with a point in place of another decimal mark; a point in it then makes it no number."""
    if decimal == ".":
        return text
    return pc.replace_substring(pc.replace_substring(text, ".", NO_NUMBER), decimal, ".")


def bracketed(text: pa.StringArray) -> pa.BooleanArray:
    """Return which values stand in brackets and may be lists, null where a value is missing."""
    return pc.match_substring_regex(text, BRACKETED)


def unclosed(text: pa.StringArray) -> pa.BooleanArray:
    """Return which values begin as a list of quoted elements or numbers and have no closing bracket."""
    return pc.match_substring_regex(text, UNCLOSED)


PLAIN_TEXT = TextFormat()
