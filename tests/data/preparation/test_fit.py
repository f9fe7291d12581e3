import warnings

import numpy as np
import pyarrow as pa
import pytest

from recmtl.data.preparation.fit import Fitter
from recmtl.errors import BadValueError
from recmtl.models.links import link_of
from recmtl.schema import Categorical, Funnel, MultiCategorical, Numeric, Schema, Task

LABEL = [Task("t", "y")]


def learn(schema, *batches):
    """Fit on batches given as mappings; a missing label column is added."""
    fitter = Fitter(schema)
    for batch in batches:
        rows = len(next(iter(batch.values())))
        fitter.add(pa.RecordBatch.from_pydict({"y": [i % 2 for i in range(rows)]} | batch))
    return fitter.finish()


def vocabulary(feature, *batches):
    fitted, _ = learn(Schema([feature], LABEL), *({"c": batch} for batch in batches))
    return fitted.vocabularies["c"].to_pylist()


class TestVocabulary:
    def test_most_frequent_first_equal_counts_by_text(self):
        assert vocabulary(Categorical("c"), ["b", "a", "c"], ["c", "d", None]) == ["c", "a", "b", "d"]

    def test_min_count_counts_over_batches(self):
        assert vocabulary(Categorical("c", min_count=2), ["a", "b"], ["b", "c"], ["a"]) == ["a", "b"]

    def test_max_vocabulary_keeps_the_most_frequent(self):
        batch = ["a", "b", "b", "c", "c", "c", "d"]
        assert vocabulary(Categorical("c", max_vocabulary=2), batch) == ["c", "b"]
        assert vocabulary(Categorical("c", max_vocabulary=9), batch) == ["c", "b", "a", "d"]
        assert vocabulary(Categorical("c", max_vocabulary=3, min_count=2), batch) == ["c", "b"]

    def test_one_category_from_batches_of_different_types(self):
        assert vocabulary(Categorical("c"), [1, 2], [2.0, float("nan")], ["2", "2.0"]) == ["2", "1"]

    def test_merging_counts_early_changes_nothing(self, monkeypatch):
        batches = [[f"v{i * j % 7}" for i in range(9)] for j in range(1, 9)]
        whole = vocabulary(Categorical("c", min_count=2), *batches)
        monkeypatch.setattr("recmtl.data.columns.vocabularies.MERGE_AFTER", 3)
        assert vocabulary(Categorical("c", min_count=2), *batches) == whole

    def test_elements_of_lists(self):
        fitted, _ = learn(
            Schema([MultiCategorical("c")], LABEL), {"c": ["a|b", "b", None]}, {"c": ["b|c|a|b", "", "a"]}
        )
        assert fitted.vocabularies["c"].to_pylist() == ["b", "a", "c"]
        assert fitted.lengths == {"c": 4}

    @pytest.mark.parametrize(("batch", "length"), [(["a|b|c"], 2), (["a"], 1), ([None], 1)])
    def test_length_is_at_most_max_length_and_at_least_one(self, batch, length):
        fitted, _ = learn(Schema([MultiCategorical("c", max_length=2)], LABEL), {"c": pa.array(batch, pa.string())})
        assert fitted.lengths == {"c": length}

    def test_hashed_features_keep_none(self):
        fitted, notes = learn(Schema([Categorical("c", hash_buckets=8)], LABEL), {"c": ["a", "b"]})
        assert fitted.vocabularies == {}
        assert fitted.id_blocks[0].size == 10
        assert notes == []


