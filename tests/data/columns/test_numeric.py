import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.data import DataError, encode_rows, prepare
from recmtl.data.columns import row_sample
from recmtl.data.columns.numeric import MomentSums, NumericFitter, moments_of
from recmtl.data.columns.row_sample import RowSample
from recmtl.data.store.format import IDS, NUMERIC
from recmtl.schema import Binned, Numeric, Schema, Task
from recmtl.schema.fitted import FIRST, MISSING

TASKS = [Task("t", "y")]
ZEROS = [0.0] * 50 + list(np.arange(1.0, 51))  # half of the rows are zero


def fit(feature, x):
    """Return the fitted schema and the notes of a dataset with one feature."""
    data = prepare(Schema([feature], TASKS), pa.table({"y": np.arange(len(x)) % 2, "x": x}), holdout=0)
    return data.schema, data.notes


def encode(fitted, x, part=NUMERIC):
    (rows,) = encode_rows(fitted, pa.table({"x": x}), labelled=False, note=lambda sentence: None)
    values = rows.table.column(part).combine_chunks().flatten().to_numpy()
    return values.reshape(len(x), -1)


def encoded(feature, train, x):
    """Encode the values `x` by a schema fitted on `train` `[rows]`."""
    return encode(fit(feature, train)[0], x)[:, 0]


def add(sample, values):
    """Add rows to a sample ``[columns, rows]``."""
    hashes, places = sample.choose(values.shape[1])
    sample.add(hashes, values[:, places], np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1))


class TestMoments:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-1e6, 1e6))] * 2), max_size=6), min_size=1, max_size=5
        )
    )
    def test_equal_numpy_over_batches(self, batches):
        sums = MomentSums(2)
        for batch in batches:
            columns = np.array(batch, dtype=np.float64).reshape(-1, 2).T
            sums.add(*np.array([moments_of(column) for column in columns]).T)
        rows = np.array([row for batch in batches for row in batch], dtype=np.float64).reshape(-1, 2)
        for column, moments in zip(rows.T, sums.moments(), strict=True):
            present = column[~np.isnan(column)]
            mean, deviation = (present.mean(), present.std()) if len(present) else (0.0, 0.0)
            assert moments.mean == pytest.approx(mean, rel=1e-9, abs=1e-9)
            if deviation > 1e-9 * (1 + abs(mean)):
                assert moments.deviation == pytest.approx(deviation, rel=1e-7)
            elif deviation == 0:
                assert moments.deviation == 0.0

    def test_deviation_is_exact_despite_a_large_mean(self):
        values = 1.7e9 + np.arange(1000.0)
        sums = MomentSums(1)
        for part in np.split(values, 10):
            sums.add(*np.array([moments_of(part)]).T)
        assert sums.moments() == [pytest.approx((values.mean(), values.std()), rel=1e-12)]

    def test_log1p_and_clip_come_first(self):
        values = np.array([-3.0, 0.0, 10.0, 1e6])
        fitted, _ = fit(Numeric("x", transform="log1p", clip=(None, 100)), values)
        logs = np.sign(values) * np.log1p(np.abs(np.minimum(values, 100)))
        assert fitted.moments["x"] == pytest.approx((logs.mean(), logs.std()))

    @pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-9])
    @pytest.mark.parametrize("kind", [Numeric, Binned])
    def test_constant(self, kind, value):
        fitted, notes = fit(kind("x"), [value] * 21)
        assert fitted.moments == ({"x": (pytest.approx(value), 0.0)} if kind is Numeric else {})
        assert fitted.quantiles["x"] == ((value,) if kind is Numeric else ())
        assert notes == ("numeric column 'x' is constant in the training rows",)

    @pytest.mark.parametrize("transform", ["knots", "quantile", "min_max", "bins", "standardize", "log1p"])
    def test_a_column_is_not_constant_if_its_values_are_told_apart(self, transform):
        """Moments take a deviation of 1e-15 of the mean for rounding."""
        feature = Binned("x", bins=2) if transform == "bins" else Numeric("x", transform=transform)
        values = [1e15, 1e15 + 1] * 20
        fitted, notes = fit(feature, values)
        told_apart = len(np.unique(encode(fitted, values, IDS if transform == "bins" else NUMERIC))) > 1
        assert told_apart == (transform not in ("standardize", "log1p"))
        assert notes == (() if told_apart else ("numeric column 'x' is constant in the training rows",))

    @pytest.mark.parametrize("kind", [Numeric, Binned])
    def test_all_missing(self, kind):
        fitted, notes = fit(kind("x"), pa.array([None, float("nan"), None]))
        assert fitted.moments == ({"x": (0.0, 0.0)} if kind is Numeric else {})
        assert fitted.quantiles["x"] == ((0.0,) if kind is Numeric else ())
        assert notes == ("numeric column 'x' is missing in every training row",)


