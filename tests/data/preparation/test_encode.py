import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recmtl.data import DataError, encode_rows, prepare
from recmtl.data.columns.values import stable_hash
from recmtl.data.store.format import IDS, LABELS, LIST_PREFIX, NUMERIC, WEIGHT
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

TASKS = [Task("t", "y")]
LARGE = [2**24, 2**24 + 1, 2**53, 2**53 + 1, 2**62 + 1, 2**62 + 3]

LIST = LIST_PREFIX + "m"


def fit(schema, **columns):
    rows = len(next(iter(columns.values())))
    return prepare(schema, pa.table({"y": [i % 2 for i in range(rows)]} | columns), holdout=0).schema


def encode(fitted, data, part, labelled=False):
    data = pa.table(data) if isinstance(data, dict) else data
    (rows,) = encode_rows(fitted, data, labelled, note=lambda sentence: None)
    column = rows.table.column(part).combine_chunks()
    if pa.types.is_list(column.type):
        return column.to_pylist()
    width = {IDS: fitted.id_columns, NUMERIC: len(fitted.numeric), LABELS: len(fitted.schema.labels)}.get(part, 1)
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    return values.to_numpy().reshape(-1, width)


class TestCategorical:
    def test_unknown_missing_rare_and_cut_off(self):
        feature = Categorical("c", min_count=2, max_vocabulary=2)
        fitted = fit(Schema([feature], TASKS), c=["a"] * 4 + ["b"] * 3 + ["cut"] * 2 + ["rare"] + [None])
        ids = encode(fitted, {"c": ["a", "b", "cut", "rare", "never seen", None, "", "NaN"]}, IDS)
        assert ids.dtype == np.int32
        expected = [FIRST, FIRST + 1, UNKNOWN, UNKNOWN, UNKNOWN, MISSING, MISSING, MISSING]
        assert ids[:, 0].tolist() == expected

    @pytest.mark.parametrize("kind", ["csv", "parquet", "frame", "object", "text", "category"])
    def test_large_ids_stay_distinct_end_to_end(self, tmp_path, kind):
        frame = pd.DataFrame({"c": LARGE * 2, "y": [0, 1] * len(LARGE)})
        changed = {
            "object": frame.astype({"c": object}),
            "text": frame.astype({"c": str}),
            "category": frame.astype({"c": "category"}),
        }
        data = changed.get(kind, frame)
        if kind == "csv":
            data = tmp_path / "a.csv"
            frame.to_csv(data, index=False)
        elif kind == "parquet":
            data = tmp_path / "a.parquet"
            frame.to_parquet(data)
        fitted = prepare(Schema([Categorical("c")], TASKS), data, holdout=0).schema
        assert fitted.vocabularies["c"].to_pylist() == sorted(map(str, LARGE))
        ids = encode(fitted, frame, IDS)[:, 0]
        assert len(set(ids.tolist())) == len(LARGE)
        np.testing.assert_array_equal(ids, encode(fitted, data, IDS)[:, 0])
        near = pd.DataFrame({"c": [LARGE[-1] + 1]})
        assert encode(fitted, near, IDS).tolist() == [[UNKNOWN]]

    def test_trained_on_a_file_that_pandas_wrote_predicts_from_a_frame(self, tmp_path):
        """A missing value makes pandas write 3 as 3.0 and changes the column's type; the category stays."""
        frame = pd.DataFrame({"c": [3, None, 4, 3], "b": [True, False, True, True], "y": [0, 1, 0, 1]})
        frame.to_csv(tmp_path / "a.csv", index=False)
        assert "3.0" in (tmp_path / "a.csv").read_text()
        fitted = prepare(Schema([Categorical("c"), Categorical("b")], TASKS), tmp_path / "a.csv", holdout=0).schema
        expected = [[FIRST, FIRST], [MISSING, FIRST + 1], [FIRST + 1, FIRST], [FIRST, FIRST]]
        assert encode(fitted, tmp_path / "a.csv", IDS).tolist() == expected
        assert encode(fitted, frame, IDS).tolist() == expected
        assert encode(fitted, frame.astype({"c": "Int64", "b": str}), IDS).tolist() == expected

    def test_hash_buckets(self):
        fitted = fit(Schema([Categorical("c", hash_buckets=100)], TASKS), c=["a", "b", None])
        values = [f"v{i}" for i in range(50)]
        ids = encode(fitted, {"c": [*values, None, ""]}, IDS)[:, 0]
        buckets = (stable_hash(pa.array(values)) % np.uint64(100)).astype(int)
        assert ids.tolist() == [*(buckets + FIRST).tolist(), MISSING, MISSING]
        assert ids.max() < fitted.id_blocks[0].size == 102
        assert ids[:4].tolist() == [45, 36, 94, 84]  # pinned: what a saved model reads

    def test_hash_is_of_the_category_not_of_the_source(self):
        fitted = fit(Schema([Categorical("c", hash_buckets=1000)], TASKS), c=[1, 2])
        ids = [encode(fitted, {"c": c}, IDS).tolist() for c in ([7, 8], ["7", "8"], [7.0, 8.0], ["7.0", "8.0"])]
        assert ids[0] == ids[1] == ids[2] == ids[3]


