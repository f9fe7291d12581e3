import errno
import os
import stat

import pytest

from recmtl.errors import DataError
from recmtl.io.files import locked, new_file, new_folder


class TestFolder:
    def test_appears_whole(self, tmp_path):
        with new_folder(tmp_path / "a" / "b") as folder:
            (folder / "x").write_text("x")
            assert not (tmp_path / "a" / "b").exists()
        assert (tmp_path / "a" / "b" / "x").read_text() == "x"
        assert os.listdir(tmp_path / "a") == ["b"]

    def test_has_the_usual_permissions(self, tmp_path):
        (tmp_path / "usual").mkdir()
        with new_folder(tmp_path / "new"):
            pass
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "new")}
        assert len(modes) == 1

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_leaves_nothing_after_an_exception(self, tmp_path, error):
        def fail():
            with new_folder(tmp_path / "a") as folder:
                (folder / "x").write_text("x")
                raise error

        with pytest.raises(error):
            fail()
        assert os.listdir(tmp_path) == []

    def test_an_existing_folder_stays(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text("mine")
        with pytest.raises(DataError, match="exists already"), new_folder(tmp_path / "a"):
            raise AssertionError
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "x").write_text("theirs")
        with pytest.raises(DataError, match="appeared meanwhile"), new_folder(tmp_path / "b"):
            (tmp_path / "theirs").rename(tmp_path / "b")
        assert (tmp_path / "b" / "x").read_text() == "theirs"
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]

    def test_file_that_appears_meanwhile(self, tmp_path):
        with pytest.raises(DataError, match="appeared meanwhile"), new_folder(tmp_path / "a"):
            (tmp_path / "a").write_text("theirs")
        assert (tmp_path / "a").read_text() == "theirs"


class TestFile:
    def test_appears_whole(self, tmp_path):
        (tmp_path / "x").write_text("old")
        with new_file(tmp_path / "x") as file:
            file.write_text("new")
            assert (tmp_path / "x").read_text() == "old"
        assert (tmp_path / "x").read_text() == "new"
        assert os.listdir(tmp_path) == ["x"]

    def test_leaves_nothing_after_an_exception(self, tmp_path):
        (tmp_path / "x").write_text("old")

        def fail():
            with new_file(tmp_path / "x") as file:
                file.write_text("half")
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            fail()
        assert (tmp_path / "x").read_text() == "old"
        assert os.listdir(tmp_path) == ["x"]

    def test_makes_its_folder(self, tmp_path):
        with new_file(tmp_path / "a" / "b" / "x") as file:
            file.write_text("x")
        assert (tmp_path / "a" / "b" / "x").read_text() == "x"


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_full_disk_names_the_path(tmp_path, new):
    with (
        pytest.raises(DataError, match=r"^'.*a' cannot be written: No space left on device$"),
        new(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")  # as pyarrow does
    assert os.listdir(tmp_path) == []


def test_a_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    done, (fsync, replace) = [], (os.fsync, os.replace)
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append("replaced") or replace(a, b))
    with new_file(tmp_path / "a") as partial:
        partial.write_text("x")
    assert done == [str(partial), "replaced", str(tmp_path)]
    done.clear()
    with new_folder(tmp_path / "b") as partial:
        (partial / "c").touch()
    assert done == ["replaced", str(tmp_path)]


@pytest.mark.parametrize("new", [new_file, new_folder, locked])
def test_an_unwritable_path_fails_before_any_work(tmp_path, new):
    (tmp_path / "a").touch()
    said = r"^'.*a/b.*' cannot be written: '.*/a' is a file, not a folder$"
    with pytest.raises(DataError, match=said), new(tmp_path / "a/b/c"):
        pytest.fail("the block ran")


def test_a_folder_is_no_file_to_write(tmp_path):
    (tmp_path / "report.html").mkdir()
    with (
        pytest.raises(DataError, match=r"report\.html' is a folder, expected a file"),
        new_file(tmp_path / "report.html"),
    ):
        pass
    assert os.listdir(tmp_path) == ["report.html"]
