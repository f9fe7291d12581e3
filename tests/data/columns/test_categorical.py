import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from recmtl.data import DataError, encode_rows, prepare
from recmtl.data.columns import categorical, vocabularies
from recmtl.data.columns.categorical import CategoryFitter
from recmtl.data.columns.lookups import TextLookup
from recmtl.data.columns.vocabularies import VocabularyBuilder
from recmtl.data.store.format import IDS, LIST_PREFIX
from recmtl.schema import Categorical, MultiCategorical, Schema, Task
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN
from recmtl.schema.serialization import load_fitted, save_fitted

TASKS = [Task("t", "y")]


def fit(features, **columns):
    rows = len(next(iter(columns.values())))
    return prepare(Schema(features, TASKS), pa.table({"y": [i % 2 for i in range(rows)]} | columns), holdout=0).schema


def encode(fitted, **columns):
    (rows,) = encode_rows(fitted, pa.table(columns), labelled=False, note=lambda sentence: None)
    columns = [rows.table[name].to_pylist() for name in rows.table.column_names if name.startswith((IDS, LIST_PREFIX))]
    return [tuple(row) for row in zip(*columns, strict=True)]


class TestTextLookup:
    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    def test_equals_a_dictionary(self, kind):
        rng = np.random.default_rng(0)
        words = [f"w{i}" for i in rng.permutation(3000)]
        ids = {word: place for place, word in enumerate(words[:1000], FIRST)}
        values = [words[i] for i in rng.integers(0, 3000, 5000)] + [None, ""]
        found = TextLookup(pa.array(words[:1000], kind))(pa.array(values))
        assert found.tolist() == [ids.get(value, UNKNOWN) for value in values]

    @pytest.mark.parametrize("buckets", [1, 3])
    def test_equal_hashes_of_different_text(self, buckets):
        """All categories and many other words share a few hashes."""

        def hashed(values):
            return np.array([len(v or "") % buckets for v in values.to_pylist()], np.uint64)

        vocabulary = ["a", "bb", "", "ccc", "dd", "e"]
        values = ["e", "ddd", "a", None, "bb", "", "x", "dd", "ccc"]
        found = TextLookup(pa.array(vocabulary), hashed)(pa.array(values))
        assert found.tolist() == [FIRST + vocabulary.index(v) if v in vocabulary else UNKNOWN for v in values]

    def test_hashing_in_chunks(self, monkeypatch):
        vocabulary, values = pa.array([f"v{i}" for i in range(100)]), pa.array(["v99", "v0", "v50", "no"])
        monkeypatch.setattr("recmtl.data.columns.lookups.HASH_CHUNK", 7)
        assert TextLookup(vocabulary)(values).tolist() == [FIRST + 99, FIRST, FIRST + 50, UNKNOWN]

    def test_empty(self):
        assert TextLookup(pa.array([], pa.string()))(pa.array(["a", None])).tolist() == [UNKNOWN, UNKNOWN]
        assert TextLookup(pa.array(["a"]))(pa.array([], pa.string())).tolist() == []

    def test_built_once_per_fitted_schema(self, monkeypatch):
        fitted = fit([Categorical("c")], c=["a", "b"])
        assert encode(fitted, c=["b"]) == [([FIRST + 1],)]
        monkeypatch.setattr(TextLookup, "__init__", None)
        assert encode(fitted, c=["a", "z"]) == [([FIRST],), ([UNKNOWN],)]


class TestBounds:
    def test_categories_that_do_not_fit_in_memory(self, monkeypatch):
        monkeypatch.setattr(vocabularies, "MERGE_AFTER", 10)
        monkeypatch.setattr(vocabularies, "available_memory", lambda: 1000)
        features = [Categorical("user")]
        fit(features, user=[f"u{i}" for i in range(9)])
        with pytest.raises(DataError, match=r"'user' has too many categories for memory, found 100 so far: set `hash"):
            fit(features, user=[f"u{i}" for i in range(100)])

    def test_repeated_categories_fit_in_memory(self, monkeypatch):
        monkeypatch.setattr(vocabularies, "MERGE_AFTER", 10)
        monkeypatch.setattr(vocabularies, "available_memory", lambda: 1000)
        counted = VocabularyBuilder(Categorical("user"))
        for i in range(1000):
            counted.add(pa.array([f"u{i % 3}"]), np.zeros(1, np.int64))
        assert counted.vocabulary().to_pylist() == ["u0", "u1", "u2"]

    @pytest.mark.parametrize("options", [{"min_count": 2}, {"max_vocabulary": 2}, {"hash_buckets": 9}])
    def test_too_large_a_vocabulary(self, monkeypatch, options):
        monkeypatch.setattr(vocabularies, "MAX_CATEGORIES", 2)
        column = ["a", "a", "b", "b", "c"]
        fit([Categorical("c", **options)], c=column)
        with pytest.raises(DataError, match=r"column 'c' has 3 categories, expected at most 2: set `hash_buckets`"):
            fit([Categorical("c")], c=column)

    def test_hashed_feature_needs_no_counts(self, monkeypatch):
        monkeypatch.setattr(categorical, "VocabularyBuilder", None)
        features = [Categorical("c", hash_buckets=8), MultiCategorical("m", share_with="c")]
        fitter = CategoryFitter(Schema(features, TASKS))
        fitter.add(pa.record_batch({"c": ["a", "b"], "m": ["a|b|c", "d"]}))
        assert fitter.vocabularies() == {}
        assert fitter.lengths() == {"m": 3}