class TestMulti:
    def test_lists(self):
        fitted = fit(Schema([MultiCategorical("m", max_length=3)], TASKS), m=["a|b|c|d", "a", "b|a", None])
        a, b, _ = (fitted.vocabularies["m"].to_pylist().index(v) + FIRST for v in "abc")
        data = [["c", "new", "a", "b"], ["b"], [], None, ["a", None], [" b ", "a"]]
        expected = [
            [UNKNOWN, a, b],
            [b],
            [MISSING],
            [MISSING],
            [a],
            [b, a],
        ]
        assert encode(fitted, {"m": data}, LIST) == expected
        text = ["c|new|a|b", "b", "", None, "a|", " b |a"]
        assert encode(fitted, {"m": text}, LIST) == expected

    def test_longer_lists_than_in_training_are_cut(self):
        fitted = fit(Schema([MultiCategorical("m"), Categorical("c")], TASKS), m=["a|b", "a"], c=["x", "x"])
        assert fitted.id_columns == 1
        rows = {"m": ["b|a|a|a"], "c": ["x"]}
        assert (encode(fitted, rows, IDS).tolist(), encode(fitted, rows, LIST)) == ([[FIRST]], [[FIRST, FIRST]])

    @pytest.mark.parametrize(
        ("keep", "kept"), [({}, ["c", "d"]), ({"keep": "last"}, ["c", "d"]), ({"keep": "first"}, ["a", "b"])]
    )
    def test_a_cut_list_keeps_its_last_or_first_categories_and_a_note_counts_the_rows(self, keep, kept):
        schema = Schema([MultiCategorical("m", max_length=2, **keep)], TASKS)
        later = pa.table({"m": ["a|b|c|d", "d|c", "a|b|c"], "y": [0, 1, 0]})
        data = prepare(schema, later.slice(0, 2), test=later, holdout=0)
        words = data.schema.vocabularies["m"].to_pylist()
        (first, *_), notes = data.test.table[LIST].to_pylist(), data.notes
        assert [words[i - FIRST] for i in first] == kept
        which = keep.get("keep", "last")
        assert notes == (
            f"column 'm' has more than 2 categories in 1 of 2 train rows: the {which} 2 are kept",
            f"column 'm' has more than 2 categories in 2 of 3 test rows: the {which} 2 are kept",
        )

    def test_lists_that_were_written_as_text_are_read_like_lists(self):
        lists = [["a", "b"], ["c"], [], ["it's", "x, y"], ["1", "2"]]
        texts = {
            "python": [str(row) for row in lists],
            "json": [json.dumps(row) for row in lists],
            "numpy": [str(np.array(row)) for row in lists],
        }
        fitted = fit(Schema([MultiCategorical("m")], TASKS), m=lists)
        expected = encode(fitted, {"m": lists}, LIST)
        for text in texts.values():
            assert encode(fitted, {"m": text}, LIST) == expected
        assert fit(fitted.schema, m=texts["json"]).vocabularies["m"] == fitted.vocabularies["m"]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("[['a'], ['b']]", "is not a list of single values"),
            ("[1 2 ... 8 9]", "is not a whole list: NumPy left out"),
        ],
    )
    def test_a_list_as_text_that_cannot_be_read_is_an_error(self, value, message):
        with pytest.raises(DataError, match=f"row 2, column 'm'.*{message}"):
            fit(Schema([MultiCategorical("m")], TASKS), m=["a|b", value])

    def test_hashed(self):
        fitted = fit(Schema([MultiCategorical("m", hash_buckets=9)], TASKS), m=["a|b", "c", None])
        ids = encode(fitted, {"m": ["b|a", None]}, LIST)
        a, b = ((stable_hash(pa.array(["a", "b"])) % np.uint64(9)).astype(int) + FIRST).tolist()
        assert ids == [[b, a], [MISSING]]


FULL = Schema(
    [Categorical("c"), Numeric("x")],
    [Task("t", "y"), Task("u", "r", given="click", kind="regression")],
    group="g",
    keys=["k", "c"],
    weight="w",
)
DATA = {
    "c": ["a", "b", "a"],
    "x": [1.0, 2.0, 3.0],
    "y": [0, 1, None],
    "r": [2.5, None, -1.0],
    "click": [1, 0, 1],
    "g": [10, 11, 11],
    "k": ["p", "q", None],
    "w": [0.5, 2.0, 0.0],
}


