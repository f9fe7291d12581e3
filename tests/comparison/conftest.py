"""Data and comparisons that the tests share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import ROWS, SEEDS, Plant, Signals, predicted, write_run

import recmtl
from recmtl.comparison import Comparison
from recmtl.comparison.grid import GridRun, Variant
from recmtl.comparison.jobs import ERROR


@pytest.fixture(scope="session")
def planted_rows() -> recmtl.PreparedData:
    """600 rows with two binary tasks and a regression; every feature is noise."""
    rng = np.random.default_rng(0)
    labels = {"a": rng.integers(0, 2, ROWS), "b": rng.integers(0, 2, ROWS), "c": rng.normal(size=ROWS)}
    tasks = [recmtl.Task("a", "a"), recmtl.Task("b", "b"), recmtl.Task("c", "c", kind="regression")]
    schema = recmtl.Schema(features=[recmtl.Numeric("x")], tasks=tasks)
    frame = pd.DataFrame({"x": rng.normal(size=ROWS), **labels})
    return recmtl.prepare(schema, frame, test=frame)


@pytest.fixture
def plant(tmp_path: Path, planted_rows: recmtl.PreparedData) -> Plant:
    """Write a comparison: each run predicts label times signal plus noise of its variant and seed."""

    def write(signals: Signals, seeds: int = SEEDS, failed: tuple[tuple[Variant, int], ...] = ()) -> Comparison:
        runs = [GridRun(variant, seed, {}) for variant in signals for seed in range(seeds)]
        comparison = Comparison(tmp_path / "planted", "test", runs)
        for run in runs:
            folder = comparison.path(run)
            if (run.variant, run.seed) in failed:
                folder.mkdir(parents=True)
                (folder / ERROR).write_text("no memory | left\n")
                continue
            number = list(signals).index(run.variant)
            values = {
                task: predicted(planted_rows, task, s, number, run.seed) for task, s in signals[run.variant].items()
            }
            write_run(folder, planted_rows, values, seconds=number + run.seed)
        comparison.save("planted")
        return Comparison.open(comparison.folder)

    return write
