"""Fitters of parts, merged in their order, have learned what one fitter learns from all rows."""

import itertools
import pickle

import numpy as np
import pyarrow as pa
import pytest

from recmtl.data.columns import row_sample
from recmtl.data.columns.row_sample import SampledFrom
from recmtl.data.preparation.fit import Fitter
from recmtl.schema import Binned, Categorical, MultiCategorical, Numeric, Schema, Task, Thinning, Timestamp

ROWS = 600
RNG = np.random.default_rng(5)
SCHEMA = Schema(
    [
        *(Categorical(name) for name in ("small", "large", "mixed", "same", "late")),
        Categorical("hashed", hash_buckets=3),
        MultiCategorical("list", max_length=3),
        Numeric("x", transform="standardize"),
        Numeric("knots", transform="knots"),
        Numeric("log", transform="log1p"),
        Binned("bins", bins=4),
        Timestamp("day", parts=("month", "weekday")),
    ],
    [
        Task("click", "click", weight_column="own"),
        Task("kind", "kind", kind="multiclass"),
        Task("paid", "paid", kind="amount", loss="ziln", given="click"),
        Task("stars", "stars", kind="regression"),
    ],
    keys=["k"],
    weight="w",
)


def column(name: str) -> pa.Array:
    """A column with what differs between parts: types, missing values, a category that comes late."""
    number = RNG.integers(0, 9, ROWS)
    made = {
        "small": pa.array(number),
        "large": pa.array(RNG.integers(0, 40, ROWS) + (1 << 40)),
        "mixed": pa.array([*map(str, number[:200]), *(f"v{i}" for i in number[200:])]),
        "same": pa.array(["one"] * ROWS),
        "late": pa.array(["a"] * 450 + ["b"] * 150),
        "hashed": pa.array([f"h{i}" for i in number]),
        "list": pa.array([None if i == 3 else "|".join("abcd"[: i % 5]) for i in number]),
        "x": pa.array(RNG.normal(10, 1, ROWS), mask=number == 0),
        "knots": pa.array(RNG.exponential(1, ROWS)),
        "log": pa.array(RNG.normal(0, 50, ROWS)),
        "bins": pa.array(RNG.normal(0, 1, ROWS)),
        "day": pa.array([f"2024-03-{1 + i:02}" for i in number]),
        "click": pa.array(RNG.integers(0, 2, ROWS)),
        "kind": pa.array([None if i == 8 else "zyxwvutsr"[i] for i in RNG.permutation(np.sort(number))]),
        "paid": pa.array(np.where(number > 4, number * 1.5, 0)),
        "stars": pa.array(RNG.normal(3, 1, ROWS)),
        "own": pa.array(RNG.uniform(0, 2, ROWS)),
        "w": pa.array(RNG.uniform(0, 2, ROWS)),
        "k": pa.array(number + (1 << 55)),
    }
    return made[name]


TABLE = pa.record_batch({name: column(name) for name in SCHEMA.columns})
THINNING = Thinning(0.5, ("click",), ("train",))


def learned(cuts: list[int], moved: bool = False, limit: bool = False) -> Fitter:
    """A fitter for each part of the rows, merged; `moved` sends each through another process."""
    whole: Fitter | None = None
    for start, end in itertools.pairwise([0, *cuts, ROWS]):
        sample = SampledFrom(start, whole.sample_limit) if whole and limit else SampledFrom(start)
        fitter = Fitter(SCHEMA, THINNING, sample)
        for first in range(start, end, 70):
            fitter.add(TABLE.slice(first, min(70, end - first)))
        fitter = pickle.loads(pickle.dumps(fitter)) if moved else fitter
        if whole is None:
            whole = fitter
        else:
            whole.merge(fitter)
    assert whole is not None
    return whole


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are cut and joined and counts are merged, as those of many rows are."""
    monkeypatch.setattr(row_sample, "SAMPLE", 100)
    monkeypatch.setattr(row_sample, "SPARE", 30)
    monkeypatch.setattr(row_sample, "MOST_BLOCKS", 3)
    monkeypatch.setattr("recmtl.data.columns.vocabularies.MERGE_AFTER", 20)
    monkeypatch.setattr("recmtl.data.columns.vocabularies.SMALL_INTEGERS", 7)


@pytest.mark.parametrize("cuts", [[1], [300], [100, 100, 450, 599], list(range(50, ROWS, 50))], ids=len)
def test_merged_fitters_are_one(cuts: list[int]) -> None:
    (one, notes), (merged, more) = learned([]).finish(), learned(cuts).finish()
    assert more == notes
    for name in ("vocabularies", "lengths", "medians", "ranges", "constants", "integer_keys", "quantiles", "missing"):
        assert getattr(merged, name) == getattr(one, name), name
    assert merged.schema == one.schema
    assert merged.history.waiting == one.history.waiting
    for name, moments in one.moments.items():
        assert merged.moments[name] == pytest.approx(tuple(moments), rel=1e-12)
    for name, shares in one.class_shares.items():
        assert merged.class_shares[name] == pytest.approx(shares, rel=1e-12)
    assert merged.log_moments["paid"] == pytest.approx(tuple(one.log_moments["paid"]), rel=1e-12)
    assert list(merged.label_deviations.values()) == pytest.approx(list(one.label_deviations.values()), rel=1e-12)
    assert [*merged.unthinned_means.values()] == pytest.approx([*one.unthinned_means.values()], rel=1e-12)
    for key, rate in one.rates.items():
        assert merged.rates[key] == pytest.approx(tuple(rate), rel=1e-12)


def test_where_a_part_was_learned_changes_no_bit() -> None:
    cuts = [100, 100, 450, 599]
    here, there = (learned(cuts, moved, limit).finish()[0] for moved, limit in ((False, False), (True, True)))
    assert there.fingerprint == here.fingerprint
