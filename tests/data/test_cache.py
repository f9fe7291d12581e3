import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from recmtl.data import DataError, cache
from recmtl.data.cache import default_cache, prepare_cached
from recmtl.data.files import new_folder
from recmtl.schema import Categorical, Schema, Task

SCHEMA = Schema([Categorical("c")], [Task("t", "y")])
ROWS = "c,y\n" + "".join(f"v{i % 5},{i % 2}\n" for i in range(60))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS)
    return str(tmp_path / "a.csv")


@pytest.fixture
def prepared(monkeypatch):
    """Counts how often data is prepared."""
    calls: list[Path] = []
    real = cache.prepare

    def prepare(*args):
        calls.append(args[4])
        return real(*args)

    monkeypatch.setattr(cache, "prepare", prepare)
    return calls


def open_cached(tmp_path, *args, schema=SCHEMA, **kwargs):
    return prepare_cached(schema, *args, cache=tmp_path / "cache", **kwargs)


def test_prepares_once(tmp_path, path, prepared):
    first = open_cached(tmp_path, path, None, path)
    again = open_cached(tmp_path, path, None, path)
    assert len(prepared) == 1
    assert again.schema.fingerprint == first.schema.fingerprint
    assert [p.parent for p in prepared] == [tmp_path / "cache"]


def test_content_counts_and_not_the_name(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    Path(path).rename(tmp_path / "b.csv")
    open_cached(tmp_path, str(tmp_path / "b.csv"))
    assert len(prepared) == 1
    (tmp_path / "b.csv").write_text(ROWS + "v9,1\n")
    assert "v9" in open_cached(tmp_path, str(tmp_path / "b.csv"), holdout=0).schema.vocabularies["c"].to_pylist()
    assert len(prepared) == 2


def test_what_else_counts(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    open_cached(tmp_path, path, holdout=0.3)
    open_cached(tmp_path, path, path)
    open_cached(tmp_path, path, None, path)
    open_cached(tmp_path, path, schema=dataclasses.replace(SCHEMA, features=[Categorical("c", min_count=2)]))
    (tmp_path / "a.tsv").write_text(ROWS.replace(",", "\t"))
    open_cached(tmp_path, str(tmp_path / "a.tsv"))
    assert len(prepared) == len(set(prepared)) == 6


def test_damage_is_said(tmp_path, path, prepared):
    open_cached(tmp_path, path)
    (prepared[0] / "train.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=f"the cache is damaged, remove '{prepared[0]}': "):
        open_cached(tmp_path, path)


def test_a_failure_leaves_nothing(tmp_path, path):
    Path(path).write_text(ROWS + "v1,2\n")
    with pytest.raises(DataError, match="line 62, column 'y': '2' is not a binary label"):
        open_cached(tmp_path, path)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DataError, match="there is no file"):
        open_cached(tmp_path, str(tmp_path / "gone.csv"))


def test_a_kill_leaves_nothing_that_counts(tmp_path, path, prepared):
    program = f"""
        import os, signal
        from pathlib import Path
        from recmtl.data.cache import prepare_cached
        from recmtl.schema import *
        def progress(what, rows):
            if what == "encode":
                os.kill(os.getpid(), signal.SIGKILL)
        schema = Schema([Categorical("c")], [Task("t", "y")])
        prepare_cached(schema, {path!r}, cache=Path({str(tmp_path / "cache")!r}), progress=progress)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    assert len(os.listdir(tmp_path / "cache")) == 1
    assert sum(map(len, open_cached(tmp_path, path).splits.values())) == 60
    assert len(prepared) == 1


@pytest.mark.parametrize("when", ["fit", "encode"])
def test_another_process_was_faster(tmp_path, path, when):
    """Two runs start at once: the slower one takes what the faster one made."""
    made = []

    def progress(what, rows):
        if what == when and not made:
            made.append(open_cached(tmp_path, path))

    data = open_cached(tmp_path, path, progress=progress)
    assert data.schema.fingerprint == made[0].schema.fingerprint
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_another_process_was_faster_still(tmp_path, path, monkeypatch):
    """It finished between the look into the cache and the start of the work."""
    module = sys.modules["recmtl.data.prepare"]  # the package's `prepare` is the function

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
