"""Predictions of any library: ids are text or exact integers, and all forms of files are read alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import metrics_of
from recmtl.evaluate.prediction_files import read_predictions

SCHEMA = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("ctr", "click")], group="search", keys=["user"])
SEARCHES = 120


def frame(ids: list[str]) -> pd.DataFrame:
    """Three rows a search."""
    rng = np.random.default_rng(0)
    rows = 3 * SEARCHES
    columns = {"user": "07", "click": rng.integers(0, 2, rows), "ctr": rng.random(rows)}
    return pd.DataFrame({"search": np.repeat(ids, 3), **columns})


IDS = {
    "20 digits": [str(10**19 + 7 * i) for i in range(SEARCHES)],
    "zeros before a number": [f"{'0' * (i % 2)}{i // 2}" for i in range(SEARCHES)],
    "floats beyond 2**53": [f"{2**53 + i}" for i in range(SEARCHES)],
    "exponents": [f"{i}e2" if i % 2 else f"{i}00" for i in range(SEARCHES)],
    "booleans beside text": [f"{i}" if i > 1 else str(bool(i)) for i in range(SEARCHES)],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_that_went_through_a_float_are_refused(tmp_path: Path, suffix: str) -> None:
    lost = frame([str(2**60 + i) for i in range(SEARCHES)]).astype({"search": float})
    path = tmp_path / f"p.{suffix}"
    lost.to_csv(path, index=False) if suffix == "csv" else lost.to_parquet(path)
    with pytest.raises(
        recmtl.SchemaError, match=r"column 'search': .*1.15.*e.18.* is not an exact id: it went through"
    ):
        read_predictions(SCHEMA, path)


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_in_a_csv_are_those_in_parquet(tmp_path: Path, ids: list[str]) -> None:
    given = frame(ids)
    given.to_csv(tmp_path / "p.csv", index=False)
    given.to_parquet(tmp_path / "p.parquet")
    found = {}
    for suffix in ("csv", "parquet"):
        read = recmtl.Predictions.read(SCHEMA, tmp_path / f"p.{suffix}")
        scores = read.scores()["ctr"]
        found[suffix] = metrics_of(scores).values
        assert len(np.unique(scores.groups)) == SEARCHES
        assert read.keys["user"].to_pylist() == ["07"] * len(given)
    assert found["csv"] == found["parquet"]


def test_integers_that_text_follows_stay_as_they_are(tmp_path: Path) -> None:
    for part, ids in enumerate((["7", "8"], ["07", "x"])):
        pd.DataFrame({"search": ids, "click": [0, 1], "ctr": [0.1, 0.2]}).to_csv(tmp_path / f"{part}.csv", index=False)
    keys = recmtl.Predictions.read(SCHEMA, tmp_path).keys
    assert keys["search"].to_pylist() == ["7", "8", "07", "x"]


@pytest.mark.parametrize("name", ["p.PARQUET", "p", "p.tsv", "p.csv.gz", "p.CSV.GZ", "p.feather", "p.pq"])
def test_files_are_read_as_those_of_rows(tmp_path: Path, name: str) -> None:
    given, path = frame(IDS["20 digits"]), tmp_path / "folder" / name
    path.parent.mkdir()
    if name in ("p", "p.PARQUET", "p.pq"):
        given.to_parquet(path)
    elif name == "p.feather":
        given.to_feather(path)
    else:
        zipped = "gzip" if name.lower().endswith(".gz") else None
        given.to_csv(path, index=False, sep="\t" if name == "p.tsv" else ";", compression=zipped)
    for place in (path, path.parent, f"{path.parent}/p*"):
        read = recmtl.Predictions.read(SCHEMA, place)
        assert np.array_equal(read.values["ctr"], given["ctr"])
        assert read.keys["search"].to_pylist() == given["search"].to_list()


def test_text_and_booleans_are_labels(tmp_path: Path) -> None:
    given = frame(IDS["20 digits"])
    wanted = recmtl.Predictions.from_table(SCHEMA, pa.Table.from_pandas(given)).scores()["ctr"]
    for written in (given.assign(click=given.click == 1), given.assign(click=(given.click == 1).astype(str))):
        written.to_csv(tmp_path / "p.csv", index=False)
        in_memory = recmtl.Predictions.from_table(SCHEMA, pa.Table.from_pandas(written))
        for read in (recmtl.Predictions.read(SCHEMA, tmp_path / "p.csv"), in_memory):
            assert np.array_equal(read.scores()["ctr"].labels, wanted.labels)


def test_rows_without_a_group_stand_alone(tmp_path: Path) -> None:
    for missing in ("", "NULL", "\\N"):
        pd.DataFrame({"search": ["a", missing, missing, "a"], "click": 1, "ctr": 0.5}).to_csv(tmp_path / "p.csv")
        assert len(np.unique(recmtl.Predictions.read(SCHEMA, tmp_path / "p.csv").scores()["ctr"].groups)) == 3


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    given = recmtl.Predictions.from_table(SCHEMA, pa.Table.from_pandas(frame(IDS["zeros before a number"])))
    for suffix in (".parquet", ".csv", ".arrow", ".CSV"):
        given.write(tmp_path / f"p{suffix}")
        read = recmtl.Predictions.read(SCHEMA, tmp_path / f"p{suffix}")
        assert read.table().to_pydict() == given.table().to_pydict()
    with pytest.raises(recmtl.DataError, match=r"p\.txt' names no format: give it one of the suffixes \.parquet, "):
        given.write(tmp_path / "p.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.CSV", "p.arrow", "p.csv", "p.parquet"]
