"""Prepared in parts: the same, bit for bit, for any number of workers; and as one part gives, up to rounding."""

import errno
import hashlib
import os
import pickle
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recmtl
from recmtl.data import DataError, PreparedData, prepare
from recmtl.data.preparation import part_work
from recmtl.data.preparation import parts as parts_module
from recmtl.data.preparation.parts import cut_into_parts
from recmtl.data.sources.open import open_sources
from recmtl.io.worker_pool import WorkerPool
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, Task, Thinning

ROWS = 400
SCHEMA = Schema(
    [
        Categorical("c"),
        Categorical("user", label_rates=True),
        MultiCategorical("list"),
        Numeric("x", transform="knots"),
        Numeric("z", transform="standardize"),
    ],
    [Task("click", "click"), Task("kind", "kind", kind="multiclass")],
    group="g",
    weight="w",
)
RNG = np.random.default_rng(8)
FRAME = pd.DataFrame(
    {
        "c": [f"c{i}" for i in RNG.integers(0, 20, ROWS)],
        "user": RNG.integers(0, 30, ROWS) + (1 << 40),
        "list": ["|".join(f"t{j}" for j in RNG.integers(0, 9, i)) for i in RNG.integers(0, 4, ROWS)],
        "x": RNG.normal(0, 1, ROWS),
        "z": RNG.normal(5, 2, ROWS),
        "click": RNG.integers(0, 2, ROWS),
        "kind": RNG.choice(["low", "mid", "high"], ROWS),
        "g": RNG.integers(0, 90, ROWS),
        "w": RNG.uniform(0, 2, ROWS),
    }
)


def csv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def quoted(frame: pd.DataFrame, path: Path) -> Path:
    """Some values with line breaks, commas and quotes."""
    return csv(frame.assign(c=frame["c"].replace({"c3": 'c"3\n,', "c4": "\n\n"})), path)


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    pq.write_table(pa.Table.from_pandas(frame), path.with_suffix(".parquet"), row_group_size=37)
    return path.with_suffix(".parquet")


def zipped(frame: pd.DataFrame, path: Path) -> Path:
    return csv(frame, path.with_suffix(".csv.gz"))


def folder(frame: pd.DataFrame, path: Path) -> Path:
    for day, rows in enumerate(np.array_split(np.arange(ROWS), 5)):
        place = path.with_suffix("") / f"date=2024-01-0{day + 1}"
        place.mkdir(parents=True)
        csv(frame.iloc[rows], place / "rows.csv")
    return path.with_suffix("")


KINDS: dict[str, Callable[[pd.DataFrame, Path], Path]] = {
    "csv": csv, "quoted": quoted, "parquet": parquet, "gzip": zipped, "folder": folder,
}  # fmt: skip


def content(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def add_to(progress: Counter[str], what: str, rows: int) -> None:
    progress[what] += rows


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 3000)


@pytest.fixture(scope="module")
def pools() -> Any:
    with WorkerPool(2, part_work.__name__) as two, WorkerPool(3, part_work.__name__) as three:
        yield [two, three]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_workers_gives_the_same_files(tmp_path: Path, pools: list[WorkerPool], kind: str) -> None:
    train, test = (KINDS[kind](frame, tmp_path / f"{name}.csv") for name, frame in (("a", FRAME), ("b", FRAME[::-1])))
    made = partial(prepare, SCHEMA, train, test=test, holdout=0.2, bad_rows="skip")
    whole = made(out=tmp_path / "one")
    for place, pool in enumerate(pools):
        progress = Counter[str]()
        again = made(out=tmp_path / str(place), workers=pool.map, progress=partial(add_to, progress))
        assert content(tmp_path / str(place)) == content(tmp_path / "one")
        assert again.notes == whole.notes
        assert progress == {"fit": ROWS, "count labels": ROWS, "encode": 2 * ROWS}
    assert whole.fingerprint == made().fingerprint  # in memory


