import dataclasses
import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from recmtl.data import DataError
from recmtl.data.preparation import parts
from recmtl.data.preparation import prepare_cached as prepare_cached_module
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.data.store import cache as cache_module
from recmtl.data.store.cache import DAY, default_cache, find_cached, lock_path, remove_cached, remove_stale
from recmtl.io.files import locked, new_folder
from recmtl.schema import Categorical, Schema, Task
from recmtl.schema.serialization import FITTED_FILES

SCHEMA = Schema([Categorical("c")], [Task("t", "y")])
ROWS = "c,y\n" + "".join(f"v{i % 5},{i % 2}\n" for i in range(60))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS)
    return str(tmp_path / "a.csv")


@pytest.fixture
def prepared(monkeypatch):
    """The folders of all calls of `prepare`."""
    calls: list[Path] = []
    real = prepare_cached_module.prepare

    def prepare(*args):
        calls.append(args[4])
        return real(*args)

    monkeypatch.setattr(prepare_cached_module, "prepare", prepare)
    return calls


def open_cached(tmp_path, *args, schema=SCHEMA, **kwargs):
    return prepare_cached(schema, *args, cache=tmp_path / "cache", **kwargs)


def test_equal_files_are_prepared_once(tmp_path, path, prepared):
    first = open_cached(tmp_path, path, None, path)
    again = open_cached(tmp_path, path, None, path)
    assert len(prepared) == 1
    assert again.schema.fingerprint == first.schema.fingerprint
    assert [p.parent for p in prepared] == [tmp_path / "cache"]