class TestRoles:
    def test_labels_weight_and_keys(self):
        (rows,) = encode_rows(fit(FULL, **DATA), pa.table(DATA))
        np.testing.assert_array_equal(rows.labels["y"], [0, 1, np.nan])
        np.testing.assert_array_equal(rows.labels["r"], [2.5, np.nan, -1])
        np.testing.assert_array_equal(rows.labels["click"], [1, 0, 1])
        np.testing.assert_array_equal(rows.weight, [0.5, 2.0, 0.0])
        expected = {"g": [10, 11, 11], "k": ["p", "q", None], "c": ["a", "b", "a"]}
        assert rows.keys.to_pydict() == expected

    def test_rows_to_predict_need_features_alone(self):
        fitted = fit(FULL, **DATA)
        given = pa.table({"x": [None, 1.0], "c": ["new", None]})
        (rows,) = encode_rows(fitted, given, labelled=False, note=lambda sentence: None)
        assert all(np.isnan(label).all() for label in rows.labels.values())
        np.testing.assert_array_equal(rows.weight, [1.0, 1.0])
        assert rows.keys.to_pydict() == {"c": ["new", None]}
        ids = encode(fitted, {"x": [None, 1.0], "c": ["new", None]}, IDS)
        assert ids.tolist() == [[UNKNOWN], [UNKNOWN]]
        assert rows.packed().shape == (2, sum(rows.widths.values()))

    def test_present_labels_weights_and_keys_are_used(self):
        fitted = fit(FULL, **DATA)
        some = {name: DATA[name] for name in ("x", "c", "y", "w", "k")}
        (rows,) = encode_rows(fitted, pa.table(some), labelled=False)
        np.testing.assert_array_equal(rows.labels["y"], [0, 1, np.nan])
        np.testing.assert_array_equal(rows.weight, [0.5, 2.0, 0.0])
        assert rows.keys.column_names == ["k", "c"]
        assert encode(fitted, some, WEIGHT).dtype == np.float32

    @pytest.mark.parametrize("missing", ["y", "g", "k", "w", "click"])
    def test_labelled_rows_need_every_column(self, missing):
        fitted = fit(FULL, **DATA)
        data = pa.table({name: column for name, column in DATA.items() if name != missing})
        with pytest.raises(SchemaError, match=f"column '{missing}' is not in the given table"):
            next(encode_rows(fitted, data))

    def test_features_are_always_required(self):
        with pytest.raises(SchemaError, match="column 'x' is not in the given table"):
            next(encode_rows(fit(FULL, **DATA), pa.table({"c": ["a"]}), labelled=False))

    def test_bad_values_are_named(self):
        fitted = fit(FULL, **DATA)
        with pytest.raises(DataError, match=r"the given table, row 2, column 'x': 'z' is not a number"):
            next(encode_rows(fitted, pa.table({"c": ["a", "a"], "x": ["1", "z"]}), labelled=False))
        with pytest.raises(DataError, match=r"the given table, row 3, column 'g': 'A7' is not an integer"):
            next(encode_rows(fitted, pa.table(DATA | {"g": ["1", None, "A7"]})))

    @pytest.mark.parametrize("source", [pa.int64(), pa.string(), pa.uint64()])
    def test_keys_keep_every_digit(self, source):
        keys = [2**53 + 1, 2**63 - 1, None]
        fitted = fit(FULL, **(DATA | {"g": keys}))
        (rows,) = encode_rows(fitted, pa.table(DATA | {"g": pa.array(keys).cast(source)}))
        assert rows.keys.column("g").type == pa.int64()
        assert rows.keys.column("g").to_pylist() == keys

    def test_integers_beyond_64_bits_are_text(self):
        fitted = fit(FULL, **(DATA | {"g": pa.array([2**64 - 1, 1, 1], pa.uint64())}))
        (rows,) = encode_rows(fitted, pa.table(DATA))
        assert rows.keys.column("g").to_pylist() == ["10", "11", "11"]

    def test_streams_batch_by_batch(self, monkeypatch):
        monkeypatch.setattr("recmtl.data.sources.typed.FRAME_ROWS", 2)
        seen: list[int] = []
        parts = list(encode_rows(fit(FULL, **DATA), pa.table(DATA), progress=lambda what, rows: seen.append(rows)))
        assert [len(part) for part in parts] == seen == [2, 1]
        assert [part.keys.column("g").to_pylist() for part in parts] == [[10, 11], [11]]

    def test_no_rows(self):
        with pytest.raises(DataError, match="there are no rows in the given table"):
            list(encode_rows(fit(FULL, **DATA), pa.table(DATA).slice(0, 0)))
