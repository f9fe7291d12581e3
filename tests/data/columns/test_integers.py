import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recmtl
from recmtl.data import prepare
from recmtl.data.columns.lookups import IntegerLookup
from recmtl.data.columns.values import cast_integer_columns, find_integers, parse_integers
from recmtl.data.columns.vocabularies import SMALL_INTEGERS, VocabularyBuilder
from recmtl.data.sources import csv as csv_source
from recmtl.schema import Categorical, MultiCategorical, Schema, Task
from recmtl.schema.fitted import FIRST, UNKNOWN

WHOLE = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-100, 100))
ODD = st.sampled_from(["007", "-0", "+5", " 5", "5 ", "0x1F", "0xFFFFF", "1e3", "5.0", "", "x", "٣", str(2**63)])


class TestParseIntegers:
    @given(st.lists(st.none() | WHOLE, max_size=20))
    def test_canonical_integers(self, numbers):
        text = pa.array([None if n is None else str(n) for n in numbers], pa.string())
        assert parse_integers(text).to_pylist() == numbers

    @given(st.lists(st.none() | WHOLE.map(str), max_size=5), ODD)
    def test_other_text_is_not_parsed(self, others, odd):
        assert parse_integers(pa.array([*others, odd], pa.string())) is None

    @given(st.lists(WHOLE.map(str) | ODD, max_size=9), st.sampled_from([pa.string(), pa.large_string()]))
    def test_find_integers(self, texts, kind):
        positions, numbers = find_integers(pa.array(texts, kind))
        whole = [i for i, text in enumerate(texts) if text.lstrip("-").isascii() and text == _plain(text)]
        assert positions.tolist() == whole
        assert numbers.tolist() == [int(texts[i]) for i in whole]

    def test_slice(self):
        assert parse_integers(pa.array(["x", "12", "007"]).slice(1, 1)).to_pylist() == [12]

    def test_text_column_stays_text(self):
        batches = [pa.record_batch({"a": ["1"], "b": ["2"]}), pa.record_batch({"a": ["x"], "b": ["3"]})]
        batches.append(pa.record_batch({"a": ["4"], "b": ["5"]}))
        types = [[str(t) for t in batch.schema.types] for batch in cast_integer_columns(iter(batches))]
        assert types == [["int64", "int64"], ["string", "int64"], ["string", "int64"]]


def _plain(text):
    """Return the canonical text of a 64-bit integer, or None."""
    try:
        number = int(text)
    except ValueError:
        return None
    return str(number) if -(2**63) <= number < 2**63 else None


class TestLookup:
    @pytest.mark.parametrize("small", [0, 10, 1 << 21])
    @given(st.sets(WHOLE.map(str) | ODD, max_size=12), st.lists(WHOLE, max_size=12))
    def test_equals_a_dictionary(self, small, vocabulary, numbers):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recmtl.data.columns.lookups.SMALL_INTEGERS", small)
            vocabulary = sorted(vocabulary)
            numbers = [*numbers, *(int(v) for v in vocabulary if _plain(v) == v)]
            found = IntegerLookup(pa.array(vocabulary, pa.large_string()))(np.array(numbers, np.int64))
        ids = {text: i for i, text in enumerate(vocabulary, FIRST)}
        assert found.tolist() == [ids.get(str(number), UNKNOWN) for number in numbers]


