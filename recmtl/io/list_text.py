"""Lists that were written as text: by Python, NumPy, JSON, DuckDB, Spark or PostgreSQL.

``['Action', 'Drama']``, ``["a", "b"]``, ``[1, 2]``, ``['a' 'b']``, ``[1 2]``, ``[Action, Drama]``, ``('a', 'b')`` and
``{Action,"Sci Fi"}`` are lists. Text in other brackets is not: ``(live)``, ``{1: 2}``.
"""

from __future__ import annotations

import ast
import json
import re
from contextlib import suppress

from recmtl.io.spellings import DECIMAL_NUMBER

BRACKETED = r"(?s)^\s*(\[.*\]|\(.*\)|\{.*\})\s*$"
UNCLOSED = r"""(?s)^\s*\[\s*(['"]|[+-]?[0-9])[^\]]*$"""
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# An element and what ends it: NumPy writes blanks between elements, all others commas.
ELEMENT = re.compile(
    rf"\s*(?:({QUOTED})\s*(?:,|$|(?=['\"]|None|nan|\.\.\.))|((?:None|nan|\.\.\.)(?=\s+['\"]))|([^\s,'\"][^,]*)(?:,|$))",
    re.S,
)
UNIFORM = (re.compile(r"'[^'\\]*'(?:\s*,\s*'[^'\\]*')*"), re.compile(r'"[^"\\]*"(?:\s*,\s*"[^"\\]*")*'))  # by one quote
NUMBER_IN_LIST = re.compile(rf"{DECIMAL_NUMBER}|nan|None")
NO_VALUES = ("None", "null", "NULL", "nan", "NaN")
LEFT_OUT = "..."  # by NumPy, from the middle of a long list


def parse_list(text: str, separator: str | None = None) -> list[str | None] | None:
    """Return the elements of a list that was written as text; ``None`` if the text is no list.

    Args:
        text: The text.
        separator: Text in brackets that has this outside of quotes is no list.

    Raises:
        ValueError: The list is not complete, or holds other lists.
    """
    text = text.strip()
    kind, inner = text[:1], text[1:-1].strip()
    if kind + text[-1:] not in ("[]", "()", "{}"):
        return None
    if not inner:
        return []
    for quote, uniform in zip("'\"", UNIFORM, strict=True):  # most lists, and much faster than by element
        if inner[0] == quote and uniform.fullmatch(inner):
            return [*re.split(rf"{quote}\s*,\s*{quote}", inner[1:-1])]
    found = _quoted_elements(inner) if "'" in inner or '"' in inner else _bare_elements(inner)
    if found is None or (kind != "[" and not _is_list(kind, inner, found)):
        if kind == "[" and inner[0] in "[('\"{":
            raise ValueError("a list of single values")
        return None
    bare = [element for element, quoted in found if not quoted]
    if separator and separator.strip(" ,") and any(separator in element for element in bare):
        return None
    if LEFT_OUT in bare:
        raise ValueError("a whole list: NumPy left out elements")
    return [_unquoted(element) if quoted else None if element in NO_VALUES else element for element, quoted in found]


def _is_list(kind: str, inner: str, found: list[tuple[str, bool]]) -> bool:
    """Return whether text in round or curly brackets is a list: of quoted elements or numbers, or with commas."""
    if kind == "(":
        return inner[0] in "'\"" or (NUMBER_IN_LIST.match(inner) is not None and "," in inner)
    bare = (element for element, quoted in found if not quoted)
    return not any(":" in element for element in bare) and (inner[0] in "'\"" or "," in inner)


def _quoted_elements(inner: str) -> list[tuple[str, bool]] | None:
    """Return elements, some of which are quoted, and whether each one is."""
    found, place = [], 0
    while place < len(inner):
        match = ELEMENT.match(inner, place)
        if match is None or match.end() == place:
            return None
        quoted, none, bare = match.groups()
        bare = bare and bare.rstrip()
        if bare and any(bracket in bare for bracket in "[]{}"):
            return None
        found.append((quoted or none or bare, quoted is not None))
        place = match.end()
    return found


def _bare_elements(inner: str) -> list[tuple[str, bool]] | None:
    """Return elements without quotes: separated by commas, or numbers separated by blanks."""
    if any(bracket in inner for bracket in "[]{}"):
        return None
    parts = [part.strip() for part in inner.removesuffix(",").split(",")]
    words = inner.split()
    if len(parts) == 1 and all(NUMBER_IN_LIST.fullmatch(word) or word == LEFT_OUT for word in words):
        parts = words
    return [(part[:-1] if part[-1:] == "." and part != LEFT_OUT else part, False) for part in parts]


def _unquoted(element: str) -> str:
    """Return the text of a quoted element, which Python or JSON escaped."""
    if "\\" not in element:
        return element[1:-1]
    for read in (json.loads, ast.literal_eval):  # the first fails in single quotes, and for what Python alone escapes
        with suppress(ValueError, SyntaxError):
            return str(read(element))
    return re.sub(r"\\(.)", r"\1", element[1:-1], flags=re.S)
