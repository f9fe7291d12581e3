import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.data.columns.values import all_integers, as_lists, as_numbers, as_text, stable_hash
from recmtl.errors import BadValueError
from recmtl.io.formats import replace_nulls
from recmtl.io.spellings import NullWords


def texts(array):
    """Return the text of each row as a source gives it, None where it is missing."""
    values, codes = as_text(replace_nulls(array if isinstance(array, pa.Array) else pa.array(array), NullWords()), "c")
    return [None if code < 0 else values[code].as_py() for code in codes]


def lists(array, separator="|"):
    values, codes, lengths = as_lists(pa.array(array) if isinstance(array, list) else array, separator, "c")
    elements = [values[code].as_py() for code in codes]
    ends = np.cumsum(lengths)
    return [elements[end - length : end] for end, length in zip(ends, lengths, strict=True)]


class TestText:
    @pytest.mark.parametrize(
        "values",
        [
            pa.array([3, 1, None, 3]),
            pa.array([3, 1, None, 3], pa.uint8()),
            pa.array([3.0, 1.0, None, 3.0]),
            pa.array([3.0, 1.0, float("nan"), 3.0]),
            pa.array(np.array([3, 1, np.nan, 3], np.float16)),
            pa.array(np.array([3, 1, np.nan, 3], np.float32)),
            pa.array(["3", "1", None, "3"]),
            pa.array(["3", "1", "", "3"], pa.large_string()),
            pa.array(["3", "1", "NaN", "3"]),
            pa.array(["3.0", "1.0", "", "3.0"]),  # as pandas writes integers beside a missing one
            pa.array([b"3", b"1", None, b"3"]),
            pa.array(["3", "1", None, "3"]).dictionary_encode(),
            pa.array(["3", "1", "", "3"]).dictionary_encode(),
            pa.array([decimal.Decimal(3), decimal.Decimal(1), None, decimal.Decimal(3)]),
            pa.array(pd.Series([3, 1, None, 3], dtype="Int64")),
            pa.array(pd.Series([3, 1, None, 3], dtype="category")),
            pa.array(pd.Series(["3", "1", None, "3"], dtype="category")),
            pa.array(pd.Series(["3", "1", None, "3"], dtype="string")),
            pa.array(pd.Series(["3", "1", None, "3"], dtype=object)),
            pa.array(pd.Series([3, 1, None, 3], dtype=object)),
        ],
        ids=lambda v: str(v.type),
    )
    def test_category_has_one_text(self, values):
        assert texts(values) == ["3", "1", None, "3"]

    @pytest.mark.parametrize("true", [True, "True", "true"])
    def test_booleans(self, true):
        false = {True: False, "True": "False", "true": "false"}[true]
        assert texts([true, false, None]) == ["true", "false", None]

    def test_large_integers_are_exact(self):
        ids = [2**24, 2**24 + 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]
        assert texts(ids) == [str(i) for i in ids]
        assert texts(pa.array([2**64 - 1], pa.uint64())) == [str(2**64 - 1)]

    def test_floats(self):
        largest = 2.0**53 - 1
        assert texts([0.5, -0.0, 0.0, largest, float("inf")]) == ["0.5", "0", "0", str(int(largest)), "inf"]
        assert texts(["1e300", "9007199254740991.0", "1e+18"]) == ["1e300", str(int(largest)), "1e+18"]

    @pytest.mark.parametrize(
        "bad",
        [
            pa.array([1.0, 2.0**53]),
            pa.array([1.0, -(2.0**60)]),
            pa.array([1, 2**24], pa.float32()),
            pa.array([1, 2**11], pa.float32()).cast(pa.float16()),
            pa.array(["1", "1152921504606846976.0"]),
            pa.array(["1", "1.152921504606847e+18"]).dictionary_encode(),
            pa.array(["1.23456789012E+11", "1.15292E+18"]),  # the first is exact
            pa.array(["1", "1.65E+11"], pa.large_string()),
        ],
        ids=lambda array: str(array.type)[:12],
    )
    def test_ids_that_went_through_a_float_are_refused(self, bad):
        with pytest.raises(BadValueError, match="is not an exact id: it went through a float") as caught:
            texts(bad)
        assert (caught.value.row, caught.value.mask.tolist()) == (1, [False, True])

    @pytest.mark.parametrize("null", NullWords())
    def test_missing_text_of_csv_files_is_missing_everywhere(self, null):
        assert texts([null, "a"]) == [None, "a"]

    @pytest.mark.parametrize("text", ["007", " 3", "1.2.0", "v1.0", "-", "N/A", "TRUE", "1.50", ".0", "Ü|,\n"])
    def test_other_text_is_unchanged(self, text):
        assert texts([text]) == [text]

    def test_nothing(self):
        assert texts(pa.array([], pa.string())) == []
        assert texts(pa.nulls(2)) == [None, None]
        assert texts(pa.array(["a", "b", "c"])[1:2]) == ["b"]

    @pytest.mark.parametrize("array", [pa.array([["a"], None]), pa.array([{"a": 1}])])
    def test_nested_values_are_invalid(self, array):
        with pytest.raises(BadValueError, match=r"column 'c': .* is not one category: .*`multi_categorical`"):
            as_text(array, "c")

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))))
    def test_integers_survive_files(self, values):
        array = pa.array(values, pa.int64())
        assert texts(array) == [None if v is None else str(v) for v in values]
        assert texts(array.cast(pa.string())) == texts(array)
        assert texts(array.dictionary_encode()) == texts(array)