class TestCounts:
    @pytest.mark.parametrize("small", [0, 10, 1 << 21])
    @given(st.lists(st.lists(st.none() | WHOLE, max_size=8), max_size=5))
    def test_equals_counting_text(self, small, batches):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recmtl.data.columns.vocabularies.SMALL_INTEGERS", small)
            numbers, texts = VocabularyBuilder(Categorical("c")), VocabularyBuilder(Categorical("c"))
            for batch in batches:
                numbers.add_integers(pa.array(batch, pa.int64()))
                present = [str(value) for value in batch if value is not None]
                texts.add(pa.array(present, pa.string()), np.arange(len(present)))
            assert numbers.vocabulary().to_pylist() == texts.vocabulary().to_pylist()

    def test_another_process_gets_few_bytes_and_counts_on(self):
        counts, rows = VocabularyBuilder(Categorical("c")), np.repeat(np.arange(1000), 3)
        counts.add_integers(pa.array(rows))
        sent = pickle.dumps(counts)
        assert len(sent) < 1000 + 1500  # of a byte each
        received = pickle.loads(sent)
        received.add_integers(pa.array(np.full(300, 5)))
        assert received.counts["count"][:7].to_pylist() == [3, 3, 3, 3, 3, 303, 3]
        empty = pickle.loads(pickle.dumps(VocabularyBuilder(Categorical("c"))))
        empty.merge(received)
        assert empty.counts.equals(received.counts)

    def test_category_counted_as_integer_and_as_text(self):
        counts = VocabularyBuilder(Categorical("c", min_count=3))
        counts.add(pa.array(["7", "x"]), np.array([0, 1, 1]))
        counts.add_integers(pa.array([7, 8, 7]))
        assert counts.vocabulary().to_pylist() == ["7"]


class TestFiles:
    SCHEMA = Schema(
        [
            Categorical("user"),
            Categorical("odd"),
            Categorical("hashed", hash_buckets=50),
            MultiCategorical("users", share_with="user"),
        ],
        [Task("t", "y")],
        group="search",
        keys=["search", "user"],
    )

    def rows(self, tmp_path):
        rng = np.random.default_rng(0)
        ids = rng.choice([0, 7, -3, 2**24 + 1, 2**53 + 1, 2**62], 3000).astype(str)
        ids[::50] = ""
        odd = ids.copy()
        odd[2500:2510] = ["007", "0x1F", "-0", "é", "5.0", "True", "+7", " 7", "1e3", "7"]
        lines = [
            f"{u},{o},{u},{u}|7,{s},{y}"
            for u, o, s, y in zip(ids, odd, rng.integers(0, 500, 3000), rng.integers(0, 2, 3000), strict=True)
        ]
        (tmp_path / "a.csv").write_text("\n".join(["user,odd,hashed,users,search,y", *lines]) + "\n", encoding="utf-8")
        return tmp_path / "a.csv"

    def test_dataset_equals_that_of_text(self, tmp_path, monkeypatch):
        """Columns read as integers, wholly or at first, encode like text."""
        file = self.rows(tmp_path)
        monkeypatch.setattr(csv_source, "PART_BYTES", 1 << 12)
        fast = prepare(self.SCHEMA, file)
        monkeypatch.setattr(csv_source, "cast_integer_columns", lambda batches: batches)
        slow = prepare(self.SCHEMA, file)
        assert fast.schema.fingerprint == slow.schema.fingerprint
        assert len(fast.schema.vocabularies["odd"]) > 10
        for split, rows in slow.splits.items():
            assert fast.splits[split].table.combine_chunks().equals(rows.table.combine_chunks())

    def test_integers_are_found_in_a_vocabulary_of_text(self, tmp_path):
        fitted = prepare(self.SCHEMA, self.rows(tmp_path)).schema
        columns = {"odd": ["7", "007", None], "hashed": ["1"] * 3, "users": ["7"] * 3, "user": ["7", "8", "0"]}
        (text,) = recmtl.data.encode_rows(fitted, pa.table(columns), labelled=False)
        numbers = pa.array([7, 8, 0]), pa.array([1] * 3)
        columns |= {"user": numbers[0], "hashed": numbers[1]}
        (found,) = recmtl.data.encode_rows(fitted, pa.table(columns), labelled=False)
        assert text.table["ids"].equals(found.table["ids"])


def test_arrays_of_small_integers_are_bounded():
    assert SMALL_INTEGERS * 8 <= 1 << 24
