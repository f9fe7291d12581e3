"""Label rates of ids: beside a naive count of pandas, and never by a row's own label."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recmtl
from recmtl.data import DataError, PreparedData, Rows, encode_rows, prepare
from recmtl.data.columns.values import stable_hash
from recmtl.data.preparation import label_rates, prepare_cached
from recmtl.data.preparation.part_work import Holdout
from recmtl.data.store.format import IDS, NUMERIC, to_matrix
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

TASKS = [Task("ctr", "click"), Task("stay", "stay", kind="regression"), Task("cvr", "buy", given="click")]
FEATURES = [
    Numeric("price", missing_indicator=True),
    Categorical("item", min_count=3, label_rates=True),
    Categorical("user", hash_buckets=7, label_rates=True),
    Categorical("seen", share_with="item", label_rates=True),
]
SCHEMA = Schema(FEATURES, TASKS, group="search", weight="weight")
FIRST_RATE = 2  # after the number and its missing indicator


def frame(rows: int = 400, seed: int = 0, items: int = 30) -> pd.DataFrame:
    """Rows with missing ids, labels and groups."""
    rng = np.random.default_rng(seed)
    item = rng.zipf(1.4, rows) % items
    click = (rng.random(rows) < 0.2 + 0.02 * item).astype(float)
    return pd.DataFrame(
        {
            "price": rng.normal(size=rows),
            "item": np.where(rng.random(rows) < 0.05, None, [f"i{i}" for i in item]),
            "user": [f"u{u}" for u in rng.integers(0, 40, rows)],
            "seen": [f"i{i}" for i in rng.integers(0, items, rows)],
            "click": np.where(rng.random(rows) < 0.1, np.nan, click),
            "buy": np.where(rng.random(rows) < 0.1, np.nan, rng.integers(0, 2, rows) * 1.0),
            "stay": rng.exponential(size=rows),
            "search": np.where(rng.random(rows) < 0.05, None, [f"s{s}" for s in rng.integers(0, rows // 3, rows)]),
            "weight": rng.uniform(0.5, 3, rows),
        }
    )


def matrix(rows: Rows, part: str = NUMERIC) -> npt.NDArray[Any]:
    return np.concatenate([to_matrix(chunk) for chunk in rows.table[part].chunks])


def naive_folds(data: pd.DataFrame, group: str | None = "search") -> npt.NDArray[np.int64]:
    """The fold of each row, by hash of its group, or else of its number."""
    hashes = [int(stable_hash(np.array([number]))[0]) for number in range(len(data))]
    if group:
        texts = data[group].tolist()
        hashes = [
            int(stable_hash(pa.array([t]))[0]) if isinstance(t, str) else h for t, h in zip(texts, hashes, strict=True)
        ]
    return np.array([(h >> 32) % 5 for h in hashes])


def naive(counted: pd.DataFrame, ids: npt.NDArray[Any], wanted: int, label: str, given: str | None) -> list[float]:
    """The encoded rate and count of one id, by the counted rows, of which `ids` are the ids."""
    valid = counted[label].notna() & ((counted[given] == 1) if given else True)
    weight = counted["weight"] if "weight" in counted else pd.Series(1.0, counted.index)
    weight = weight[valid] / weight[valid].mean()
    label_of = counted[label][valid]
    own = ids[valid.to_numpy()] == wanted
    n, positive = weight[own].sum(), (weight * label_of)[own].sum()
    mean = ((weight * label_of).sum() + 0.5) / (valid.sum() + 1)
    prior = max(20.0, 1 / min(mean, 1 - mean))
    rate = (positive + prior * mean) / (n + prior)
    return [np.log(rate / (1 - rate)) - np.log(mean / (1 - mean)), np.log(1 + n) / 30]


def expected(
    train: pd.DataFrame, ids: npt.NDArray[Any], row_ids: npt.NDArray[Any], folds: list[int | None], own: Any
) -> npt.NDArray[np.float64]:
    """The label rate columns of rows with `row_ids`, each by the training rows outside its fold; ids are [rows, 3]."""
    found = []
    for row, fold in enumerate(folds):
        counted = own != fold if fold is not None else np.ones(len(train), bool)
        columns: list[float] = []
        for place in range(3):
            pairs = [
                naive(train[counted], ids[counted, place], row_ids[row, place], label, given)
                for label, given in (("click", None), ("buy", "click"))
            ]
            columns += [rate for rate, _ in pairs] + [count for _, count in pairs]
        found.append(columns)
    return np.array(found)


@pytest.mark.parametrize(("weighted", "group"), [(True, "search"), (False, None)])
def test_training_rows_have_the_rates_of_the_other_folds_and_others_those_of_all(
    weighted: bool, group: str | None
) -> None:
    train, test = frame(), frame(60, seed=1, items=60)  # half of the test items are unseen
    schema = Schema(FEATURES, TASKS, group=group, weight="weight" if weighted else None)
    if not weighted:
        train = train.drop(columns="weight")
    data = prepare(schema, train, test=test, holdout=0)
    assert data.schema.numeric_columns == matrix(data.train).shape[1] == FIRST_RATE + 3 * 4
    ids, own = matrix(data.train, IDS), naive_folds(train, group)
    np.testing.assert_allclose(
        matrix(data.train)[:, FIRST_RATE:], expected(train, ids, ids, own.tolist(), own), rtol=1e-5, atol=1e-6
    )
    test_ids = matrix(data.test, IDS)
    assert {UNKNOWN, MISSING} <= set(test_ids[:, 0].tolist())
    all_rows: list[int | None] = [None] * len(test)
    found = matrix(data.test)[:, FIRST_RATE:]
    np.testing.assert_allclose(found, expected(train, ids, test_ids, all_rows, own), rtol=1e-5, atol=1e-6)


def test_a_count_by_hand() -> None:
    """Of 40 rows 10 have the label 1; "a" has 8 of them in 10 rows: 8 + 20/4 of 30 rows with the prior ones."""
    label = [1] * 8 + [0] * 2 + [1] * 2 + [0] * 28
    train = pd.DataFrame({"c": ["a"] * 10 + ["b"] * 30, "click": label})
    test = pd.DataFrame({"c": ["a", "never seen", None], "click": [0, 0, 0]})
    schema = Schema([Categorical("c", label_rates=True)], [Task("ctr", "click")])
    data = prepare(schema, train, test=test, holdout=0)
    mean = 10.5 / 41
    rate = (8 + 20 * mean) / 30
    log_odds = np.log(rate / (1 - rate)) - np.log(mean / (1 - mean))
    np.testing.assert_allclose(matrix(data.test), [[log_odds, np.log(11) / 30], [0, 0], [0, 0]], rtol=1e-6)
    assert data.schema.label_counts["c"].rows.tolist() == [[0, 0, 30, 10]]
    assert data.schema.label_counts["c"].positives.tolist() == [[0, 0, 2, 8]]


@pytest.mark.parametrize("group", ["search", None])
def test_a_row_is_not_encoded_by_its_own_label(group: str | None) -> None:
    schema = Schema(FEATURES, TASKS, group=group, weight="weight")
    train = frame()
    before = matrix(prepare(schema, train, holdout=0).train)
    changed_others = 0
    for row in (0, 7, 123):
        for column, value in (("click", 1 - np.nan_to_num(train["click"][row])), ("buy", np.nan), ("click", np.nan)):
            flipped = train.copy()
            flipped.loc[row, column] = value
            after = matrix(prepare(schema, flipped, holdout=0).train)
            np.testing.assert_array_equal(after[row], before[row])
            changed_others += int((after != before).any(1).sum())
    assert changed_others > 0


def test_noise_does_not_look_like_a_signal() -> None:
    """Labels are noise and an id has about two rows: rates that held the own label would give it away."""
    rng = np.random.default_rng(0)
    rows = 4000
    noise = pd.DataFrame({"c": rng.integers(0, rows // 2, rows).astype(str), "click": rng.integers(0, 2, rows)})
    schema = Schema([Categorical("c", label_rates=True)], [Task("ctr", "click")])
    data = prepare(schema, noise, holdout=0.25)
    rate = matrix(data.train)[:, 0]
    assert rate.std() > 0.01
    assert abs(np.corrcoef(rate, data.train.labels["click"])[0, 1]) < 4 / np.sqrt(len(rate))
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[8])
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(progress=False)).fit(data.train)
    assert abs(trainer.evaluate(data.valid).loc["ctr", "auc"] - 0.5) < 0.06


def test_held_out_rows_are_no_training_rows() -> None:
    """Held-out rows have the rates of all training rows, and training rows those of the other training rows."""
    rows = frame()
    held_out = Holdout("search", 0.3).mask(pa.RecordBatch.from_pandas(rows), np.arange(len(rows)))
    whole = prepare(SCHEMA, rows, holdout=0.3)
    flipped = rows.assign(click=np.where(held_out, 1 - rows["click"], rows["click"]))
    changed = prepare(SCHEMA, flipped, holdout=0.3)
    for before, after in ((whole.train, changed.train), (whole.valid, changed.valid)):
        np.testing.assert_array_equal(matrix(before), matrix(after))
    (encoded,) = encode_rows(whole.schema, rows[held_out])
    np.testing.assert_array_equal(matrix(encoded), matrix(whole.valid))


def contents(data: PreparedData) -> dict[str, bytes]:
    return {name: rows.packed().numpy().tobytes() for name, rows in data.splits.items()}


def test_equal_in_memory_on_disk_and_in_several_batches(tmp_path: Path) -> None:
    rows = frame()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    starts = [0, 1, 90, 250, len(table)]
    parts = [table.slice(a, b - a).combine_chunks() for a, b in pairwise(starts)]
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in parts:
            writer.write_table(part)
    whole = prepare(SCHEMA, table, test=table)
    batched = prepare(SCHEMA, pa.concat_tables(parts), test=table)
    stored = prepare(SCHEMA, tmp_path / "a.parquet", test=table, out=tmp_path / "stored")
    opened = PreparedData.open(tmp_path / "stored")
    assert opened.schema.fingerprint == stored.schema.fingerprint
    for data in (batched, stored, opened):
        assert contents(data) == contents(whole)
        for name, counts in whole.schema.label_counts.items():
            for mine, others in zip(counts, data.schema.label_counts[name], strict=True):
                np.testing.assert_array_equal(mine, others)


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_to_predict_are_encoded_as_the_test_rows(labelled: bool) -> None:
    train, test = frame(), frame(50, seed=1)
    data = prepare(SCHEMA, train, test=test)
    given = test if labelled else test.drop(columns=["click", "buy", "stay", "weight", "search"])
    (encoded,) = encode_rows(data.schema, given, labelled=labelled)
    np.testing.assert_array_equal(matrix(encoded), matrix(data.test))


def test_the_cache_opens_what_was_prepared(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "a.csv", index=False)
    first, again = (
        prepare_cached.prepare_cached(SCHEMA, str(tmp_path / "a.csv"), cache=tmp_path / "cache") for _ in range(2)
    )
    assert contents(first) == contents(again)
    assert first.schema.fingerprint == again.schema.fingerprint


def test_rates_of_one_label_are_finite_and_ids_of_one_fold_have_none() -> None:
    every = pd.DataFrame({"c": ["a", "b"] * 50, "click": [1] * 100})
    schema = Schema([Categorical("c", label_rates=True)], [Task("ctr", "click")])
    assert np.abs(matrix(prepare(schema, every, holdout=0).train)[:, 0]).max() < 0.5
    nested = pd.DataFrame({"c": [f"c{i // 4}" for i in range(100)], "click": [0, 1] * 50})
    grouped = prepare(
        Schema(schema.features, schema.tasks, group="g"), nested.assign(g=nested["c"]), test=nested.assign(g="x")
    )
    assert not matrix(grouped.train).any()
    assert not matrix(grouped.test).any()
    assert "the label rates of 'c' are left at 0 for task 'ctr': no id is in two folds" in grouped.notes


def test_a_single_row_of_a_rare_label_says_little() -> None:
    rare = label_rates.rate_columns(np.array([[1.0]]), np.array([[1.0]]), np.array([[1e-5]]))
    assert rare[0, 0] == pytest.approx(np.log(2), abs=1e-3)  # one row beside the one expected in the prior


def test_memory_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rates, "available_memory", lambda: 1000)
    with pytest.raises(DataError, match=re.escape("of memory, more than is free: set `label_rates: false`, a larger")):
        prepare(SCHEMA, frame())


OPTIONS: Mapping[str, Any] = {
    "MultiCategorical 'c': `label_rates` is for features with one category per row": lambda: MultiCategorical(
        "c", label_rates=True
    ),
    "Categorical 'c': `label_rates` must be true or false, got 1": lambda: Categorical("c", label_rates=1),  # type: ignore[arg-type]
    "feature 'c' has `label_rates`, which need a binary task": lambda: Schema(
        [Categorical("c", label_rates=True)], [Task("t", "y", kind="regression")]
    ),
}


@pytest.mark.parametrize("message", OPTIONS)
def test_options_are_checked(message: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(message)):
        OPTIONS[message]()


def test_a_card_sets_them() -> None:
    card = {"features": [{"categorical": "c_*", "label_rates": True}], "tasks": [{"name": "t", "label": "y"}]}
    schema = Schema.from_dict(card).resolve(["c_1", "y"])
    assert schema.features == (Categorical("c_1", label_rates=True),)
    assert Schema.from_dict(schema.to_dict()) == schema
    assert FIRST == 2