class TestRates:
    def test_rows_and_mean_with_missing_labels_condition_and_weights(self):
        schema = Schema(
            [Categorical("c")],
            [Task("cvr", "buy", given="click"), Task("stay", "seconds", kind="regression")],
            weight="w",
        )
        fitted, _ = learn(
            schema,
            {"c": list("ab"), "click": [1, 1], "buy": [1, 0], "seconds": [10.0, None], "w": [3.0, 1.0]},
            {"c": list("ab"), "click": [0, None], "buy": [1, None], "seconds": [-1.0, 0.5], "w": [2.0, 4.0]},
        )
        assert fitted.rate(schema.tasks[0]) == (2, 0.75)
        assert fitted.rates["buy", None] == (3, pytest.approx(5 / 6))
        assert fitted.rates["click", None] == (3, pytest.approx(4 / 6))
        assert fitted.rate(schema.tasks[1]) == (3, pytest.approx((30 - 2 + 2) / 9))
        spread = (3 * (10 - 30 / 9) ** 2 + 2 * (-1 - 30 / 9) ** 2 + 4 * (0.5 - 30 / 9) ** 2) / 9
        assert fitted.label_deviations == {("seconds", None): pytest.approx(spread**0.5)}

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_the_deviation_of_a_label_far_from_0_over_batches(self, size):
        random = np.random.default_rng(0)
        label, weight = 1.7e9 + random.normal(size=100), random.integers(0, 4, 100).astype(float)
        tasks = [Task("t", "y", kind="regression")]
        parts = [slice(start, start + size) for start in range(0, 100, size)]
        batches = ({"c": ["a"] * len(label[part]), "y": label[part], "w": weight[part]} for part in parts)
        fitted, _ = learn(Schema([Categorical("c")], tasks, weight="w"), *batches)
        mean = np.average(label, weights=weight)
        assert fitted.label_moments(tasks[0]) == pytest.approx(
            (mean, np.average((label - mean) ** 2, weights=weight) ** 0.5)
        )

    def test_a_constant_or_absent_label_has_scale_1(self):
        tasks = [Task("t", "y", kind="regression"), Task("none", "z", kind="regression")]
        label = {"c": ["a"] * 3, "y": [0.1, 0.1, 0.1], "z": pa.array([None] * 3, pa.float64())}
        fitted, _ = learn(Schema([Categorical("c")], tasks), label, label)
        assert [fitted.label_moments(task) for task in tasks] == [(pytest.approx(0.1), 1.0), (0.0, 1.0)]

    def test_funnel(self):
        schema = Schema([Categorical("c")], [Task("ctr", "click")], funnel=Funnel("click", "buy"))
        fitted, notes = learn(schema, {"c": list("abcd"), "click": [1, 1, 0, 0], "buy": [1, 0, 0, 1]})
        assert [fitted.rate(t) for t in schema.reported_tasks] == [(4, 0.5), (2, 0.5), (4, 0.5)]
        assert notes == ["1 training row has a buy without a click"]

    @pytest.mark.parametrize(("labels", "share"), [([0, 0], "0"), ([1, 1, None], "1")])
    def test_one_class(self, labels, share):
        _, notes = learn(Schema([Categorical("c")], LABEL), {"c": ["a", "b", "a"][: len(labels)], "y": labels})
        assert notes == [f"task 't' has one class in the training rows: every label is {share}"]

    def test_no_label(self):
        fitted, notes = learn(Schema([Categorical("c")], LABEL), {"c": ["a", "b"], "y": pa.nulls(2)})
        assert fitted.rates["y", None] == (0, 0.0)
        assert notes == ["task 't' has no training row with a label"]

    def test_one_value(self):
        task = Task("t", "y", kind="regression")
        _, notes = learn(Schema([Categorical("c")], [task]), {"c": ["a", "b"], "y": [2.5, 2.5]})
        assert notes == ["task 't' has one value in the training rows: every label is 2.5"]

    @pytest.mark.parametrize("kind", ["binary", "regression", "multiclass", "amount"])
    def test_weights_of_zero(self, kind):
        """Rows of weight 0 do not count, and so nothing is known of the label."""
        schema = Schema([Categorical("c")], [Task("t", "y", kind=kind, weight_column="w")])
        fitted, notes = learn(schema, {"c": ["a", "b"], "y": [0, 1], "w": [0, 0]})
        assert fitted.rates["y", None, "w"] == (0, 0.0)
        assert notes == ["task 't' has no training row with a label and a weight above 0"]
        constant = link_of(fitted.schema.tasks[0]).constant(
            fitted.schema.tasks[0], fitted.rates["y", None, "w"], fitted
        )
        assert constant.softmax(0).tolist() == [0.5, 0.5] if kind == "multiclass" else constant.item() == 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"y": [0, 2]}, "row 1, column 'y': '2' is not a binary label: expected a number from 0 to 1, or nothing"),
        ({"y": [None, 1.5]}, "row 1, column 'y': '1.5' is not a binary label"),
        (
            {"y": ["1", "no"]},
            "row 1, column 'y': 'no' is not a binary label: expected 0 or 1; if these are names of classes, say "
            "`kind: multiclass`, or `--kind y=multiclass`",
        ),
        ({"z": ["1", "no"]}, "row 1, column 'z': 'no' is not a binary label: expected 0 or 1"),
        ({"r": ["1", "high"]}, "'high' is not a number; if these are names of classes, say `kind: multiclass`"),
        ({"z": [None, 0.5]}, "row 1, column 'z': '0.5' is not a binary label: expected 0, 1 or nothing"),
        ({"y": ["0", "-1"]}, "row 1, column 'y': '-1' is not a binary label"),
        ({"w": [1, -0.5]}, "row 1, column 'w': -0.5 is not a weight: expected a number from 0"),
        ({"w": [1, None]}, "row 1, column 'w': None is not a weight"),
        ({"w": ["1", "x"]}, "row 1, column 'w': 'x' is not a number"),
        ({"x": ["1", "x"]}, "row 1, column 'x': 'x' is not a number"),
        ({"r": ["1", "x"]}, "row 1, column 'r': 'x' is not a number"),
        ({"r": [1, float("inf")]}, "row 1, column 'r': inf is not a finite number"),
    ],
)
def test_bad_values(batch, message):
    tasks = [Task("t", "y"), Task("u", "r", kind="regression"), Task("v", "y", given="z")]
    good = {"x": [1.0, 2.0], "y": [0, 1], "z": [0, 1], "r": [2.0, -7.5], "w": [0.0, 1.5]}
    schema = Schema([Numeric("x")], tasks, weight="w")
    learn(schema, good)
    with pytest.raises(BadValueError) as caught:
        learn(schema, good | batch)
    assert message in str(caught.value)