class TestSample:
    def learned(self, values, parts):
        sample = RowSample(values.shape[1])
        for part in np.array_split(values, parts):
            add(sample, part.T)
        return sample

    def test_sample_of_few_rows_is_complete(self):
        values = np.random.default_rng(0).normal(size=(999, 2))
        values[::3, 0] = np.nan
        sample = self.learned(values, 7)
        for column in (0, 1):
            present = values[~np.isnan(values[:, column]), column]
            expected = np.quantile(present, np.linspace(0, 1, 256), method="inverted_cdf")
            np.testing.assert_array_equal(sample.quantiles(column), expected)

    def test_values_of_at_most_256_rows_are_their_quantiles(self):
        values = np.random.default_rng(0).normal(size=(256, 1))
        np.testing.assert_array_equal(self.learned(values, 1).quantiles(0), np.sort(values[:, 0]))

    def test_sample_does_not_depend_on_the_batches(self, monkeypatch):
        monkeypatch.setattr(row_sample, "SAMPLE", 100)
        monkeypatch.setattr(row_sample, "SPARE", 70)
        values = np.random.default_rng(0).normal(size=(3000, 1))
        samples = [self.learned(values, parts) for parts in (1, 2, 300, 1000)]
        for sample in samples:
            np.testing.assert_array_equal(sample.quantiles(0), samples[0].quantiles(0))

    def test_error_is_that_of_a_uniform_sample_in_any_order(self, monkeypatch):
        """500 of 50,000 rows: the shares below the quartiles have a standard error of at most 0.5/√500."""
        monkeypatch.setattr(row_sample, "SAMPLE", 500)
        rows = np.arange(50_000.0)  # rising: a sample of the first or the last rows would be far off
        for values in (rows, rows[::-1], np.random.default_rng(1).permutation(rows)):
            sample = self.learned(values[:, None], 9)
            shares = np.interp([63.75, 127.5, 191.25], np.arange(256), sample.quantiles(0)) / 50_000
            assert np.abs(shares - [0.25, 0.5, 0.75]).max() < 3 * 0.5 / np.sqrt(500)
            assert sample._held == 500

    def test_range_is_exact(self, monkeypatch):
        monkeypatch.setattr(row_sample, "SAMPLE", 10)
        values = np.random.default_rng(0).normal(size=(5000, 1))
        quantiles = self.learned(values, 50).quantiles(0)
        assert quantiles[[0, -1]].tolist() == [values.min(), values.max()]

    def test_column_without_a_sampled_value(self, monkeypatch):
        monkeypatch.setattr(row_sample, "SAMPLE", 1)
        values = np.full((100, 1), np.nan)
        chosen = RowSample(1)
        add(chosen, np.arange(100.0)[None])
        (row,) = chosen.quantiles(0)[:1].astype(int)
        values[(row + 1) % 100], values[(row + 2) % 100] = 3.0, 5.0
        assert self.learned(values, 4).quantiles(0).tolist() == [3.0, 5.0]
        assert self.learned(values, 4).edges(0, 4).tolist() == [3.0]

    def test_no_rows_and_no_columns(self):
        fitter = NumericFitter([Numeric("x")])
        fitter.add(pa.record_batch({"x": pa.array([], pa.float64())}))
        assert fitter.quantiles() == {"x": (0.0,)}
        assert NumericFitter([]).quantiles() == {}


