"""The manifest of an exported model: what is in its folder, and the checksum of each file.

It needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recmtl.errors import DataError

LAYOUT = 1
MANIFEST = "manifest.json"
CHECKSUM = "checksum"  # of all other keys
RUN_FILES = ("recipe.yaml", "checkpoints", "metrics.jsonl")  # by which a run folder is known


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose other files are complete; its fingerprint is a hash of all of them.

    Args:
        folder: The folder.
        content: What the manifest says beside the layout and the files.
    """
    files = {
        path.name: {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    sums = "".join(str(file["sha256"]) for file in files.values())
    head = {"layout": LAYOUT, "fingerprint": hashlib.sha256(sums.encode()).hexdigest()[:16]}
    whole = {**head, **content, "files": files}
    text = json.dumps({**whole, CHECKSUM: content_digest(whole)}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: str | Path, check: bool = True) -> dict[str, Any]:
    """Read the manifest of an exported model, and check its files.

    Args:
        folder: The folder.
        check: Whether to compare the checksum of each file, which reads all of them.

    Raises:
        DataError: The folder is no exported model, has another layout, or a file is missing or damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(_no_model(folder))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        layout, files = content["layout"], dict(content["files"])
    except LookupError:
        raise DataError(f"{str(folder)!r} is no exported model: its {MANIFEST} is that of something else") from None
    except (OSError, ValueError, TypeError, RecursionError):
        raise DataError(f"{str(path)!r} is damaged: copy the whole folder again") from None
    if layout != LAYOUT:
        raise DataError(
            f"{str(folder)!r} is an exported model of layout {layout}, where this version reads {LAYOUT}: export it "
            "again with this version of recmtl"
        )
    if content.get(CHECKSUM) != content_digest(content):
        raise DataError(f"{str(path)!r} is damaged: copy the whole folder again")
    for name, stated in files.items() if check else ():
        check_file(folder, name, stated)
    return dict(content)


def check_file(folder: Path, name: str, stated: Mapping[str, Any]) -> None:
    """Check size and checksum of one file.

    Raises:
        DataError: It is missing or differs.
    """
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise DataError(f"{str(folder)!r} lacks the file {name!r}: copy the whole folder again")
    if file.stat().st_size != stated["bytes"] or file_digest(file) != stated["sha256"]:
        raise DataError(f"{str(file)!r} is damaged: its checksum is not that of the manifest; copy the folder again")


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a manifest says beside its own checksum."""
    said = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_model(folder: Path) -> str:
    if not folder.exists():
        return f"{str(folder)!r} does not exist: give the folder of an exported model"
    if any((folder / name).exists() for name in RUN_FILES):
        return (
            f"{str(folder)!r} is a run folder, expected an exported model: write one with "
            f"`recmtl export {folder} --out model`"
        )
    return f"{str(folder)!r} is no exported model: it has no {MANIFEST}"
