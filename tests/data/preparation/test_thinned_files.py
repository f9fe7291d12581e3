"""Files of which only a share of the negative rows was kept."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.errors import DataError

SCHEMA = recmtl.Schema(
    [recmtl.Categorical("c")],
    [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy", given="click")],
    recmtl.Funnel("click", "buy"),
)


def frame(rows: int = 4000, click_rate: float = 0.2, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    click = (rng.random(rows) < click_rate).astype(int)
    return pd.DataFrame({"c": rng.integers(5, size=rows), "click": click, "buy": click * rng.integers(2, size=rows)})


def thin(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    kept = (rows.click == 1) | (np.random.default_rng(9).random(len(rows)) < rate)
    return rows[kept].reset_index(drop=True)


def test_only_the_rows_of_a_thinned_file_have_sampling_weights() -> None:
    rows = thin(frame(), 0.1)
    data = recmtl.prepare(SCHEMA, rows, test=frame(seed=1), thinning=recmtl.Thinning(0.1, ["click"]))
    assert data.test.thinning is None
    assert data.test.sampling_weight is None
    assert next(recmtl.Loader(data.test, 9).epoch()).sampling_weight is None
    for split in (data.train, data.valid):  # held-out rows are as thin as their file
        assert split.sampling_weight.tolist() == np.where(split.labels["click"] == 1, 1, 10).tolist()
        batch = next(recmtl.Loader(split, 50).epoch())
        assert batch.sampling_weight.tolist() == split.sampling_weight[:50].tolist()


def test_only_the_named_file_is_thinned() -> None:
    whole = frame()
    thinning = recmtl.Thinning(0.1, thinned=["test"])
    data = recmtl.prepare(SCHEMA, whole, frame(seed=2), thin(frame(seed=1), 0.1), thinning=thinning)
    assert [name for name, rows in data.splits.items() if rows.thinning] == ["test"]
    assert data.schema.thinning is None  # models are trained on all rows


@pytest.mark.parametrize("labels", [["click"], ["buy"], []])
def test_a_row_is_negative_if_all_named_labels_are_0_or_missing(labels: list[str]) -> None:
    rows = pd.DataFrame({"c": 0, "click": [1, 1, 0, np.nan, 0], "buy": [1, 0, 0, 0, np.nan]})
    data = recmtl.prepare(SCHEMA, rows, holdout=0, thinning=recmtl.Thinning(0.25, labels))
    assert data.train.sampling_weight.tolist() == ([1, 4, 4, 4, 4] if labels == ["buy"] else [1, 1, 4, 4, 4])


def test_the_means_of_labels_are_estimated_for_all_rows() -> None:
    rows = pd.DataFrame({"c": 0, "click": [1, 1, 0, 0], "buy": [1, 0, 0, 0]})
    data = recmtl.prepare(SCHEMA, rows, holdout=0, thinning=recmtl.Thinning(0.25))
    ctr, cvr = SCHEMA.tasks
    assert data.schema.rate(ctr).mean == 0.5
    assert data.schema.unthinned_rate(ctr).mean == pytest.approx(2 / 10)
    assert data.schema.unthinned_rate(cvr).mean == 0.5


def test_a_stored_dataset_knows_how_its_files_were_thinned(tmp_path) -> None:
    rows, thinning = thin(frame(), 0.1), recmtl.Thinning(0.1, ["click"])
    stored = recmtl.prepare(SCHEMA, rows, test=frame(seed=1), out=tmp_path / "data", thinning=thinning)
    opened = recmtl.PreparedData.open(tmp_path / "data")
    memory = recmtl.prepare(SCHEMA, rows, test=frame(seed=1), thinning=thinning)
    for data in (stored, opened):
        assert data.schema.thinning == memory.schema.thinning == thinning
        assert data.schema.unthinned_means == memory.schema.unthinned_means
        for name, split in data.splits.items():
            assert split.thinning == memory.splits[name].thinning
            assert split.fingerprint == memory.splits[name].fingerprint
    plain = recmtl.prepare(SCHEMA, rows, test=frame(seed=1))
    assert plain.train.fingerprint != memory.train.fingerprint
    assert plain.test.fingerprint == memory.test.fingerprint


def test_the_cache_tells_thinnings_apart(tmp_path) -> None:
    frame().to_csv(tmp_path / "rows.csv", index=False)
    for thinning, weight in ((None, None), (recmtl.Thinning(0.5), 2), (recmtl.Thinning(0.1), 10)):
        data = prepare_cached(SCHEMA, str(tmp_path / "rows.csv"), cache=tmp_path / "cache", thinning=thinning)
        found = data.train.sampling_weight
        assert (None if found is None else found.max()) == weight


def test_notes_say_what_was_thinned_and_what_contradicts_it() -> None:
    def notes(train: pd.DataFrame, test: pd.DataFrame, *thinned: str) -> list[str]:
        data = recmtl.prepare(SCHEMA, train, test=test, thinning=recmtl.Thinning(0.1, ["click"], thinned))
        return [note for note in data.notes if "click" in note]

    whole, kept = frame(20_000, seed=1), thin(frame(20_000), 0.1)
    said = "rows without click are taken as kept at the rate 0.1 in train, valid"
    assert notes(kept, whole, "train") == [said]
    assert notes(kept, thin(whole, 0.1), "train", "test") == [said + ", test"]
    assert "as if `thinned` were wrong on test, which is taken as not thinned" in notes(kept, kept, "train")[1]
    assert "as if `thinned` were wrong on test, which is taken as thinned" in notes(kept, whole, "train", "test")[1]


@pytest.mark.parametrize(
    ("thinning", "said"),
    [
        (recmtl.Thinning(0.1, ["buys"]), r"`negative_labels` must be binary labels \(click, buy\), got 'buys'"),
        (recmtl.Thinning(0.1, thinned=["valid"]), "`thinned` names the valid file, but there is none"),
    ],
)
def test_a_thinning_that_does_not_fit_is_refused(thinning: recmtl.Thinning, said: str) -> None:
    with pytest.raises((recmtl.SchemaError, DataError), match=said):
        recmtl.prepare(SCHEMA, frame(50), thinning=thinning)


@pytest.mark.parametrize("labels", [(), ("click",)])
def test_files_without_a_binary_label_are_not_thinned(labels: tuple[str, ...]) -> None:
    schema = dataclasses.replace(SCHEMA, tasks=[recmtl.Task("clicks", "click", kind="amount")], funnel=None)
    with pytest.raises(recmtl.SchemaError, match="`negative_rate` needs a binary label"):
        recmtl.prepare(schema, frame(50), holdout=0, thinning=recmtl.Thinning(0.1, labels))


def test_soft_labels_do_not_say_which_rows_are_negative() -> None:
    schema = dataclasses.replace(SCHEMA, tasks=[recmtl.Task("ctr", "click")], funnel=None)
    rows = frame(50).astype({"click": float})
    rows.loc[3, "click"] = 0.5
    with pytest.raises(recmtl.SchemaError, match="'click' is between 0 and 1 in 1 training row"):
        recmtl.prepare(schema, rows, holdout=0, thinning=recmtl.Thinning(0.1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"negative_rate": 0}, r"`negative_rate` must be in \(0, 1\], got 0"),
        ({"negative_rate": 1.5}, r"`negative_rate` must be in \(0, 1\], got 1.5"),
        ({"negative_rate": float("nan")}, r"`negative_rate` must be in \(0, 1\], got nan"),
        ({"negative_rate": 0.1, "negative_labels": "click"}, "`negative_labels` must be a list of names, got 'click'"),
        ({"negative_rate": 0.1, "thinned": ["dev"]}, "`thinned` must name files, train, valid, test, got 'dev'"),
        ({"negative_rate": 0.1, "thinned": []}, "`thinned` must name at least one of the files"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(recmtl.SchemaError, match=said):
        recmtl.Thinning(**options)
