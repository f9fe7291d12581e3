"""Read files from untrusted sources: plain data of bounded size."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import yaml

MAX_TEXT_BYTES = 1 << 28
MAX_YAML_VALUES = 1 << 20  # aliases count as often as they are used
# Also what PyYAML raises for a value that does not fit its tag.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is too large, or not UTF-8.
    """
    if path.exists() and not path.is_file():  # reading a pipe or a device may block or never end
        raise OSError(errno.EINVAL, "it is no file", str(path))
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {MAX_TEXT_BYTES:,}")
    return path.read_text(encoding="utf-8")


def from_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_yaml(text: str) -> Any:
    """Parse YAML of text, numbers, lists and mappings.

    Raises:
        ValueError: The text is not YAML, holds other values, or more than `MAX_YAML_VALUES` values.
    """
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except YAML_ERRORS as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    values, seen = [content], 0
    while values:
        value, seen = values.pop(), seen + 1
        if seen > MAX_YAML_VALUES:
            raise ValueError(f"it has more than {MAX_YAML_VALUES:,} values, aliases counted each time")
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value[:40]!r} has a NUL character")
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"expected text, numbers, lists and mappings, got the {type(value).__name__} {value}")
    return content


# A file begins and ends with it. The footer is not read, as it could name the same place again and again.
MAGIC = b"ARROW1"
START = 8  # of the messages
HEADER, CUSTOM, COMPRESSION = 2, 4, 3  # the fields of a message and, the last one, of the batch in its header


def read_plain(file: pa.Buffer, what: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Give the columns of a file and its batches one by one, which lie where the file does.

    Args:
        file: The content.
        what: What to call it in an error.

    Raises:
        ValueError: It does not begin and end as an Arrow file does, or holds something else than plain batches.
        ArrowException: It is damaged.
    """
    if not file[:START].to_pybytes().startswith(MAGIC) or file[-len(MAGIC) :].to_pybytes() != MAGIC:
        raise ValueError(f"{what} does not begin and end as an Arrow file does")
    messages = ipc.MessageReader.open_stream(file.slice(START))
    first = next(messages, None)
    if first is None or first.type != "schema":
        raise ValueError(f"{what} does not begin with its columns")
    columns = ipc.read_schema(first)
    return columns, (_batch(message, columns, what) for message in messages)


def _batch(message: ipc.Message, columns: pa.Schema, what: str) -> pa.RecordBatch:
    if message.type != "record batch":
        raise ValueError(f"{what} holds a {message.type}, expected rows alone")
    if _compressed(message.metadata.to_pybytes()):
        raise ValueError(f"{what} holds rows that are compressed, expected them as they are")
    return ipc.read_record_batch(message, columns)


def _compressed(metadata: bytes) -> bool:
    """Whether the batch of a message names a compression, itself or, as it once was done, beside it."""
    message = _number(metadata, 0, 4)
    header = _field(metadata, message, HEADER)
    batch = header + _number(metadata, header, 4)
    return bool(_field(metadata, batch, COMPRESSION) or _field(metadata, message, CUSTOM))


def _field(metadata: bytes, table: int, field: int) -> int:
    """Where a field of a table lies in a flatbuffer, which Arrow has verified; 0 where it is absent."""
    places = table - int.from_bytes(metadata[table : table + 4], "little", signed=True)
    at = 4 + 2 * field
    place = _number(metadata, places + at, 2) if at < _number(metadata, places, 2) else 0
    return place and table + place


def _number(metadata: bytes, place: int, size: int) -> int:
    return int.from_bytes(metadata[place : place + size], "little")
