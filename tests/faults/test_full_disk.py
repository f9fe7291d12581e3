"""A disk that fills up at any moment: a one-line error, no partial files, and with space it resumes."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Tally
from forker import Job, is_line
from same import assert_same_comparison, assert_same_dataset, assert_same_run
from subject import Subject

SAID = ("No space left on device", "File too large", "is the disk full")
SHARES = [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97]


class Disk:
    """A folder on a disk of limited size; without the right to mount one, the size of each file is limited instead.

    Args:
        folder: The folder.
        size: The size of the disk in bytes.
        largest: The limit for a file in bytes.
    """

    def __init__(self, folder: Path, size: int, largest: int) -> None:
        self.folder, self.limits = folder, {}
        self._options = f"size={size}"
        self.folder.mkdir()
        self.mounted = self._mount(self._options)
        if not self.mounted:
            self.limits = {"RLIMIT_FSIZE": largest}

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def make_room(self) -> None:
        """Lift the limit."""
        self.limits = {}
        assert not self.mounted or self._mount("remount,size=1g")

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


Make = Callable[[Path, float], Disk]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Make]:
    """Return a function that creates a disk for a share of the files of a folder."""
    made: list[Disk] = []

    def make(like: Path, share: float) -> Disk:
        sizes = [path.stat().st_size for path in like.rglob("*") if path.is_file()]
        made.append(Disk(tmp_path / "disk", max(4096, int(share * sum(sizes))), int(share * max(sizes))))
        return made[-1]

    yield make
    for found in made:
        found.close()


def is_full(job: Job, tally: Tally, status: int = 2) -> bool:
    """Return whether a command hit the full disk, and check that it says so in one line."""
    if job.wait() == 0:
        return False
    tally.tried()
    assert is_line(job.said), job.said
    assert any(said in job.said for said in SAID), job.said
    return True


@pytest.mark.fault("a full disk under prepare")
@pytest.mark.parametrize("share", SHARES)
def test_prepare(share: float, preparing: Subject, disk: Make, tally: Tally) -> None:
    small = disk(preparing.whole, share)
    path = small.folder / "it"
    assert is_full(preparing.start(path, limits=small.limits), tally)
    assert [file for file in small.folder.iterdir() if file.name != "cache"] == []
    small.make_room()
    assert preparing.start(path).wait() == 0
    assert_same_dataset(path, preparing.whole)
    tally.survived()


@pytest.mark.fault("a full disk under train")
@pytest.mark.parametrize("share", SHARES[::2])
def test_train(share: float, training: Subject, disk: Make, tmp_path: Path, tally: Tally) -> None:
    small = disk(training.whole, share)
    path = small.folder / "it"
    full = is_full(training.start(path, limits=small.limits, cache=str(tmp_path / "cache")), tally)
    assert not (full and (path / "metrics.json").exists())
    small.make_room()
    job = training.start(path, again=True, cache=str(tmp_path / "cache"))
    assert job.wait() == 0, job.said
    assert_same_run(path, training.whole)
    tally.survived(full)


@pytest.mark.fault("a full disk under the cache")
@pytest.mark.parametrize("share", SHARES[::3])
def test_cache(share: float, training: Subject, disk: Make, tmp_path: Path, tally: Tally) -> None:
    small = disk(training.whole.parent / "cache", share)
    path = tmp_path / "it"
    assert is_full(training.start(path, limits=small.limits, cache=str(small.folder)), tally)
    small.make_room()
    assert training.start(path, cache=str(small.folder)).wait() == 0
    assert_same_run(path, training.whole)
    tally.survived()


@pytest.mark.xdist_group("comparing")
@pytest.mark.fault("a full disk under compare")
@pytest.mark.parametrize("share", SHARES[1::3])  # each of its runs is a training
def test_compare(share: float, comparing: Subject, disk: Make, tmp_path: Path, tally: Tally) -> None:
    """A run that hits the full disk fails; the others may fail, too."""
    small = disk(comparing.whole, share)
    path = small.folder / "it"
    job = comparing.start(path, limits=small.limits, cache=str(tmp_path / "cache"))
    status = job.wait()
    assert "Traceback" not in job.said
    tally.tried(status != 0)
    if status == 2:
        assert any(said in job.said for said in SAID), job.said
    small.make_room()
    job = comparing.start(path, cache=str(tmp_path / "cache"))
    assert job.wait() == 0, job.said
    assert_same_comparison(path, comparing.whole)
    tally.survived(status != 0)
