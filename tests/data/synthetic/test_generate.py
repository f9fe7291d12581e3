import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import recmtl
from recmtl.data.raw.aliexpress_layout import CATEGORICAL, NUMERICAL
from recmtl.data.synthetic import generate as synth
from recmtl.data.synthetic import truth as planted
from recmtl.data.synthetic.bayes import bayes_auc
from recmtl.data.synthetic.generate import Truth, calibrate, synthesize
from recmtl.data.synthetic.truth import PlantedTruth

ROWS, CLICK_RATE, CONVERSION_RATE = 100_000, 0.10, 0.25
FILES = ("train", "valid", "test")
USER = [f"categorical_{i}" for i in range(1, 10)] + [f"numerical_{i}" for i in range(1, 24)]
ITEM = [f"categorical_{i}" for i in range(10, 17)] + [f"numerical_{i}" for i in range(24, 64)]


@dataclass(frozen=True)
class Generated:
    folder: Path
    truth: Truth
    frames: dict[str, pd.DataFrame]
    planted: PlantedTruth

    @property
    def all(self) -> pd.DataFrame:
        return pd.concat(self.frames.values(), ignore_index=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    folder = tmp_path_factory.mktemp("synth") / "made"
    truth = synthesize(folder, ROWS, seed=3, click_rate=CLICK_RATE, conversion_rate=CONVERSION_RATE)
    planted = calibrate(seed=3, vocabulary=0, click_rate=CLICK_RATE, conversion_rate=CONVERSION_RATE)
    return Generated(folder, truth, {name: pd.read_csv(folder / f"{name}.csv") for name in FILES}, planted)


def columns_of(frame: pd.DataFrame) -> dict[str, npt.NDArray[np.generic]]:
    return {str(name): frame[name].to_numpy() for name in frame}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_have_the_layout(run: Generated) -> None:
    header = ",".join(
        ["search_id"]
        + [f"categorical_{i}" for i in range(1, 17)]
        + [f"numerical_{i}" for i in range(1, 64)]
        + ["click", "conversion"]
    )
    assert sorted(path.name for path in run.folder.iterdir()) == ["test.csv", "train.csv", "truth.json", "valid.csv"]
    for name, rows in zip(FILES, (80_000, 10_000, 10_000), strict=True):
        lines = (run.folder / f"{name}.csv").read_text().splitlines()
        assert lines[0] == header
        assert len(lines) == rows + 1


def test_values_are_integers_or_have_six_decimals(run: Generated) -> None:
    text = pd.read_csv(run.folder / "test.csv", dtype=str)
    for name in text:
        form = r"\d+(\.\d{1,6})?" if name in NUMERICAL else r"\d+"
        assert text[name].str.fullmatch(form).all(), name


def test_search_is_in_one_file_and_varies_in_size(run: Generated) -> None:
    searches = [set(frame["search_id"]) for frame in run.frames.values()]
    assert len(set.union(*searches)) == sum(map(len, searches))
    for frame in run.frames.values():
        assert frame["search_id"].is_monotonic_increasing
    sizes = run.all.groupby("search_id").size()
    assert sizes.min() == 1
    assert sizes.max() == 20
    assert 3 < sizes.mean() < 5


def test_user_columns_are_constant_within_a_search_and_item_columns_are_not(run: Generated) -> None:
    values = run.all.groupby("search_id").nunique()
    assert (values[USER] == 1).to_numpy().all()
    assert (values[ITEM].max() > 1).all()


def test_categories_are_skewed_and_of_many_sizes(run: Generated) -> None:
    sizes = run.all[list(CATEGORICAL)].nunique()
    assert sizes.min() == 2
    assert sizes.max() == 300
    assert list(sizes.index[run.all[list(CATEGORICAL)].max() != sizes - 1]) == []
    shares = run.all["categorical_10"].value_counts(normalize=True)
    assert shares.max() > 10 / 300
    assert shares.min() < 0.5 / 300


def test_numerics_have_many_exact_zeros_and_some_are_unbounded(run: Generated) -> None:
    zeros = (run.all[list(NUMERICAL)] == 0).mean()
    assert 0.25 < zeros.mean() < 0.6
    assert (zeros > 0.05).sum() >= 50
    largest = run.all[list(NUMERICAL)].max()
    assert run.all[list(NUMERICAL)].min().min() == 0
    assert (largest > 50).sum() >= 3
    assert (largest <= 1).sum() >= 50


def test_no_row_is_converted_unless_clicked(run: Generated) -> None:
    assert run.all.loc[run.all["click"] == 0, "conversion"].sum() == 0
    assert set(run.all["click"]) == set(run.all["conversion"]) == {0, 1}


@pytest.mark.parametrize(
    ("click_rate", "conversion_rate", "seed"), [(0.01, 0.02, 0), (0.05, 0.10, 1), (0.10, 0.25, 0), (0.5, 0.9, 1)]
)
def test_expected_rates_match_the_arguments(click_rate: float, conversion_rate: float, seed: int) -> None:
    planted = calibrate(seed=seed, vocabulary=0, click_rate=click_rate, conversion_rate=conversion_rate)
    click, conversion = planted.probabilities(synth._draw_features(np.random.default_rng(seed), 100_000, 0, 0))
    assert click.mean() == pytest.approx(click_rate, rel=0.03)
    assert np.average(conversion, weights=click) == pytest.approx(conversion_rate, rel=0.03)


def test_sampled_rates_match_the_arguments(run: Generated) -> None:
    clicks = run.all["click"].sum()
    assert clicks / ROWS == pytest.approx(CLICK_RATE, rel=0.05)
    assert run.all["conversion"].sum() / clicks == pytest.approx(CONVERSION_RATE, rel=0.08)


def test_true_probabilities_are_calibrated_in_every_decile(run: Generated) -> None:
    click, conversion = run.planted.probabilities(columns_of(run.all))
    clicked = run.all["click"].to_numpy() == 1
    for p, label in ((click, clicked), (conversion[clicked], run.all["conversion"].to_numpy()[clicked])):
        for decile in np.array_split(np.argsort(p), 10):
            error = np.sqrt((p[decile] * (1 - p[decile])).sum())
            assert abs(label[decile].sum() - p[decile].sum()) < 4.5 * error


def test_truth_json_matches_the_files(run: Generated) -> None:
    stored = json.loads((run.folder / "truth.json").read_text())
    assert stored == asdict(run.truth)
    arguments = {"rows": ROWS, "seed": 3, "vocabulary": 0, "click_rate": 0.10, "conversion_rate": 0.25}
    assert {name: stored[name] for name in arguments} == arguments
    for name, frame in run.frames.items():
        found = (len(frame), frame["search_id"].nunique(), frame["click"].sum(), frame["conversion"].sum())
        assert tuple(stored["files"][name].values()) == found
    test = run.frames["test"]
    click, conversion = run.planted.probabilities(columns_of(test))
    clicked = test["click"].to_numpy() == 1
    expected = {
        "ctr": (clicked, click),
        "cvr": (test["conversion"][clicked], conversion[clicked]),
        "ctcvr": (test["conversion"], click * conversion),
    }
    for task, (labels, p) in expected.items():
        found = stored["test"][task]
        assert found["auc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-12), task
        assert (found["rows"], found["positives"], found["rate"]) == (len(labels), labels.sum(), labels.mean())
        assert found["reason"] is None


def test_auc_and_standard_error_by_hand() -> None:
    click = np.array([False, False, True, True])
    task = bayes_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.ones(4), click, click)["ctr"]
    assert task.auc == pytest.approx(0.75)  # Q1 = 0.6, Q2 = 9/14
    assert task.standard_error == pytest.approx(((0.1875 + 0.0375 + 9 / 14 - 0.5625) / 4) ** 0.5)


@pytest.mark.parametrize(("click_rate", "conversion_rate"), [(0.05, 0.10), (0.10, 0.25)])
def test_bayes_auc_leaves_room_above_and_below(click_rate: float, conversion_rate: float) -> None:
    for seed, vocabulary in ((0, 0), (1, 100_000)):
        planted = calibrate(seed=seed, vocabulary=vocabulary, click_rate=click_rate, conversion_rate=conversion_rate)
        click, conversion = planted.probabilities(
            synth._draw_features(np.random.default_rng(seed), 100_000, vocabulary, 0)
        )
        clicked, not_converted = click.copy(), click * (1 - conversion)
        aucs = {  # each row counts as a positive with its probability, and as a negative with the rest
            "ctr": (click, clicked, 1 - clicked),
            "cvr": (conversion, clicked * conversion, not_converted),
            "ctcvr": (click * conversion, clicked * conversion, 1 - clicked * conversion),
        }
        for task, (p, positive, negative) in aucs.items():
            labels = np.repeat([1, 0], len(p))
            auc = roc_auc_score(labels, np.tile(p, 2), sample_weight=np.concatenate([positive, negative]))
            assert 0.70 < auc < 0.85, (task, seed, auc)


def test_logistic_regression_stays_well_below_the_bayes_auc(run: Generated) -> None:
    train, test = run.frames["train"].iloc[:25_000], run.frames["test"]
    numbers, categories = list(NUMERICAL), list(CATEGORICAL)
    raw = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    raw.fit(train[numbers + categories], train["click"])
    raw_auc = roc_auc_score(test["click"], raw.predict_proba(test[numbers + categories])[:, 1])
    scaler, encoder = StandardScaler().fit(train[numbers]), OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit(train[categories])

    def features(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        return np.hstack([scaler.transform(frame[numbers]), encoder.transform(frame[categories])])

    one_hot = LogisticRegression(max_iter=200, tol=1e-3).fit(features(train), train["click"])
    one_hot_auc = roc_auc_score(test["click"], one_hot.predict_proba(features(test))[:, 1])
    bayes = run.truth.test["ctr"].auc
    assert bayes is not None
    assert 0.65 < raw_auc < bayes - 0.03
    assert 0.65 < one_hot_auc < bayes - 0.03


def test_tasks_share_some_effects_and_oppose_each_other_in_some() -> None:
    products = [effect.click * effect.conversion for effect in planted.EFFECTS]
    assert min(products) < 0 < max(products)
    assert 0 in products


def test_ids_of_a_large_vocabulary_have_effects(tmp_path: Path) -> None:
    size = 5_000
    synthesize(tmp_path, 100_000, vocabulary=size)
    train = pd.read_csv(tmp_path / "train.csv")
    planted = calibrate(seed=0, vocabulary=size, click_rate=0.05, conversion_rate=0.10)
    columns = columns_of(train)
    click, conversion = planted.probabilities(columns)
    for name in ("categorical_1", "categorical_10"):
        ids = train[name]
        assert ids.min() == 0
        assert 0.98 * size < ids.max() < size
        assert ids.nunique() > size / 2
        other_click, other_conversion = planted.probabilities(columns | {name: np.roll(ids.to_numpy(), 1_000)})
        assert roc_auc_score(train["click"], other_click) < roc_auc_score(train["click"], click) - 0.01
        assert np.corrcoef(conversion, other_conversion)[0, 1] < 0.999


def test_largest_vocabulary_needs_no_table() -> None:
    columns = synth._draw_features(np.random.default_rng(0), 1_000, synth.MAX_VOCABULARY, 0)
    values = planted.EffectInputs(columns, seed=0).planted(1)
    assert columns["categorical_1"].max() > 2**30
    assert -1 <= values.min() < -0.9
    assert 0.9 < values.max() < 1


def test_planted_values_look_uniform_and_differ_by_seed_and_column() -> None:
    ids = np.arange(100_000)
    columns = {"categorical_1": ids, "categorical_10": ids}
    a, b = planted.EffectInputs(columns, 0).planted(1), planted.EffectInputs(columns, 0).planted(10)
    c = planted.EffectInputs(columns, 1).planted(1)
    assert np.histogram(a, bins=10, range=(-1, 1))[0] == pytest.approx(10_000, abs=500)
    assert np.abs(np.corrcoef([a, b, c, np.roll(a, 1)]) - np.eye(4)).max() < 0.02


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    synthesize(tmp_path / "a", 60_000, seed=5)
    synthesize(tmp_path / "b", 60_000, seed=5)
    synthesize(tmp_path / "c", 60_000, seed=6)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)
    first, other = (pd.read_csv(tmp_path / name / "test.csv") for name in "ac")
    assert (first["numerical_33"] != other["numerical_33"]).mean() > 0.9  # other rows, not other labels alone


def test_chunks_differ_from_each_other() -> None:
    planted = calibrate(seed=0, vocabulary=0, click_rate=0.05, conversion_rate=0.1)
    chunks = [columns for _, columns, _ in synth._draw(planted, {"train": 2 * synth.CHUNK_ROWS, "test": 100}, 0)]
    starts = [tuple(columns["numerical_30"][:100]) for columns in chunks]
    assert len(set(starts)) == 3


def test_progress_counts_up_to_all_rows(tmp_path: Path) -> None:
    seen: list[int] = []
    synthesize(tmp_path, 70_000, progress=seen.append)
    assert seen == [50_000, 56_000, 63_000, 70_000]


@pytest.mark.parametrize("stop_at", [50_000, 70_000])
def test_interruption_keeps_existing_files(stop_at: int, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "new", 70_000, progress=interrupt)
    assert list((tmp_path / "new").iterdir()) == []
    synthesize(tmp_path / "old", 100)
    before = digests(tmp_path / "old")
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "old", 70_000, progress=interrupt)
    assert digests(tmp_path / "old") == before


