import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recmtl.data.columns.values import as_text
from recmtl.data.profiling.tally import CategoryTally, LabelTally, NumberTally, Sample
from recmtl.schema import Task

NAN = float("nan")


def categories(*batches, bound=100):
    tally = CategoryTally(bound)
    for batch in batches:
        values, codes = as_text(pa.array(batch, pa.string()), "c")
        tally.add(values, codes, len(batch), sum(v is None for v in batch))
    return tally


def numbers(*batches, bound=100):
    tally = NumberTally(bound)
    for batch in batches:
        tally.add(np.array(batch, np.float64))
    return tally


def counted(tally):
    return dict(zip(*tally.counts().to_pydict().values(), strict=True))


def test_categories():
    tally = categories(["a", "b", None], ["a", "c"], [])
    assert (tally.rows, tally.missing, tally.elements, tally.distinct, tally.more) == (5, 1, 4, 3, False)
    assert counted(tally) == {"a": 2, "b": 1, "c": 1}
    empty = categories()
    assert (empty.distinct, counted(empty)) == (0, {})


def test_beyond_the_bound_frequent_categories_are_still_counted():
    batches = [["often"] * 5 + [f"{i}-{j}" for j in range(8)] for i in range(20)]
    tally = categories(*batches, bound=20)
    assert (tally.distinct, tally.more, tally.elements) == (20, True, 260)
    assert counted(tally)["often"] == 100
    assert len(counted(tally)) <= 20
    exact = categories(["a", "b"], ["c", "a"], bound=3)
    assert (exact.distinct, exact.more) == (3, False)
    assert (categories(["a", "b"], ["c", "d"], bound=3).distinct, exact.more) == (3, False)


def test_unseen_counts_rows_and_not_categories():
    trained = categories(["a", "b", None])
    test = categories(["a", "x", "x"], ["y", "b", None])
    assert test.unseen(trained) == 3 / 5  # x, x, y of a, x, x, y, b
    assert test.unseen(test) == 0
    assert np.isnan(test.unseen(categories(["a", "b", "c", "d"], bound=3)))
    assert np.isnan(categories([None]).unseen(trained))


@given(st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(NAN), max_size=8), max_size=6))
def test_numbers_equal_those_of_all_rows_at_once(batches):
    values = np.array([v for batch in batches for v in batch])
    present = values[~np.isnan(values)]
    tally = numbers(*batches)
    assert (tally.rows, tally.missing) == (len(values), len(values) - len(present))
    assert tally.distinct == len(np.unique(present))
    if len(present):
        assert (tally.low, tally.high) == (present.min(), present.max())
        assert tally.mean == pytest.approx(present.mean(), rel=1e-9, abs=1e-6)
        assert tally.deviation == pytest.approx(present.std(), rel=1e-6, abs=1e-4)
    else:
        assert np.isnan(tally.deviation)


def test_distinct_numbers_have_a_bound():
    assert (numbers([1, 2, 3], [1, 0, -0.0], bound=4).distinct, numbers([1, 2], [3], bound=2).distinct) == (4, 2)
    tally = numbers([1, 2], [3], [4], bound=2)
    assert (tally.distinct, tally.more, tally.mean) == (2, True, 2.5)


def test_shift_is_in_deviations_of_the_training_rows():
    trained = numbers([0, 2, NAN])  # mean 1, deviation 1
    assert numbers([3, 4]).shift(trained) == pytest.approx(2.5)
    assert np.isnan(numbers([NAN]).shift(trained))
    assert np.isnan(numbers([3]).shift(numbers([1, 1])))


def test_a_sample_of_few_rows_is_all_of_them():
    sample = Sample(10)
    for start in (0, 4):
        sample.keep({"x": pa.array(start + sample.draw(4))})
    assert sample.table().to_pydict() == {"x": list(range(8))}


def test_a_sample_is_uniform():
    """Each of 100 batches has its share of 1,000 rows within chance; the columns of a row stay together."""
    sample = Sample(1000)
    for batch in range(100):
        drawn = sample.draw(200)
        sample.keep({"batch": pa.array(np.full(len(drawn), batch)), "row": pa.array(drawn + 200 * batch)})
    table = sample.table()
    rows, batches = table["row"].to_numpy(), table["batch"].to_numpy()
    assert len(np.unique(rows)) == table.num_rows == 1000
    assert (rows // 200 == batches).all()
    assert stats.chisquare(np.bincount(batches, minlength=100)).pvalue > 1e-3


def test_labels_count_only_if_their_condition_holds():
    tasks = [Task("ctr", "click"), Task("cvr", "buy", given="click"), Task("stay", "stay", kind="regression")]
    tally = LabelTally([*tasks, Task("none", "none")])
    for click, buy in (([1, 0, 1], [1, 0, NAN]), ([1, NAN], [0, 1])):
        stay = np.array(click) * 2.0
        tally.add({"click": np.array(click), "buy": np.array(buy), "stay": stay, "none": stay * NAN})
    ctr, cvr, regression = tally.table("train")
    assert ctr == ("train", "ctr", None, 4, 3, 0.75)
    assert cvr == ("train", "cvr", None, 2, 1, 0.5)
    assert regression[:4] == ("train", "stay", None, 4)
    assert np.isnan(regression.positives)
    assert regression.mean == 1.5