class TestLists:
    EXPECTED: list[list[str]] = [["a", "b"], [], ["a", "a", "c"], []]  # noqa: RUF012

    @pytest.mark.parametrize(
        "array",
        [
            pa.array(["a|b", "", "a|a|c", None]),
            pa.array([" a | b ", "|", "a||a|c|", " "]),
            pa.array(["a|b", "", "a|a|NaN|c", None]).dictionary_encode(),
            pa.array([["a", "b"], [], ["a", "a", "c"], None]),
            pa.array([["a", " b"], [""], ["a", None, "a", "c "], [None]]),
            pa.array([["a", "b"], [], ["a", "a", "c"], None], pa.large_list(pa.large_string())),
        ],
    )
    def test_equal_lists_from_every_type(self, array):
        assert lists(array) == self.EXPECTED

    def test_other_separator(self):
        assert lists(["a; b|c", "d"], ";") == [["a", "b|c"], ["d"]]
        assert lists(["a, b, c"], ", ") == [["a", "b", "c"]]

    def test_integers(self):
        assert lists([[2**53 + 1, 2**53], [7]]) == [[str(2**53 + 1), str(2**53)], ["7"]]
        assert lists(pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))) == [["1", "2"], [], ["3", "4"]]
        assert lists([5, None, 6]) == [["5"], [], ["6"]]
        assert lists(pa.array([[1.0, float("nan")], [2.0]])) == [["1"], ["2"]]

    def test_slices(self):
        assert lists(pa.array([["x"], ["a", "b"], [], ["c"], ["y"]])[1:4]) == [["a", "b"], [], ["c"]]

    def test_nothing(self):
        assert lists(pa.nulls(2)) == [[], []]
        assert lists(pa.array([], pa.list_(pa.string()))) == []

    def test_lists_of_lists(self):
        with pytest.raises(BadValueError, match="column 'c'"):
            as_lists(pa.array([[["a"]]]), "|", "c")