def test_second_run_replaces_the_first(tmp_path: Path) -> None:
    synthesize(tmp_path, 100, seed=1)
    synthesize(tmp_path, 200, seed=2)
    assert json.loads((tmp_path / "truth.json").read_text())["seed"] == 2
    assert len(pd.read_csv(tmp_path / "train.csv")) == 160


def test_auc_of_one_class_is_null_with_a_reason(tmp_path: Path) -> None:
    synthesize(tmp_path, 10, click_rate=1e-6)
    tasks = json.loads((tmp_path / "truth.json").read_text())["test"]
    for task in ("ctr", "ctcvr"):
        assert tasks[task]["auc"] is tasks[task]["standard_error"] is None
        assert "no positive row" in tasks[task]["reason"]
    assert tasks["cvr"]["rate"] is None
    assert "no rows" in tasks["cvr"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 9}, "`rows` must be at least 10, so that each of the three files has one, got 9"),
        ({"seed": -1}, "`seed` must be 0 or more, got -1"),
        ({"vocabulary": 1}, "`vocabulary` must be 0 or from 2 to 2147483648, got 1"),
        ({"vocabulary": -5}, "`vocabulary` must be 0 or from 2 to 2147483648, got -5"),
        ({"vocabulary": 2**31 + 1}, "`vocabulary` must be 0 or from 2 to 2147483648, got 2147483649"),
        ({"click_rate": 0.0}, "`click_rate` must be above 0 and below 1, got 0.0"),
        ({"click_rate": float("nan")}, "`click_rate` must be above 0 and below 1, got nan"),
        ({"conversion_rate": 1.0}, "`conversion_rate` must be above 0 and below 1, got 1.0"),
    ],
)
def test_invalid_arguments_write_nothing(arguments: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        synthesize(tmp_path / "out", **{"rows": 100, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder, but .*out is a file"):
        synthesize(tmp_path / "out", 100)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_thinned_file_lacks_rows_without_a_click_alone(run: Generated, tmp_path: Path) -> None:
    """It holds rows of the whole file in their order: all with a click, and the other ones at the rate."""
    rates = {"click_rate": CLICK_RATE, "conversion_rate": CONVERSION_RATE}
    truth = synthesize(tmp_path, ROWS, seed=3, negative_rate=0.1, thinned=["train", "valid"], **rates)
    assert digests(tmp_path)["test.csv"] == digests(run.folder)["test.csv"]
    assert truth.test == run.truth.test
    for name in ("train", "valid"):
        whole, kept = (set((folder / f"{name}.csv").read_text().splitlines()) for folder in (run.folder, tmp_path))
        assert kept < whole
        clicked = run.frames[name].click == 1
        thinned = pd.read_csv(tmp_path / f"{name}.csv")
        assert int(thinned.click.sum()) == clicked.sum()
        assert (thinned.click == 0).sum() == pytest.approx(0.1 * (~clicked).sum(), rel=0.1)
        assert truth.files[name].rows == len(thinned)
        assert truth.files[name].searches == thinned.search_id.nunique()


def test_rows_kept_at_a_lower_rate_are_among_those_kept_at_a_higher_one(tmp_path: Path) -> None:
    kept = []
    for rate in (0.05, 0.5):
        synthesize(tmp_path, 2000, negative_rate=rate)
        kept.append(set((tmp_path / "train.csv").read_text().splitlines()))
    assert kept[0] < kept[1]


def test_thinned_files_in_the_raw_layout_hold_the_users_of_their_items(tmp_path: Path) -> None:
    truth = synthesize(tmp_path, 2000, negative_rate=0.1, layout="raw")
    users, items = (pd.read_csv(tmp_path / f"{name}_train.csv", header=None) for name in ("user", "item"))
    assert len(items) == truth.files["train"].rows < 1800
    assert len(users) == truth.files["train"].searches


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"negative_rate": 0.0}, r"`negative_rate` must be in \(0, 1\], got 0.0"),
        ({"thinned": ["test"]}, "to say that files were thinned, give `negative_rate`"),
    ],
)
def test_thinning_out_of_range_is_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(recmtl.SchemaError, match=said):
        synthesize(tmp_path, 100, **options)