@pytest.mark.usefixtures("small")
def test_parts_give_what_one_part_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vocabularies and ids exactly, statistics up to the rounding of sums."""
    path = quoted(FRAME, tmp_path / "a.csv")
    made = partial(prepare, SCHEMA, path, test=path, thinning=Thinning(0.5, ("click",), ("train",)))
    parts = made(out=tmp_path / "parts")
    monkeypatch.setattr(parts_module, "PART_BYTES", 1 << 26)
    one = made()
    assert len([*(tmp_path / "parts").glob("test-*.arrow")]) > 5
    assert parts.notes == one.notes
    assert parts.schema.vocabularies == one.schema.vocabularies
    assert parts.schema.schema == one.schema.schema
    for name, split in one.splits.items():
        table, other = split.table, parts.splits[name].table
        for column in ("ids", "list:list", "labels", "weight", "key:g"):
            assert other[column].combine_chunks() == table[column].combine_chunks()
        numbers = (np.stack(t["numeric"].to_pylist()) for t in (table, other))
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small")
def test_rows_without_a_group_are_held_out_alike_in_every_pass(tmp_path: Path) -> None:
    schema = Schema([Categorical("user", label_rates=True)], [Task("click", "click")], keys=["k"])
    path = csv(FRAME.assign(k=range(ROWS)), tmp_path / "a.csv")
    data = prepare(schema, path, holdout=0.3)
    keys = {name: rows.keys["k"].to_pylist() for name, rows in data.splits.items()}
    assert sorted([*keys["train"], *keys["valid"]]) == list(range(ROWS))
    assert keys["train"] == sorted(keys["train"])
    assert data.schema.rates["click", None].rows == len(keys["train"])


@pytest.mark.usefixtures("small")
def test_work_whose_result_is_lost_is_done_again(tmp_path: Path) -> None:
    """As on a cluster that has lost a machine: the result is the same."""

    def twice(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
        for argument in arguments:
            function(argument)
            yield function(argument)

    path = csv(FRAME, tmp_path / "a.csv")
    for name, workers in (("one", 1), ("two", twice)):
        prepare(SCHEMA, path, test=path, out=tmp_path / name, workers=workers)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_errors_and_bad_rows_name_the_first_lines(tmp_path: Path, pools: list[WorkerPool]) -> None:
    bad = FRAME.astype({"click": object})
    bad.loc[[90, 150, 210, 240, 300, 320, 399], "click"] = "x"
    path = csv(bad, tmp_path / "a.csv")
    for workers in (1, pools[0].map, pools[1].map):
        with pytest.raises(DataError, match=r"a\.csv, line 92, column 'click': 'x' is not"):
            prepare(SCHEMA, path, out=tmp_path / "out", workers=workers)
        assert not (tmp_path / "out").exists()
    notes = [
        prepare(SCHEMA, path, bad_rows="skip", workers=workers).notes for workers in (1, pools[0].map, pools[1].map)
    ]
    assert notes[0] == notes[1] == notes[2]
    lines = [note.split(", ")[1] for note in notes[0] if note.startswith("left out")]
    assert lines == [f"line {row + 2}" for row in (90, 150, 210, 240, 300)]
    assert "7 bad rows were left out" in notes[0]


class Deadly:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_killed_worker_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = csv(FRAME, tmp_path / "a.csv")

    def die(self: WorkerPool, function: Any, arguments: Any) -> Any:
        return own(self, Deadly() if function is part_work.encode_part else function, arguments)  # type: ignore[arg-type]

    own = WorkerPool.map
    monkeypatch.setattr(WorkerPool, "map", die)
    with pytest.raises(DataError, match=r"a worker process was killed by SIGKILL \(out of memory\?\): give fewer"):
        prepare(SCHEMA, path, out=tmp_path / "out", workers=3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


class Pool:
    """A stand-in for `WorkerPool` that does the work here."""

    numbers: ClassVar[list[int]] = []
    map = map

    def __init__(self, workers: int, module: str) -> None:
        self.numbers.append(workers)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.usefixtures("small")
def test_no_more_workers_than_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are wanted if there are as many; rows that they cannot share are named, but not in the folder."""
    monkeypatch.setattr(parts_module, "WorkerPool", Pool)
    schema = Schema([Categorical("c")], [Task("click", "click")])
    for kind in ("csv", "gzip"):
        Pool.numbers.clear()
        path, folders = KINDS[kind](FRAME, tmp_path / f"{kind}.csv"), [tmp_path / f"{kind}-{i}" for i in (1, 3, 1000)]
        notes = [prepare(schema, path, out=o, workers=w).notes for o, w in zip(folders, (1, 3, 1000), strict=True)]
        parts = len([*folders[0].glob("train-*.arrow")])
        assert Pool.numbers[0] == 3
        assert parts <= Pool.numbers[1] < 100
        for found in notes[1:]:  # a piece of a file ends with a line, behind the bytes of a part
            said = [note for note in found if note.startswith("one worker has read all 0 MB of ")]
            assert len(said) == (kind == "gzip")
            assert {*found} - {*said} == {*notes[0]}
        assert content(folders[0]) == content(folders[1]) == content(folders[2])
    for workers in (2, map):
        data = {"train": tmp_path / "csv.csv", "test": FRAME}
        (note,) = {*prepare(schema, **data, workers=workers).notes} - {*prepare(schema, **data).notes}  # type: ignore[arg-type]
        assert note == (
            "one process has prepared all rows, as `workers` cannot share the test frame: they share CSV, Parquet and "
            "Arrow files"
        )


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet"])
def test_files_that_are_too_small_to_share_are_named_with_a_way_out(kind: str, tmp_path: Path) -> None:
    schema = Schema([Categorical("c")], [Task("click", "click")])
    path = KINDS[kind](FRAME, tmp_path / f"rows.{kind}")
    alone, shared = (prepare(schema, path, workers=workers).notes for workers in (1, 2))
    unpack = ", of compressed files once they are unpacked" if kind == "gzip" else ""
    small = f"one process has prepared all rows, 0 MB, as `workers` share more than 67 MB alone{unpack}"
    assert [*shared] == [*alone, small]


