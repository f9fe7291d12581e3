"""Work on parts in processes of other machines: in another folder, with another version, without a file."""

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.data import DataError, prepare
from recmtl.data.preparation import part_work
from recmtl.data.preparation import parts as parts_module
from recmtl.io.location import Location
from recmtl.schema import Categorical, Schema, Task

SCHEMA = Schema([Categorical("c", label_rates=True)], [Task("click", "click")])
RNG = np.random.default_rng(3)
FRAME = pd.DataFrame({"c": RNG.integers(0, 20, 600), "click": RNG.integers(0, 2, 600)})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rows, which are more than one part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts_module, "PART_BYTES", 1000)
    FRAME.to_csv("rows.csv", index=False)
    FRAME.to_parquet("rows.parquet", row_group_size=100)
    return tmp_path


def elsewhere(folder: Path, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    """Call the function in another folder, with what it gets and gives pickled."""
    here = Path.cwd()
    for argument in arguments:
        request = pickle.dumps((function, argument))
        os.chdir(folder)
        part_work._read_shared.cache_clear()
        try:
            called, given = pickle.loads(request)
            found = pickle.dumps(called(given))
        finally:
            os.chdir(here)
        yield pickle.loads(found)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_relative_paths_are_those_of_the_calling_process(name: str, tmp_path: Path) -> None:
    """Other rows under the same name in the folder of a worker are not read."""
    (tmp_path / "other").mkdir()
    FRAME.assign(c="other").to_csv("other/rows.csv", index=False)
    FRAME.assign(c="other").to_parquet("other/rows.parquet", row_group_size=100)
    workers = partial(elsewhere, tmp_path / "other")
    one, other, held = (
        prepare(SCHEMA, name, test=name, out=out, workers=w)
        for out, w in (("one", 1), ("two", workers), (None, workers))
    )
    assert one.fingerprint == other.fingerprint == held.fingerprint
    assert len([*Path("two").glob("train-*")]) > 1
    assert [path.name for path in Path("other").iterdir()] == ["rows.csv", "rows.parquet"]
    FRAME.assign(click="x").to_csv("rows.csv", index=False)
    FRAME.assign(click="x").to_parquet("rows.parquet", row_group_size=100)
    with pytest.raises(DataError, match=rf"^{name}, (line|row) \d+, column 'click'"):
        prepare(SCHEMA, name, workers=workers)


def test_a_location_keeps_its_name() -> None:
    location = pickle.loads(pickle.dumps(Location.of("rows.csv")))
    assert (location.name, location.path) == ("rows.csv", str(Path.cwd() / "rows.csv"))
    assert pickle.loads(pickle.dumps(location)) == location


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
        for argument in arguments:
            request = pickle.dumps(argument)
            if function is part_work.fit_part:
                monkeypatch.setattr(part_work, "__version__", "0.0.9")
            part_work._read_shared.cache_clear()
            yield function(pickle.loads(request))

    with pytest.raises(DataError, match=r"^a worker has recmtl 0\.0\.9, and `prepare` was called by .*: install one$"):
        prepare(SCHEMA, "rows.csv", out=tmp_path / "out", workers=older)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_machine_does_not_see_is_named(tmp_path: Path) -> None:
    def unseen(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
        for argument in arguments:
            request = pickle.dumps(argument)
            for path in tmp_path.glob(".out.*.partial/parsed/fit"):
                path.unlink()
            part_work._read_shared.cache_clear()
            yield function(pickle.loads(request))

    with pytest.raises(DataError, match=r"^a worker finds no file '.*/parsed/fit': give `prepare` an `out` that all"):
        prepare(SCHEMA, "rows.csv", out=tmp_path / "out", workers=unseen)


class Deadly:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.slow
def test_a_task_of_ray_that_is_lost_each_time_is_an_error(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="no Ray")

    def die(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
        killed = function is part_work.encode_part
        yield from recmtl.ray_map(Deadly() if killed else function, arguments)  # type: ignore[arg-type]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(
            DataError, match=r"^a task of Ray has failed: The worker died .*: each machine needs recmtl"
        ):
            prepare(SCHEMA, "rows.csv", out=tmp_path / "out", workers=die)
    finally:
        ray.shutdown()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.parquet"]