def test_notes_on_categories():
    columns = {
        "one": ["a", "a", "a"],
        "rare": ["a", "b", "c"],
        "none": pa.nulls(3),
        "good": ["a", "b", "a"],
        "or_none": ["a", None, "a"],
        "or_rare": ["a", "a", "b"],
        "list": ["a,b", "a", "b"],
        "same": ["a|b"] * 3,
    }
    features = [Categorical("one"), Categorical("rare", min_count=2), Categorical("none"), Categorical("good")]
    features += [Categorical("or_none"), Categorical("or_rare", min_count=2)]
    _, notes = learn(Schema([*features, MultiCategorical("list"), MultiCategorical("same")], LABEL), columns)
    assert notes == [
        "categorical column 'one' is constant in the training rows",
        "categorical column 'rare' has no category frequent enough in the training rows",
        "categorical column 'none' is missing in every training row",
        "categorical column 'or_none' has one category, 'a', or none in the training rows",
        "categorical column 'or_rare' has one category, 'a', or is unknown in the training rows",
        "multi-categorical column 'list' has at most one category in every training row: is '|' its separator?",
        "multi-categorical column 'same' is constant in the training rows",
    ]


@pytest.mark.parametrize(
    ("batches", "integer"),
    [
        ([[1, 2], [3, None]], True),
        ([["1"], ["-3", None]], True),
        ([[1, 2], ["a", "3"]], False),
        ([["01"]], False),
    ],
)
def test_integer_keys(batches, integer):
    schema = Schema([Categorical("c")], LABEL, keys=["k"])
    fitted, _ = learn(schema, *({"c": ["a"] * len(batch), "k": batch} for batch in batches))
    assert fitted.integer_keys == (frozenset({"k"}) if integer else frozenset())


def test_empty_batch_changes_nothing():
    schema = Schema([Categorical("c"), Numeric("x"), MultiCategorical("m")], LABEL, keys=["k"])
    batch = {"c": ["a", "b"], "x": [1.0, 2.0], "m": ["a|b", "c"], "k": [1, 2]}
    table = pa.table(batch)
    empty = {name: table[name].combine_chunks().slice(0, 0) for name in batch} | {"y": pa.array([], pa.int64())}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert learn(schema, batch, empty)[0].fingerprint == learn(schema, batch)[0].fingerprint