class TestTransforms:
    def test_standardize(self):
        x = np.array([1.0, 2.0, 4.0, np.nan])
        values = encoded(Numeric("x", "standardize"), x, [1.0, 4.0, None, 1e3])
        assert values.dtype == np.float32
        mean, deviation = np.nanmean(x), np.nanstd(x)
        expected = [(1 - mean) / deviation, (4 - mean) / deviation, 0, (1e3 - mean) / deviation]
        np.testing.assert_allclose(values, expected, rtol=1e-6)

    def test_log1p(self):
        x = np.array([0.0, 3.0, -20.0])
        logs = np.sign(x) * np.log1p(np.abs(x))
        values = encoded(Numeric("x", transform="log1p"), x, [*x, None])
        np.testing.assert_allclose(values, [*((logs - logs.mean()) / logs.std()), 0], rtol=1e-6)

    def test_none_keeps_values_and_fills_in_the_mean(self):
        values = encoded(Numeric("x", transform="none"), [1.0, 2.0, 6.0, None], [1.0, -7.5, None])
        assert values.tolist() == [1.0, -7.5, 3.0]

    def test_min_max_may_leave_0_to_1(self):
        values = encoded(Numeric("x", transform="min_max"), [2.0, 3.0, 10.0, None], [2.0, 10.0, 4.0, 0.0, 18.0, None])
        assert values.tolist() == [0, 1, 0.25, -0.25, 2, 0.375]  # missing: the mean, 5

    def test_few_values_are_knots_in_equal_steps(self):
        x = [7.0, 7.0, 7.0, 0.0, 100.0, None]
        values = encoded(Numeric("x"), x, [0, 7, 100, 3.5, 53.5, -1e9, 1e300, None])
        np.testing.assert_allclose(values, [-1, 0, 1, -0.5, 0.5, -1, 1, 0], rtol=1e-6)  # missing: the median, 7

    def test_a_missing_number_is_read_as_the_median_of_the_rows_not_of_the_knots(self):
        fitted, _ = fit(Numeric("x"), [0.0] * 97 + [5.0, 50.0, 500.0])
        assert fitted.medians == {"x": 0.0}
        assert encode(fitted, [None, 0.0])[:, 0].tolist() == [-1, -1]

    def test_knots_a_denormal_apart_stay_in_the_range(self):
        values = np.arange(500) * 5e-324
        assert np.abs(encoded(Numeric("x"), values, values)).max() <= 1

    def test_knots_of_many_values_equal_the_distribution_function(self):
        x = np.random.default_rng(0).lognormal(size=20_000)
        values = encoded(Numeric("x"), x, np.quantile(x, np.linspace(0, 1, 1001)))
        np.testing.assert_allclose(values, np.linspace(-1, 1, 1001), atol=2 / 128)

    def test_a_frequent_value_takes_one_step_and_the_tail_the_others(self):
        """Half of the rows are 0 and a tenth 5; the others are spread from 1 to 10,000 evenly in the logarithm."""
        tail = np.exp(np.linspace(0, np.log(10_000), 4_000))
        x = np.concatenate([np.zeros(5_000), np.full(1_000, 5.0), tail])
        knots = fit(Numeric("x"), x)[0].quantiles["x"]
        assert len(knots) in (128, 129)
        assert {0.0, 5.0} <= set(knots)
        assert (knots[0], knots[-1]) == (0, tail[-1])
        steps = np.diff(np.log([k for k in knots if k not in (0, 5)]))
        np.testing.assert_allclose(steps, np.log(10_000) / 126, rtol=0.06)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(-400, 400), st.integers(1, 3000)), min_size=1, max_size=300))
    def test_every_value_with_a_step_of_rows_is_a_knot(self, drawn):
        values, counts = (np.array(column) for column in zip(*dict(drawn).items(), strict=True))
        sample = RowSample(1)
        add(sample, np.repeat(values, counts)[None].astype(float)[:, : row_sample.SAMPLE])
        present, counts = np.unique(np.repeat(values, counts)[: row_sample.SAMPLE], return_counts=True)
        knots = sample.knots(0)
        assert (np.diff(knots) > 0).all()
        assert (knots[0], knots[-1]) == (present[0], present[-1])
        assert set(knots) <= set(present)
        if len(present) <= row_sample.MAX_KNOTS:
            assert knots.tolist() == present.tolist()
        else:
            assert len(knots) <= row_sample.MAX_KNOTS
            assert set(present[counts > counts.sum() / (row_sample.MAX_KNOTS - 1)]) <= set(knots)

    def test_missing_numbers_have_an_indicator_if_a_training_row_has_one(self):
        train = {"a": [1.0, None, 2.0], "b": [1.0, 2.0, 3.0], "c": pa.nulls(3, pa.float64()), "y": [0, 1, 0]}
        data = prepare(Schema([Numeric("[abc]")], TASKS), pa.table(train), holdout=0)
        assert [f.missing_indicator for f in data.schema.numeric] == [True, False, False]
        later = pa.table({"a": [None, 1.0], "b": [None, 1.0], "c": [None, 1.0]})
        notes: list[str] = []
        (rows,) = encode_rows(data.schema, later, labelled=False, note=notes.append)
        assert notes == [
            "column 'b' has a value in every training row, but none in 1 of 2 given rows: it is read as its median "
            "there",
            "column 'c' is the same in every training row, and is read as that: in 1 of 2 given rows it differs",
        ]
        values = rows.table.column(NUMERIC).combine_chunks().flatten().to_numpy().reshape(2, 4)
        assert values[:, 3].tolist() == [1, 0]
        assert values[0, :3].tolist() == [-1, 0, 0]  # the medians: 1 of 1 and 2, 2 of 1 to 3, and nothing

    def test_quantile_interpolates_training_rows(self):
        feature = Numeric("x", transform="quantile")
        values = encoded(feature, [0.0, 1.0, 10.0, 11.0, 100.0], [0, 1, 5.5, 10, 55.5, 100, -3, 1e9, None])
        np.testing.assert_allclose(values, [0, 0.25, 0.375, 0.5, 0.875, 1, 0, 1, 0.5])

    def test_quantile_jumps_at_frequent_values(self):
        """50 zeros, then 1 to 50, each of weight 1/99: the share of rows ≤ 0 at 0, none just below."""
        values = encoded(Numeric("x", transform="quantile"), ZEROS, [-1e-9, 0, 1, 50])
        np.testing.assert_allclose(values, [0, 49 / 99, 50 / 99, 1], rtol=1e-6)

    def test_quantile_of_many_rows_equals_the_distribution_function(self):
        x = np.random.default_rng(0).lognormal(size=20_000)
        values = encoded(Numeric("x", transform="quantile"), x, np.quantile(x, np.linspace(0, 1, 1001)))
        np.testing.assert_allclose(values, np.linspace(0, 1, 1001), atol=1 / 255)

    @pytest.mark.parametrize(
        ("transform", "expected"),
        [("standardize", 0), ("log1p", 0), ("min_max", 0), ("none", 0.1), ("quantile", 1), ("knots", 0)],
    )
    def test_a_column_that_is_constant_in_training_is_read_as_its_constant(self, transform, expected):
        values = encoded(Numeric("x", transform=transform), [0.1] * 3, [0.1, 1.1, None, -1e9])
        np.testing.assert_allclose(values, [expected] * 4, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("transform", ["knots", "standardize", "log1p", "min_max", "none", "quantile"])
    def test_a_column_that_is_missing_in_training_is_read_as_missing(self, transform):
        values = encoded(Numeric("x", transform=transform), pa.nulls(3), pa.array([None, 5.0, -1e9]))
        assert (values == (transform == "quantile")).all()  # as any constant column

    @pytest.mark.parametrize(("train", "share"), [([1.0, 2.0], 0), ([None, None], 1)])
    def test_an_indicator_that_training_rows_do_not_vary_is_constant(self, train, share):
        fitted, _ = fit(Numeric("x", missing_indicator=True), pa.array(train, pa.float64()))
        assert encode(fitted, [None, 5.0, 1.0])[:, 1].tolist() == [share] * 3

    @pytest.mark.parametrize("transform", ["standardize", "log1p", "none"])
    def test_a_column_that_varies_by_rounding_alone_is_constant(self, transform):
        noise = 1e9 * (1 + np.arange(4) * 2e-16)
        values = encoded(Numeric("x", transform=transform), noise, [noise[0], 7e9])
        assert values[0] == values[1]

    def test_values_beyond_float32_are_clipped(self):
        values = encoded(Numeric("x", transform="none"), [0.0, 1.0], [1e300, -1e300])
        assert np.isfinite(values).all()
        assert (np.abs(values) > 3e38).all()

    @pytest.mark.parametrize(
        ("clip", "expected"), [((0, 10), [0, 3, 10]), ((None, 10), [-5, 3, 10]), ((0, None), [0, 3, 99])]
    )
    def test_clip(self, clip, expected):
        values = encoded(Numeric("x", transform="none", clip=clip), [-5.0, 3.0, 99.0], [-5.0, 3.0, 99.0, None])
        np.testing.assert_allclose(values, [*expected, np.mean(expected)], rtol=1e-6)

    def test_clip_limits_the_range(self):
        values = encoded(Numeric("x", transform="min_max", clip=(0, 10)), [-5.0, 3.0, 99.0], [-1.0, 5.0, 1e6])
        assert values.tolist() == [0, 0.5, 1]

    def test_indicators_follow_all_numbers(self):
        features = [
            Numeric("a", transform="none", missing_indicator=True),
            Numeric("b", transform="none", missing_indicator=False),
        ]
        features.append(Numeric("c", transform="none", missing_indicator=True))
        frame = pd.DataFrame({"a": [1.0, None], "b": [None, 2.0], "c": [None, 3.0], "y": [0, 1]})
        data = prepare(Schema(features, TASKS), frame, holdout=0)
        assert data.schema.numeric_columns == data.train.widths[NUMERIC] == 5
        values = data.train.table.column(NUMERIC).to_pylist()
        assert values == [[1, 2, 3, 0, 1], [1, 2, 3, 1, 0]]


class TestBinned:
    def test_bins_hold_equal_shares(self):
        fitted, _ = fit(Binned("x", bins=4), np.random.default_rng(0).permutation(100))
        assert fitted.quantiles["x"] == (24, 49, 74)
        assert fitted.id_blocks[0].size == FIRST + 4
        ids = encode(fitted, np.arange(100), IDS)[:, 0]
        assert np.bincount(ids).tolist() == [0, 0, 25, 25, 25, 25]

    def test_values_outside_the_training_range_and_missing_ones(self):
        fitted, _ = fit(Binned("x", bins=2), [1.0, 2.0, 3.0, 4.0, None])
        ids = encode(fitted, [-1e9, 2.0, 2.1, 1e9, None], IDS)[:, 0]
        assert ids.tolist() == [FIRST, FIRST, FIRST + 1, FIRST + 1, MISSING]

    def test_equal_edges_are_merged(self):
        """Zeros would fill half of the bins, and get one of their own."""
        fitted, _ = fit(Binned("x", bins=10), ZEROS)
        assert fitted.quantiles["x"] == (0, 10, 20, 30, 40)
        assert encode(fitted, [0.0, 1.0, 10.0, 11.0, 50.0], IDS)[:, 0].tolist() == [2, 3, 3, 4, 7]

    def test_never_more_bins_than_values(self):
        fitted, _ = fit(Binned("x"), [3.0, 1.0, 2.0, 2.0])
        assert encode(fitted, [1.0, 2.0, 3.0], IDS)[:, 0].tolist() == [2, 3, 4]
        assert fitted.id_blocks[0].size == FIRST + 3

    def test_clip(self):
        fitted, _ = fit(Binned("x", bins=8, clip=(0, 1)), [-5.0, 0.5, 9.0])
        assert fitted.quantiles["x"] == (0, 0.5)
        assert encode(fitted, [-1.0, 0.25, 7.0], IDS)[:, 0].tolist() == [2, 3, 4]

    def test_one_bin(self):
        fitted, _ = fit(Binned("x", bins=1), [1.0, None])
        assert encode(fitted, [5.0, None], IDS)[:, 0].tolist() == [FIRST, MISSING]

    @pytest.mark.parametrize(("train", "constant"), [([1.0, 1.0], FIRST), ([None, None], MISSING)])
    def test_a_column_that_training_rows_do_not_vary_is_constant(self, train, constant):
        fitted, _ = fit(Binned("x"), pa.array(train, pa.float64()))
        assert encode(fitted, [5.0, None, 1.0], IDS)[:, 0].tolist() == [constant] * 3

    def test_text_in_a_file(self, tmp_path):
        (tmp_path / "a.csv").write_text("x,y\n1.50,0\n nan,1\n2,0\n,1\n")
        data = prepare(Schema([Binned("x", bins=2)], TASKS), tmp_path / "a.csv", holdout=0)
        assert data.train.table.column(IDS).to_pylist() == [[2], [1], [3], [1]]


class TestTooLarge:
    """Numbers whose squares or sums overflow float64."""

    FRAME = pd.DataFrame(
        {"x": [*np.linspace(-1, 1, 60), 1e200], "z": [1.7e308, 1.7e308, 0.0] * 20 + [0.0], "y": [0, 1] * 30 + [0]}
    )

    @pytest.mark.parametrize(
        ("column", "transform"), [("x", "standardize"), ("z", "standardize"), ("z", "none"), ("z", "min_max")]
    )
    def test_error_if_the_transform_needs_the_moments(self, column, transform):
        schema = Schema([Numeric(column, transform=transform)], [Task("t", "y")])
        with pytest.raises(
            DataError, match=f"^column '{column}' has numbers too large for a mean and a deviation: set"
        ):
            prepare(schema, self.FRAME, holdout=0)

    @pytest.mark.parametrize("options", [{"transform": t} for t in ("log1p", "quantile", "none")] + [{"clip": (-5, 5)}])
    def test_no_error_otherwise(self, options):
        data = prepare(Schema([Numeric("x", **options)], [Task("t", "y")]), self.FRAME, holdout=0)
        assert len(np.unique(data.train.packed()[:, 0])) >= 60
        assert data.notes == ()
        assert np.isfinite(data.schema.moments["x"]).all()
