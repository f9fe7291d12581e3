"""The folder of generated files: they appear when all are complete, and replace generated files alone."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmtl.errors import ExistsError
from recmtl.io.files import check_local

CARD, TEST_TRUTH, TRUTH = "card.yaml", "test_truth.csv", "truth.json"
DAYS, TRUTHS = "days", "truth"  # folders of partitions: the rows and true probabilities of each day
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class GeneratedFolder:
    """A temporary folder whose files move into the folder beside it."""

    path: Path

    def write_truth(self, truth: Mapping[str, Any]) -> None:
        """Write `truth.json`."""
        (self.path / TRUTH).write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")


@contextmanager
def generated_folder(out: Path) -> Iterator[GeneratedFolder]:
    """Yield a temporary folder in `out` and, if there was no error, move its files to `out`, `truth.json` last.

    What an older `truth.json` describes beside the rows, a planted problem's card and true probabilities, is removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".synth-") as folder:
        yield GeneratedFolder(Path(folder))
        old = _described(out)
        (out / TRUTH).unlink(missing_ok=True)  # an older one must not describe the new files
        for name in (CARD, TEST_TRUTH) if "plant" in old else ():
            (out / name).unlink(missing_ok=True)
        for name in (DAYS, TRUTHS) if old.get("plant") == DAYS else ():
            shutil.rmtree(out / name, ignore_errors=True)
        names = sorted(file.name for file in Path(folder).iterdir() if file.name != TRUTH)
        for name in (*names, TRUTH):
            (Path(folder) / name).replace(out / name)


def check_generated(out: Path, planted: bool = False, folders: Sequence[str] = ()) -> None:
    """Check that the files in a folder that would be written over were generated: `truth.json` says so.

    Args:
        out: The folder.
        planted: Whether the card and the true probabilities of a planted problem will be written, too.
        folders: Folders of days that will be written.
    """
    rows = [f"{side}{split}.csv" for side in ("", "user_", "item_") for split in SPLITS]
    beside = [CARD, TEST_TRUTH] if planted else []
    truth = _described(out)
    generated = {"files", "seed", "test"} <= {*truth}
    names = [] if generated and "plant" in truth else beside if generated else [*rows, TRUTH, *beside]
    names += [] if truth.get("plant") == DAYS else folders
    found = next((name for name in names if (out / name).exists()), None)
    if found:
        raise ExistsError(f"{str(out / found)!r} exists already and was not generated: choose another folder")


def _described(out: Path) -> Mapping[str, Any]:
    """Return the content of `truth.json`, of one that is missing or is something else nothing."""
    try:
        content = json.loads((out / TRUTH).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_size(out: Path, rows: int, seed: int) -> None:
    """Check that `out` is no file, and that `rows` and `seed` are in range."""
    check_local(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"`out` must be a folder, but {out} is a file")
    if rows < 10:
        raise ValueError(f"`rows` must be at least 10, so that each of the three files has one, got {rows}")
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more, got {seed}")


def split_sizes(rows: int) -> dict[str, int]:
    """Return the rows of each file: 10 % for validation, 10 % for the test, the others for training."""
    return {"train": rows - 2 * (rows // 10), "valid": rows // 10, "test": rows // 10}
