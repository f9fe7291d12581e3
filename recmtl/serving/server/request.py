"""The body of a request: JSON bytes in, rows out, and the error that a client gets in place of scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

MAX_SHOWN = 80  # characters of a client's text in a message
BUSY = "the server has too many requests to answer this one in time"
KEYS = ("rows", "user", "items")
ROWS, CANDIDATES = {"rows"}, {"user", "items"}
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"\s*(:?)')  # of JSON, and the colon behind a name
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        rows: Rows of a request.
        body: Bytes of a request's body.
        bodies: Bytes of the bodies of all requests that are read, wait or are scored, per worker.
        seconds: Time for the headers, for the body, and for the answer.
        waiting: Requests that wait to be scored, per worker.
    """

    rows: int = 10_000
    body: int = 8 << 20
    seconds: float = 10.0
    waiting: int = 256
    bodies: int = 256 << 20


class RefusedError(Exception):
    """A request that is not scored.

    Args:
        status: The HTTP status.
        message: One sentence.
        field: The field that is wrong.
        row: Its row, from 0.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        row: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.row, self.retry_after = status, message, field, row, retry_after

    def body(self) -> bytes:
        """Return the JSON body of the answer."""
        return orjson.dumps({"error": self.message, "field": self.field, "row": self.row})


@dataclass(frozen=True)
class ScoreRequest:
    """Rows to score.

    Args:
        rows: Complete rows, or candidates.
        user: What all candidates share; ``None`` with complete rows.
    """

    rows: Sequence[Row]
    user: Row | None = None


def parse_request(body: bytes, most_rows: int) -> ScoreRequest:
    """Parse the body of a request.

    Raises:
        RefusedError: It is not JSON, not an object with rows, or has too many of them.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RefusedError(422, "the body must be a JSON object with `rows`, or with `user` and `items`")
    request = _read_parts(found, most_rows)
    if not _has_single_names(body, found, request):
        _refuse_repeated_names(body)
    return request


def _read_parts(found: Mapping[str, Any], most_rows: int) -> ScoreRequest:
    """Check the outline of a request: which parts it has, and that each row is an object."""
    for name in found:
        if name not in KEYS:
            shown = shorten(name)
            raise RefusedError(
                422, f"the body has an unknown part {shown!r}: it takes `rows`, or `user` and `items`", shown
            )
    if found.keys() != ROWS and found.keys() != CANDIDATES:
        given = [name for name in KEYS if name in found]
        missing = [name for name in ("user", "items") if name not in found] if len(given) == 1 else [None]
        what = " and ".join(f"`{name}`" for name in given) or "none of them"
        raise RefusedError(422, f"the body must have `rows` alone, or `user` and `items`; it has {what}", missing[0])
    name = "rows" if "rows" in found else "items"
    rows, user = found[name], found.get("user")
    if not isinstance(rows, list):
        raise RefusedError(422, f"`{name}` must be a list of objects, not {kind_of(rows)}", name)
    if len(rows) > most_rows:
        raise RefusedError(413, f"`{name}` has {len(rows):,} rows, and at most {most_rows:,} are taken at once", name)
    if name == "items" and not isinstance(user, dict):
        raise RefusedError(422, f"`user` must be an object, not {kind_of(user)}", "user")
    if any(kind is not dict for kind in set(map(type, rows))):
        number, row = next((number, row) for number, row in enumerate(rows) if type(row) is not dict)
        raise RefusedError(422, f"row {number} of `{name}` must be an object, not {kind_of(row)}", name, number)
    return ScoreRequest(rows, user)


def _has_single_names(body: bytes, found: Mapping[str, Any], request: ScoreRequest) -> bool:
    """Return whether it is certain that no object of a body has a name twice; ``False`` if it must be looked for.

    The names of the text are at least as many as those that were parsed, and each is followed by a colon. As values
    may hold colons, too, those right behind a quote are counted next, then those behind a whole string.
    """
    names = len(found) + len(request.user or ()) + sum(map(len, request.rows))
    return (
        names == body.count(b":")
        or names == body.translate(None, b" \t\n\r").count(b'":')
        or names == STRING.findall(body).count(b":")
    )


def _refuse_repeated_names(body: bytes) -> None:
    """Refuse a body of which an object has a name twice: one of the two values would be ignored.

    Raises:
        RefusedError: There is one.
    """

    def single(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                shown = shorten(name)
                raise RefusedError(400, f"the field {shown!r} stands twice in one object", shown)
            found[name] = value
        return found

    try:
        json.loads(body, object_pairs_hook=single, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON that two readers understand alike") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def shorten(text: str, most: int = MAX_SHOWN) -> str:
    """Return the beginning of a client's text, in characters that can be printed."""
    cut = text if len(text) <= most else f"{text[:most]}…"
    return cut.encode(errors="replace").decode()


def kind_of(value: object) -> str:
    """Return what JSON calls a value of this kind."""
    names = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
