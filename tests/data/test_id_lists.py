"""Lists of ids in batches: each row keeps its own, in whatever way rows are read, shuffled, cut and shared."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from together import place
from torch import Tensor

import recmtl
from recmtl.data import Batch, IdLists, Loader, Rows, row_order
from recmtl.data.store.lists import SPARE
from recmtl.schema.fitted import FIRST, MISSING

ROWS = 53
LENGTHS = np.random.default_rng(0).integers(0, 6, ROWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> recmtl.PreparedData:
    """From disk; the first list has the categories of a row's number, the second one its number alone."""
    frame = pd.DataFrame({"x": np.arange(ROWS, dtype=float), "y": np.arange(ROWS) % 2})
    frame["m"] = ["|".join(str((row + i) % 7) for i in range(n)) for row, n in enumerate(LENGTHS)]
    frame["n"] = [str(row % 5) for row in range(ROWS)]
    features = [
        recmtl.Categorical("c"),
        recmtl.MultiCategorical("m"),
        recmtl.Numeric("x", transform="none"),
        recmtl.MultiCategorical("n"),
    ]
    schema = recmtl.Schema(features, [recmtl.Task("t", "y")])
    folder = tmp_path_factory.mktemp("data") / "prepared"
    recmtl.prepare(schema, frame.assign(c="a"), holdout=0, out=folder)
    return recmtl.PreparedData.open(folder)


def expected(data: recmtl.PreparedData, row: int) -> tuple[list[int], list[int]]:
    of = [data.schema.vocabularies[name].to_pylist() for name in ("m", "n")]
    many = [of[0].index(str((row + i) % 7)) + FIRST for i in range(LENGTHS[row])]
    return many or [MISSING], [of[1].index(str(row % 5)) + FIRST]


def lists_of(batch: Batch) -> Iterator[tuple[int, tuple[list[int], ...]]]:
    """The number of each row, and its lists."""
    for row, number in enumerate(batch.numeric[:, 0].long().tolist()):
        bounds = [own.offsets[row : row + 2].tolist() for own in batch.lists]
        yield number, tuple(own.values[a:b].tolist() for own, (a, b) in zip(batch.lists, bounds, strict=True))


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("done", [0, 2])
@pytest.mark.parametrize("processes", [1, 3])
def test_each_row_has_its_lists(
    data: recmtl.PreparedData,
    monkeypatch: pytest.MonkeyPatch,
    seed: int | None,
    window: int | None,
    done: int,
    processes: int,
) -> None:
    monkeypatch.setattr(row_order, "BLOCK_ROWS", 2)
    monkeypatch.setattr(row_order, "LANE_ROWS", 2)
    found = []
    for rank in range(processes):
        loader = Loader(data.train, 8, seed=seed, window=window, processes=place(rank, processes))
        for batch in loader.epoch(1, done):
            assert all(len(own.values) == own.offsets[-1] for own in batch.lists)
            found += lists_of(batch)
    assert len(found) == ROWS - 8 * done
    assert all(lists == expected(data, row) for row, lists in found)


@pytest.mark.parametrize("seed", [None, 4])
def test_spare_values_give_all_batches_of_an_epoch_one_shape(data: recmtl.PreparedData, seed: int | None) -> None:
    """As on a GPU, where a step is recorded."""
    loader = Loader(data.train, 8, seed=seed)
    plain = list(loader.epoch(1))
    window = next(loader._windows(loader._epoch_order(1), 0))
    spare = [loader._unpack(packed) for packed in loader._of_one_shape(window, [len(batch) for batch in plain])]
    assert len({tuple(len(own.values) for own in batch.lists) for batch in spare}) == 1
    for mine, other in zip(spare, plain, strict=True):
        assert list(lists_of(mine)) == list(lists_of(other))
        for own in mine.lists:
            assert own.values[int(own.offsets[-1]) :].eq(SPARE).all()
            assert len(own.values) > own.offsets[-1]


def test_rows_in_memory_have_the_fingerprint_and_the_lists_of_their_file(data: recmtl.PreparedData) -> None:
    in_memory = Rows(data.schema, data.train.table)
    assert in_memory.fingerprint == data.train.fingerprint
    spans = [(3, 9), (0, 2), (50, 53)]
    for whole, parts in zip(in_memory.lists(), data.train.lists(spans), strict=True):
        assert_same(IdLists.joined([whole.rows(*span) for span in spans]), parts)
        order = torch.cat([torch.arange(*span) for span in spans])
        assert_same(whole.take(order), parts)
        assert_same(whole.take(order, (len(parts.values), 100)).rows(0, len(order)), parts)


def assert_same(one: IdLists, other: IdLists) -> None:
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_there_is_no_padding() -> None:
    """Lists of 2 on average with a longest of 400 take the memory of their ids."""
    rows = 2_000
    lists = [["a"] * (400 if row == 0 else 1 + row % 3) for row in range(rows)]
    frame = pd.DataFrame({"m": lists, "y": np.arange(rows) % 2})
    schema = recmtl.Schema([recmtl.MultiCategorical("m", max_length=400)], [recmtl.Task("t", "y")])
    train = recmtl.prepare(schema, frame, holdout=0).train
    values = sum(map(len, lists))
    assert len(train.lists()[0].values) == values
    assert train.bytes_per_row == pytest.approx(4 + (4 * values + 8 * rows) / rows)
    assert train.table.nbytes < 4 * values + 16 * rows


def test_a_batch_without_lists_is_refused(data: recmtl.PreparedData) -> None:
    batch: Batch = next(Loader(data.train, 8).epoch())
    encoder: Tensor = recmtl.FeatureEncoder(data.schema)
    with pytest.raises(ValueError, match=r"a list for each multi-valued feature, .* among them, got 0 lists"):
        encoder(dataclasses.replace(batch, lists=()))


def test_another_order_of_lists_is_not_confused(data: recmtl.PreparedData, tmp_path: Path) -> None:
    """Predictions on a new file read each list under its own name."""
    frame = pd.DataFrame({"n": ["3"], "x": [1.0], "m": ["4|5"], "c": ["a"]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    (rows,) = recmtl.data.encode_rows(data.schema, tmp_path / "new.csv", labelled=False, note=lambda _: None)
    of = [data.schema.vocabularies[name].to_pylist() for name in ("m", "n")]
    assert [own.values.tolist() for own in rows.lists()] == [
        [of[0].index("4") + FIRST, of[0].index("5") + FIRST],
        [of[1].index("3") + FIRST],
    ]
