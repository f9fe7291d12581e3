"""What a prepared dataset consists of: its files, their sizes and checksums, and what was noticed while fitting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recmtl.data.store.shard import ADVICE, Blocks, check_size
from recmtl.errors import DataError
from recmtl.io.files import digest
from recmtl.io.untrusted import from_json, read_text
from recmtl.schema import FittedSchema
from recmtl.schema.serialization import SCHEMA_FILE, VOCABULARY_FILE

MANIFEST = "manifest.json"
VERSION = 3
SPLITS = ("train", "valid", "test")
SEAL = "seal"  # the SHA-256 of all else that the manifest says


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Args:
        version: Of the format.
        fingerprint: Of the fitted schema.
        schema: The bytes and the SHA-256 of each file that holds it.
        splits: The rows of each split, and the blocks of its file.
        notes: What was noticed while fitting.
    """

    version: int
    fingerprint: str
    schema: Mapping[str, tuple[int, str]]
    splits: Mapping[str, tuple[int, Blocks]]
    notes: Sequence[str]

    def __post_init__(self) -> None:
        """Check the content."""
        sound = isinstance(self.fingerprint, str) and set(self.schema) == {SCHEMA_FILE, VOCABULARY_FILE}
        sound = sound and set(self.splits) <= set(SPLITS) and "train" in self.splits
        for rows, blocks in self.splits.values():
            numbers = [rows, *(number for end, checksum in blocks for number in (end, checksum))]
            sound = sound and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) and rows > 0
        if not (sound and all(isinstance(note, str) for note in self.notes)):
            raise ValueError("it is not what a prepared dataset says of itself")


def write_manifest(
    folder: Path, schema: FittedSchema, splits: Mapping[str, tuple[int, Blocks]], notes: Sequence[str]
) -> None:
    """Write `manifest.json` beside the other files, which are there."""
    paths = {name: folder / name for name in (SCHEMA_FILE, VOCABULARY_FILE)}
    files = {name: (path.stat().st_size, digest(path)) for name, path in paths.items()}
    content = asdict(Manifest(VERSION, schema.fingerprint, files, splits, notes))
    (folder / MANIFEST).write_text(json.dumps(content | {SEAL: _seal(content)}, ensure_ascii=False), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`, and check the files of the schema.

    Raises:
        DataError: The folder is no prepared dataset, it is damaged, or was written by another version.
    """
    try:
        content = from_json(read_text(folder / MANIFEST))
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise DataError(f"{str(folder)!r} was prepared by another version: {ADVICE}")
        if content.pop(SEAL, None) != _seal(content):
            raise ValueError("its content is not what its checksum says")
        manifest = Manifest(**content)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{str(folder)!r} is not a prepared dataset: it has no {MANIFEST}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder / MANIFEST} is damaged, {ADVICE}: {error}") from error
    for name, (size, expected) in manifest.schema.items():
        check_size(folder / name, size)
        if digest(folder / name) != expected:
            raise DataError(f"{folder / name} is damaged, {ADVICE}: its content is not what its checksum says")
    return manifest


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