def test_small_files_are_put_together_and_large_ones_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes of their rows: those of Parquet before they are compressed."""
    rows = pa.Table.from_pandas(FRAME[["x", "c", "click"]])
    for number in range(40):
        pq.write_table(rows.slice(number, 5), tmp_path / f"a{number}.parquet")
    pq.write_table(pa.concat_tables([rows] * 20), tmp_path / "b.parquet", row_group_size=100, compression="zstd")
    sources = {"train": open_sources(tmp_path)}
    monkeypatch.setattr(parts_module, "PART_BYTES", 5000)
    parts = cut_into_parts(sources, map)
    sizes = [sum(source.size for source in part.sources) for part in parts]
    assert max(sizes) <= 5000
    assert all(sum(pair) > 5000 for pair in pairwise(sizes))
    assert len(parts[0].sources) > 5
    assert sum(source.rows or 0 for part in parts for source in part.sources) == 200 + 20 * ROWS


def test_workers_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, -1, None, "2"):
        with pytest.raises(DataError, match=f"`workers` must be at least 1, or a function like `map`, got {number!r}"):
            prepare(SCHEMA, tmp_path / "none.csv", workers=number)  # type: ignore[arg-type]
    pairs = iter([socket.socketpair()])

    def few() -> Any:
        for pair in pairs:
            return pair
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", few)
    with pytest.raises(DataError, match="only 1 of 3 `workers` can start: Too many open files"):
        WorkerPool(3, part_work.__name__)
    monkeypatch.delattr(os, "fork")
    with pytest.raises(DataError, match="does not fork processes: leave `workers` at 1"):
        WorkerPool(3, part_work.__name__)


def test_shards_hold_all_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part may have no row of a split: numbers have no gap."""
    monkeypatch.setattr(parts_module, "PART_BYTES", 300)
    schema = Schema([Categorical("c")], [Task("click", "click")], keys=["g"])
    data = prepare(schema, csv(FRAME, tmp_path / "a.csv"), out=tmp_path / "out", holdout=0.05)
    names = sorted(p.name for p in (tmp_path / "out").glob("valid-*"))
    assert names == [f"valid-{number:05}.arrow" for number in range(len(names))]
    assert 1 < len(names) < len([*(tmp_path / "out").glob("train-*")])
    assert PreparedData.open(tmp_path / "out").fingerprint == data.fingerprint


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_two_workers_of_ray_give_the_same_files(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="no Ray")
    path = quoted(FRAME, tmp_path / "a.csv")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for name, workers in (("one", 1), ("ray", recmtl.ray_map)):
            prepare(SCHEMA, path, out=tmp_path / name, workers=workers)
        with pytest.raises(DataError, match=r"a\.csv, line 2, column 'c'"):
            prepare(Schema([Numeric("c")], SCHEMA.tasks), path, workers=recmtl.ray_map)
    finally:
        ray.shutdown()
    assert content(tmp_path / "ray") == content(tmp_path / "one")


class Ray:
    """A stand-in for Ray: tasks run when they are asked for, and are pickled as by it."""

    def __init__(self) -> None:
        self.started, self.cancelled, self.awaited = 0, 0, 0

    def is_initialized(self) -> bool:
        return self.started > 0

    def init(self) -> None:
        self.started += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(remote=lambda *given: (function, pickle.dumps(given)))

    def get(self, task: Any) -> Any:
        return pickle.loads(pickle.dumps(task[0](*pickle.loads(task[1]))))

    def cancel(self, task: Any, force: bool) -> None:
        self.cancelled += 1

    def wait(self, tasks: list[Any], num_returns: int, timeout: float) -> None:
        assert (len(tasks), timeout > 0) == (num_returns, True)
        self.awaited += num_returns


@pytest.mark.usefixtures("small")
def test_ray_gives_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, path = Ray(), csv(FRAME, tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    for name, workers in (("one", 1), ("ray", recmtl.ray_map)):
        prepare(SCHEMA, path, out=tmp_path / name, workers=workers)
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    assert (ray.started, ray.cancelled) == (1, 0)
    with pytest.raises(DataError, match=r"a\.csv, line 2, column 'c'"):
        prepare(Schema([Numeric("c")], SCHEMA.tasks), path, workers=recmtl.ray_map)
    assert ray.cancelled == ray.awaited > 0  # they may still write
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"`ray_map` needs Ray: install it with `pip install 'recmtl\[ray\]'`"):
        prepare(SCHEMA, path, workers=recmtl.ray_map)