class TestNumbers:
    @pytest.mark.parametrize(
        "array",
        [
            pa.array([1.5, None, 0.0]),
            pa.array([1.5, float("nan"), 0.0], pa.float32()),
            pa.array(["1.5", "", "0"]),
            pa.array([" 1.5 ", "NaN", "0e3"], pa.large_string()),
            pa.array(["1.5", None, "-0"]).dictionary_encode(),
            pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("0.0")]),
            pa.array(pd.Series([1.5, None, 0.0], dtype="category")),
        ],
        ids=lambda v: str(v.type),
    )
    def test_equal_numbers_from_every_type(self, array):
        np.testing.assert_array_equal(as_numbers(array, "x"), [1.5, np.nan, 0.0])

    def test_others(self):
        np.testing.assert_array_equal(as_numbers(pa.array([True, False, None]), "x"), [1, 0, np.nan])
        np.testing.assert_array_equal(as_numbers(pa.array([2**40, None]), "x"), [2.0**40, np.nan])
        assert np.isnan(as_numbers(pa.nulls(3), "x")).all()
        assert np.isnan(as_numbers(pa.array([None, None], pa.string()), "x")).all()
        assert as_numbers(pa.array([], pa.string()), "x").dtype == np.float64

    def test_words_for_missing_numbers_and_booleans(self):
        words = ["NA", "<NA>", "N/A", "n/a", "#N/A", "None", "\\N", "null", "-", "?", "nan", ""]
        np.testing.assert_array_equal(as_numbers(pa.array([*words, "2"]), "x"), [np.nan] * len(words) + [2])
        np.testing.assert_array_equal(as_numbers(pa.array(["True", "FALSE", " true ", "0"]), "x"), [1, 0, 1, 0])

    @pytest.mark.parametrize("bad", ["abc", "1,5", "nobody", "0x10", "1_000", " ", "truth"])
    def test_invalid_text(self, bad):
        with pytest.raises(BadValueError, match=r"row 2, column 'x': .* is not a number") as caught:
            as_numbers(pa.array(["1", None, bad, "worse"]), "x")
        assert (caught.value.row, caught.value.column, caught.value.value) == (2, "x", bad)

    @pytest.mark.parametrize("values", [[0.0, float("inf")], [0.0, float("-inf")], ["0", "inf"], ["0", "-Infinity"]])
    def test_infinity(self, values):
        with pytest.raises(BadValueError, match=r"row 1, column 'x': -?inf is not a finite number"):
            as_numbers(pa.array(values), "x")

    @pytest.mark.parametrize("array", [pa.array([[1]]), pa.array([np.datetime64("2020-01-01", "s")])])
    def test_other_types(self, array):
        with pytest.raises(BadValueError, match="is not a number: the column is of type"):
            as_numbers(array, "x")


class TestHash:
    def test_pinned(self):
        """Saved models and held-out rows depend on these values."""
        hashes = stable_hash(pa.array(["a", "b", "", "Ü", "4503599627370497", None]))
        assert hashes.dtype == np.uint64
        assert hashes.tolist() == PINNED_TEXT
        assert stable_hash(np.array([0, 1, 2**53 + 1])).tolist() == PINNED_INTEGERS

    def test_missing_text_is_empty_text(self):
        assert stable_hash(pa.array([None, "a"], pa.string()))[0] == stable_hash(pa.array([""]))[0]
        assert stable_hash(pa.array([], pa.string())).shape == (0,)

    def test_spreads(self):
        hashes = stable_hash(pa.array([str(i) for i in range(20_000)]))
        assert len(set(hashes.tolist())) == 20_000
        counts = np.bincount((hashes % np.uint64(20)).astype(int), minlength=20)
        assert 800 < counts.min() <= counts.max() < 1200
        assert 0.09 < (hashes < 0.1 * 2.0**64).mean() < 0.11


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2**63 - 1], True),
        (["1", "0", "-5", None, ""], True),
        (["9223372036854775807", "-9223372036854775808"], True),
        (["9223372036854775808"], False),
        (["12345678901234567890"], False),
        (["01"], False),
        (["-0"], False),
        (["+1"], False),
        (["a1"], False),
        (["1", "x"], False),
        ([1.0, None, 3.0], True),
        ([1.5], False),
        ([None], True),
        ([True], False),
    ],
)
def test_all_integers(values, expected):
    assert all_integers(replace_nulls(pa.array(values), NullWords()), "k") is expected
    assert all_integers(pa.array([], pa.string()), "k") is True
    assert all_integers(pa.array([2**63], pa.uint64()), "k") is False


PINNED_TEXT = [
    13950350942979735504,
    12688059582079114975,
    1760245841805064774,
    3591133220267688597,
    6044527823494717916,
    1760245841805064774,
]
PINNED_INTEGERS = [0, 6238072747940578789, 8114628312023455402]


def test_the_error_of_an_element_names_its_row() -> None:
    lists = pa.array([[1.0], [], [2.0, 2.0**53], [2.0**53]])
    with pytest.raises(BadValueError, match="is not an exact id") as caught:
        as_lists(lists, "|", "x")
    assert caught.value.row == 2
    assert caught.value.mask is not None
    assert caught.value.mask.tolist() == [False, False, True, True]
