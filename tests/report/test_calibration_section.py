"""The calibration in a report: both stages, slices and time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import Predictions, calibration_over_time, calibration_table
from recmtl.evaluate.calibration_tables import time_key
from recmtl.report import open_runs
from recmtl.report.calibration import calibration_section
from recmtl.report.elements import Heading, Table
from recmtl.runs.folder import RunFolder
from recmtl.schema import SchemaError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A calibrated run on two days, whose predictions are too high on the second, and in shop b."""
    rng = np.random.default_rng(0)
    days = np.repeat(pd.date_range("2024-03-01", periods=2).to_numpy(), 1500)
    frame = pd.DataFrame({"x": rng.normal(size=3000), "shop": rng.choice(["a", "b"], 3000), "day": days})
    frame["day"] = frame["day"].dt.strftime("%Y-%m-%d")
    p = 1 / (1 + np.exp(-frame["x"].to_numpy()))
    factor = np.where(days > days[0], 0.7, 1.0) * np.where(frame["shop"] == "b", 0.8, 1.0)
    frame["click"] = (rng.random(3000) < p * factor).astype(float)
    schema = recmtl.Schema(
        features=[recmtl.Numeric("x")], tasks=[recmtl.Task("ctr", "click")], group="shop", keys=["day"]
    )
    data = recmtl.prepare(schema, frame, test=frame)
    folder = RunFolder(tmp_path / "run")
    folder.begin("data: {}\n")
    folder.create(data.schema)
    keys = pa.table({"shop": frame["shop"], "day": frame["day"]})
    wrong, labels = {"ctr": np.sqrt(p)}, {"click": frame["click"].to_numpy()}
    predictions = Predictions(data.schema.schema, {"ctr": p}, labels, None, keys, uncalibrated=wrong)
    folder.predictions("test").parent.mkdir()
    predictions.write(folder.predictions("test"))
    folder.finish({"test": {}})
    return folder.path


def quiet(what: str, rows: int) -> None:
    """Ignore progress."""


def test_the_section_shows_both_stages_the_slices_and_the_days(run: Path) -> None:
    opened = open_runs([run])
    section = calibration_section(opened, ["shop"], None, None, quiet)
    tables = [part for part in section.parts if isinstance(part, Table)]
    headings = [part.text for part in section.parts if isinstance(part, Heading)]
    assert headings == ["By shop", "Over day"]
    errors, by_shop, over_day = tables
    expected = calibration_table(opened[0].predictions)
    assert [row[1].text for row in errors.rows] == ["uncalibrated", "calibrated"]
    assert [row[2].text for row in errors.rows] == [f"{value:.4f}" for value in expected["ece"]]
    assert by_shop.rows[0][0].text == "b"
    days = calibration_over_time(opened[0].predictions, "day")
    assert [row[0].text for row in over_day.rows] == ["2024-03-01", "2024-03-02"]
    assert over_day.rows[1][1].text == f"{days['calibration'].iloc[1]:.4f}"
    assert "fewer" not in over_day.caption


def test_the_key_of_time_is_found_or_named(run: Path) -> None:
    (opened,) = open_runs([run])
    assert time_key(opened.predictions) == "day"
    shops = calibration_section([opened], [], None, "shop", quiet)
    assert [part.text for part in shops.parts if isinstance(part, Heading)] == ["Over shop"]
    with pytest.raises(SchemaError, match="expected one of 'shop', 'day', got 'hour'"):
        calibration_section([opened], [], None, "hour", quiet)
