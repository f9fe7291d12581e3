"""Predictions of thinned files, in memory and in files: each row counts as the rows that it stands for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import metrics_of
from recmtl.schema import SAMPLING_WEIGHT

SCHEMA = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("ctr", "click")])
KEPT = pd.DataFrame({"click": [1.0, 0, 1, 0], "ctr": [0.7, 0.2, 0.3, 0.4]})
WHOLE = KEPT.loc[np.repeat(range(4), [1, 4, 1, 4])]  # rows without a click were kept at the rate 0.25


def predictions(schema: recmtl.Schema, frame: pd.DataFrame) -> recmtl.Predictions:
    return recmtl.Predictions.from_table(schema, pa.Table.from_pandas(frame, preserve_index=False))


def logloss(predicted: recmtl.Predictions) -> float:
    return metrics_of(predicted.scores()["ctr"]).values["logloss"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_keep_the_sampling_weights(tmp_path: Path, suffix: str) -> None:
    plain, thinned = tmp_path / f"plain.{suffix}", tmp_path / f"thinned.{suffix}"
    predictions(SCHEMA, KEPT).write(plain)
    whole = logloss(predictions(SCHEMA, WHOLE))
    weighted = predictions(SCHEMA, KEPT).with_thinning(recmtl.Thinning(0.25))
    assert logloss(weighted) == pytest.approx(whole, rel=1e-12)
    weighted.write(thinned)
    read = recmtl.Predictions.read(SCHEMA, thinned)
    assert read.sampling_weight.tolist() == [1, 4, 1, 4]
    assert logloss(read) == pytest.approx(whole, rel=1e-12)
    assert recmtl.Predictions.read(SCHEMA, plain).sampling_weight is None
    with pytest.raises(recmtl.SchemaError, match="the predictions have sampling weights already"):
        read.with_thinning(recmtl.Thinning(0.25))


def test_a_part_without_sampling_weights_was_not_thinned(tmp_path: Path) -> None:
    predictions(SCHEMA, KEPT).write(tmp_path / "a.parquet")
    predictions(SCHEMA, KEPT).with_thinning(recmtl.Thinning(0.5)).write(tmp_path / "b.parquet")
    read = recmtl.Predictions.read(SCHEMA, tmp_path)
    assert sorted(read.sampling_weight) == [1, 1, 1, 1, 1, 1, 2, 2]
    assert read.sampling_weight.tolist()[4:] == [1, 2, 1, 2]


def test_sampling_weights_are_checked() -> None:
    frame = KEPT.assign(**{SAMPLING_WEIGHT: [1, 0, 1, 4]})
    with pytest.raises(recmtl.SchemaError, match="sampling_weight"):
        predictions(SCHEMA, frame).check()


def test_sampling_weights_and_row_weights_multiply() -> None:
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("ctr", "click")], weight="w")
    thinned = predictions(schema, KEPT.assign(w=[1, 2, 3, 4])).with_thinning(recmtl.Thinning(0.25))
    assert thinned.scores()["ctr"].weight.tolist() == [1, 8, 3, 16]