def test_the_key_depends_on_content_and_not_on_names(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    Path(path).rename(tmp_path / "b.csv")
    open_cached(tmp_path, str(tmp_path / "b.csv"))
    assert len(prepared) == 1
    (tmp_path / "b.csv").write_text(ROWS + "v9,1\n")
    assert "v9" in open_cached(tmp_path, str(tmp_path / "b.csv"), holdout=0).schema.vocabularies["c"].to_pylist()
    assert len(prepared) == 2


@pytest.mark.slow
def test_the_key_does_not_depend_on_workers(tmp_path, path, prepared, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    data = open_cached(tmp_path, path, workers=2)
    assert open_cached(tmp_path, path).fingerprint == data.fingerprint
    assert prepared == [data.folder]
    with pytest.raises(DataError, match="`workers` must be at least 1"):
        open_cached(tmp_path, path, workers=0)


def test_the_key_depends_on_splits_holdout_schema_and_suffix(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    open_cached(tmp_path, path, holdout=0.3)
    open_cached(tmp_path, path, path)
    open_cached(tmp_path, path, None, path)
    open_cached(tmp_path, path, schema=dataclasses.replace(SCHEMA, features=[Categorical("c", min_count=2)]))
    (tmp_path / "a.tsv").write_text(ROWS.replace(",", "\t"))
    open_cached(tmp_path, str(tmp_path / "a.tsv"))
    assert len(prepared) == len(set(prepared)) == 6


@pytest.mark.parametrize("content", [None, "{", "{}"], ids=["missing", "cut", "empty"])
def test_an_unfinished_dataset_is_prepared_again(tmp_path, path, prepared, content):
    """Killed after the folder appeared and before its origin was written."""
    open_cached(tmp_path, path)
    origin = prepared[0] / "origin.json"
    origin.unlink() if content is None else origin.write_text(content)
    assert sum(map(len, open_cached(tmp_path, path).splits.values())) == 60
    assert len(prepared) == 2
    assert json.loads(origin.read_text())["files"] == {"train": [path]}


WORKER = """
import sys, time
from pathlib import Path
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.schema import Categorical, Schema, Task

rows, cache, marks, name, until = sys.argv[1:]

def progress(what, rows):
    Path(marks, f"{name} {what}").touch()
    while what == "fit" and not Path(marks, until).exists():
        time.sleep(0.01)

data = prepare_cached(Schema([Categorical("c")], [Task("t", "y")]), rows, cache=Path(cache), progress=progress)
print(sum(map(len, data.splits.values())))
"""


@pytest.fixture
def worker(tmp_path, path, warm_python):
    """Start a process that prepares the rows; while fitting it waits for a mark. Its marks are name and activity."""
    marks = tmp_path / "marks"
    marks.mkdir()
    started = []

    def start(name, until, then):
        arguments = [path, str(tmp_path / "cache"), str(marks), name, until]
        process = subprocess.Popen([warm_python, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(process)
        deadline = time.monotonic() + 60
        while not (marks / then).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_second_of_two_processes_waits_for_the_first(tmp_path, worker):
    waits = "second wait for another process"
    processes = [worker("first", waits, "first fit"), worker("second", ".", waits)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["60\n", "60\n"]
    assert {path.name for path in (tmp_path / "marks").iterdir()} == {"first fit", "first encode", waits}
    (folder,) = (tmp_path / "cache").iterdir()
    assert (folder / "origin.json").is_file()


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free(tmp_path, worker):
    waits = "second wait for another process"
    first, second = worker("first", "never", "first fit"), worker("second", ".", waits)
    first.kill()
    assert second.communicate(timeout=60)[0] == "60\n"
    assert (tmp_path / "marks" / "second fit").exists()
    assert [p.suffix for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")] == [".partial"]


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path, path, worker):
    cache = tmp_path / "cache"
    worker("first", "never", "first fit")
    (alive,) = cache.glob(".*.partial")
    key = "0123456789abcdef01234567"
    dead, lock, own = cache / f".{key}.x.partial", cache / f".{key}.lock", cache / ".mine.x.partial"
    for file in (dead / "train-00000.arrow", own / "a"):
        file.parent.mkdir()
        file.touch()
    lock.touch()
    remove_stale(cache, older_than=DAY)
    assert dead.is_dir()
    for old in (dead, lock, alive, own):
        os.utime(old, (0, 0))
    remove_stale(cache, older_than=DAY)
    assert not dead.exists()
    assert not lock.exists()
    assert own.is_dir()
    assert alive.is_dir()  # its process holds the lock


def test_preparing_removes_old_leftovers(tmp_path, path):
    dead = tmp_path / "cache" / ".0123456789abcdef01234567.x.partial"
    dead.mkdir(parents=True)
    open_cached(tmp_path, path)
    assert dead.is_dir()
    os.utime(dead, (0, 0))
    open_cached(tmp_path, path)
    assert not dead.exists()


def test_a_read_only_cache_can_be_read(tmp_path, path, prepared, monkeypatch):
    open_cached(tmp_path, path)
    (tmp_path / "cache" / ".0123456789abcdef01234567.lock").touch()

    def forbidden(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(cache_module, "locked", forbidden)
    monkeypatch.setattr(prepare_cached_module, "locked", forbidden)
    open_cached(tmp_path, path)
    assert len(prepared) == 1


@pytest.mark.parametrize("file", ["train-00000.arrow", "valid-00000.arrow", *FITTED_FILES, "manifest.json"])
def test_a_damaged_dataset_is_prepared_again(tmp_path, path, prepared, file):
    whole = open_cached(tmp_path, path)
    rows = whole.train.packed()
    content = bytearray((prepared[0] / file).read_bytes())
    content[len(content) // 3] ^= 1
    (prepared[0] / file).write_bytes(content)
    again = open_cached(tmp_path, path)
    assert prepared == [prepared[0]] * 2
    *_, note = again.notes
    assert f"what the cache had was prepared again: {prepared[0] / file} is damaged" in note
    assert torch.equal(again.train.packed(), rows)
    assert open_cached(tmp_path, path).notes == whole.notes
    assert len(prepared) == 2


def test_a_failure_leaves_nothing(tmp_path, path):
    Path(path).write_text(ROWS + "v1,2\n")
    with pytest.raises(DataError, match="line 62, column 'y': '2' is not a binary label"):
        open_cached(tmp_path, path)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DataError, match="there is no file"):
        open_cached(tmp_path, str(tmp_path / "gone.csv"))


def test_a_kill_leaves_no_dataset(tmp_path, path, prepared):
    program = f"""
        import os, signal
        from pathlib import Path
        from recmtl.data.preparation.prepare_cached import prepare_cached
        from recmtl.schema import *
        def progress(what, rows):
            if what == "encode":
                os.kill(os.getpid(), signal.SIGKILL)
        schema = Schema([Categorical("c")], [Task("t", "y")])
        prepare_cached(schema, {path!r}, cache=Path({str(tmp_path / "cache")!r}), progress=progress)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    assert {name.rpartition(".")[2] for name in os.listdir(tmp_path / "cache")} == {"partial", "lock"}
    assert sum(map(len, open_cached(tmp_path, path).splits.values())) == 60
    assert len(prepared) == 1


@pytest.fixture
def without_locks(monkeypatch):
    """A file system without locks."""

    def flock(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("when", ["fit", "encode"])
@pytest.mark.usefixtures("without_locks")
def test_another_process_was_faster(tmp_path, path, when):
    """Two runs start at once: the slower one opens the dataset of the faster one."""
    made = []

    def progress(what, rows):
        if what == when and not made:
            made.append(open_cached(tmp_path, path))

    data = open_cached(tmp_path, path, progress=progress)
    assert data.schema.fingerprint == made[0].schema.fingerprint
    assert len(os.listdir(tmp_path / "cache")) == 1


@pytest.mark.usefixtures("without_locks")
def test_another_process_finished_before_the_start(tmp_path, path, monkeypatch):
    """It finished between the lookup in the cache and the start of the work."""
    module = sys.modules["recmtl.data.preparation.prepare"]

    def late(target):
        if not target.exists():
            monkeypatch.setattr(module, "new_folder", new_folder)
            open_cached(tmp_path, path)
        return new_folder(target)

    monkeypatch.setattr(module, "new_folder", late)
    assert sum(map(len, open_cached(tmp_path, path).splits.values())) == 60


def test_default_folder(monkeypatch):
    monkeypatch.setenv("RECMTL_CACHE", "/a/b")
    assert default_cache() == Path("/a/b")
    monkeypatch.delenv("RECMTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert default_cache() == Path("/c/recmtl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "recmtl"


def test_without_a_home_the_option_is_named(monkeypatch):
    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("RECMTL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(
        DataError, match=r"there is no home folder for prepared data: name a folder with `--data\.cache`"
    ):
        default_cache()


@pytest.mark.parametrize("cache", ["file", "file/below", "closed"])
def test_an_unwritable_cache_names_the_option(tmp_path, path, prepared, monkeypatch, cache):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda folder, mode: False)  # as root may write everywhere
    with pytest.raises(DataError, match=rf"{cache}' cannot be written: .*: name a folder with `--data\.cache`"):
        prepare_cached(SCHEMA, path, cache=tmp_path / cache)
    assert prepared == []


def test_what_an_unwritable_cache_holds_is_opened(tmp_path, path, prepared, monkeypatch):
    open_cached(tmp_path, path)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    open_cached(tmp_path, path)
    assert len(prepared) == 1


def aged(folder, days):
    origin = json.loads((folder / "origin.json").read_text())
    (folder / "origin.json").write_text(json.dumps(origin | {"created": time.time() - days * DAY}))


def test_the_cache_can_be_listed_and_cleared(tmp_path, path, prepared):
    for holdout in (0.0, 0.2, 0.4):
        open_cached(tmp_path, path, None, path, holdout=holdout)
    (tmp_path / "cache" / "notes").mkdir()  # not ours
    for days, folder in zip((5, 1, 3), prepared, strict=True):
        aged(folder, days)
    old, young, middle = prepared
    found = find_cached(tmp_path / "cache")
    assert [dataset.folder for dataset in found] == [young, middle, old]
    shown = found[2].to_dict()
    assert (shown["name"], shown["files"]) == (old.name, {"train": [path], "test": [path]})
    assert shown["rows"] == {"train": 60, "test": 60}
    assert shown["bytes"] == sum(os.path.getsize(old / name) for name in os.listdir(old))
    assert shown["days"] == pytest.approx(5, abs=0.01)

    assert [d.folder for d in find_cached(tmp_path / "cache", older_than=2)] == [middle, old]
    with pytest.raises(DataError, match="there is no dataset 'x' in the cache"):
        find_cached(tmp_path / "cache", [young.name, "x"])
    assert [d.folder for d in remove_cached(find_cached(tmp_path / "cache", [middle.name[:10]]))] == [middle]
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {old.name, young.name, "notes"}


def test_a_dataset_that_is_being_prepared_is_not_removed(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    with locked(lock_path(prepared[0])):
        assert remove_cached(find_cached(tmp_path / "cache")) == []
    assert prepared[0].is_dir()
    assert len(remove_cached(find_cached(tmp_path / "cache"))) == 1
    assert find_cached(tmp_path / "nowhere") == []