FEATURES = (Categorical("item", min_count=2), MultiCategorical("history", share_with="item"))
COLUMNS = {"item": ["a", "b", "b", None], "history": ["b|c|c", "a|d", None, "c"]}


class TestSharing:
    def test_vocabulary_is_fitted_on_both_columns(self):
        fitted = fit(FEATURES, **COLUMNS)
        assert {name: v.to_pylist() for name, v in fitted.vocabularies.items()} == {"item": ["b", "c", "a"]}
        assert [(b.name, b.owner, b.size, b.length) for b in fitted.id_blocks] == [
            ("item", ("item", None), 5, 1),
            ("history", ("item", None), 5, 3),
        ]

    def test_category_has_the_same_id_in_both(self):
        fitted = fit(FEATURES, **COLUMNS)
        ids = encode(fitted, item=["b", "c", "d", None], history=["b|c", "a", "d", ""])
        b, c, a = FIRST, FIRST + 1, FIRST + 2
        assert ids == [([b], [b, c]), ([c], [a]), ([UNKNOWN], [UNKNOWN]), ([MISSING], [MISSING])]

    def test_order_of_the_features_does_not_matter(self):
        fitted = fit(FEATURES[::-1], **COLUMNS)
        assert fitted.vocabularies["item"].to_pylist() == ["b", "c", "a"]
        assert encode(fitted, item=["a"], history=["a"]) == [([FIRST + 2], [FIRST + 2])]

    def test_hashed(self):
        fitted = fit(
            [Categorical("item", hash_buckets=50), MultiCategorical("m", share_with="item")],
            item=["a", "b"],
            m=["b", "a"],
        )
        ((item,), (shared,)) = encode(fitted, item=["x"], m=["x"])[0]
        assert item == shared >= FIRST
        assert [block.size for block in fitted.id_blocks] == [52, 52]

    def test_saved_and_loaded(self, tmp_path):
        fitted = fit(FEATURES, **COLUMNS)
        save_fitted(fitted, tmp_path)
        loaded = load_fitted(tmp_path)
        assert loaded.fingerprint == fitted.fingerprint
        assert loaded.id_blocks == fitted.id_blocks
        assert encode(loaded, **COLUMNS) == encode(fitted, **COLUMNS)


def test_buckets_are_the_same_in_every_process():
    """Saved models depend on these values; Python's own hash of text differs between processes."""
    code = """
import pyarrow as pa
from recmtl.data import encode_rows, prepare
from recmtl.schema import Categorical, Schema, Task
schema = Schema([Categorical("c", hash_buckets=1000)], [Task("t", "y")])
data = pa.table({"c": ["item", "ü", "9007199254740993", "true"], "y": [0, 1, 0, 1]})
(rows,) = encode_rows(prepare(schema, data, holdout=0).schema, data)
print(sum(rows.table["ids"].to_pylist(), []))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[422, 229, 782, 765]"


def test_a_vocabulary_that_leaves_out_most_values_is_noted():
    values = [f"{i}" for i in range(60)] + ["unknown"] * 40
    frame = pa.table({"x": values, "y": [0, 1] * 50})
    for options, share in (({"min_count": 2}, 60), ({"max_vocabulary": 1, "min_count": 2}, 60), ({}, None)):
        notes = prepare(Schema([Categorical("x", **options)], [Task("t", "y")]), frame, holdout=0).notes
        found = [note for note in notes if "too rare" in note]
        assert found == (
            []
            if share is None
            else [
                f"categorical column 'x' has categories too rare for its vocabulary in {share}% of the training rows, "
                "which are read as unknown"
            ]
        )
