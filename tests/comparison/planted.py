"""Comparisons of runs that were not trained: labels and predictions are planted."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import recmtl
from recmtl.comparison import Comparison
from recmtl.comparison.grid import Variant
from recmtl.evaluate import Predictions, metrics_of
from recmtl.train import RunFolder

Floats = npt.NDArray[np.float64]
Signals = Mapping[Variant, Mapping[str, float]]  # by variant and task: the share of the label in the prediction
Plant = Callable[..., Comparison]
ROWS, SEEDS = 600, 4


def predicted(data: recmtl.PreparedData, task: str, signal: float, variant: int, seed: int) -> Floats:
    label = data.test.labels[task]
    noise = np.random.default_rng([variant, ord(task)]).normal(size=ROWS)
    value = signal * label + noise + 0.05 * np.random.default_rng([variant, ord(task), seed]).normal(size=ROWS)
    return value if task == "c" else 1 / (1 + np.exp(-value))


def write_run(folder: Path, data: recmtl.PreparedData, values: Mapping[str, Floats], seconds: float) -> None:
    """Write the parts of a finished run folder that a comparison reads."""
    run = RunFolder(folder)
    run.create(data.schema)
    predictions = Predictions(data.schema.schema, values, data.test.labels, None, pa.table({}))
    (folder / "predictions").mkdir()
    predictions.write(folder / "predictions" / "test.parquet")
    measured = {name: metrics_of(scores).to_dict() for name, scores in predictions.scores().items()}
    run.finish({"test": measured, "seconds": seconds, "peak_memory_bytes": 1_000_000 * (1 + seconds)})
