"""Copies of checkpoints: each process copies its share of the files that the first one finds."""

from pathlib import Path
from typing import Any

import pytest

from recmtl.balance import ProcessGroup
from recmtl.errors import RunError
from recmtl.runs.checkpoints import copy_folder


class Second(ProcessGroup):
    """The second of two processes; what the first one tells it is given."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self.rank, self.size, self._told = 1, 2, told

    def broadcast_object(self, value: Any) -> Any:
        return self._told, None

    def all_gather_object(self, value: Any) -> list[Any]:
        return [None, value]


def test_a_process_copies_its_share_of_what_the_first_finds(tmp_path: Path) -> None:
    """Also if its machine shows an older list of the folder: a file that it does not see is an error."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "tables").mkdir(parents=True)
    for name in ("a", "tables/b", "z"):
        (source / name).write_text(name)
    names = [Path("a"), Path("tables/b"), Path("late"), Path("y")]
    copy_folder(source, target)
    assert sorted(file.name for file in target.rglob("*") if file.is_file()) == ["a", "b", "z"]
    copy_folder(None, None, Second((source, tmp_path / "second", names[:2])))
    assert [file.name for file in (tmp_path / "second").rglob("*") if file.is_file()] == ["b"]
    with pytest.raises(RunError, match=r"source' cannot be copied to .*third' by process 1 of 2: No such file"):
        copy_folder(None, None, Second((source, tmp_path / "third", names)))
    copy_folder(None, None, Second(None))
