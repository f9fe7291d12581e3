"""Write a trained model as a folder that serves it: from raw rows to probabilities, without recmtl and torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from recmtl._version import __version__
from recmtl.data import Rows, encode_rows
from recmtl.data.sources.open import Data
from recmtl.errors import DataError, RunError, SchemaError
from recmtl.features.embedding_table import spread_tables
from recmtl.io.files import new_folder
from recmtl.io.untrusted import read_text
from recmtl.recipe.load import load_run
from recmtl.recipe.run_data import data_options, first_rows, held_out_rows
from recmtl.runs.folder import READER, RECIPE
from recmtl.schema import Binned, FittedSchema, Numeric, Task
from recmtl.schema.features import KIND_NAMES
from recmtl.serving.check import (
    LIMIT,
    ROUNDING,
    Floats,
    exact_predictions,
    largest_difference,
    own_predictions,
    run_predictions,
    served_predictions,
)
from recmtl.serving.encoder_files import reader_source, write_encoder
from recmtl.serving.graph import GRAPHS, Format, check_installed
from recmtl.serving.manifest import write_manifest
from recmtl.serving.network import ServedNetwork, meaning
from recmtl.serving.probe import probe_columns, probe_rows, probe_table
from recmtl.serving.reader import PROBE_FILE
from recmtl.serving.weights import WEIGHTS, Weights
from recmtl.serving.written import Measured, WrittenNetwork, main_metrics
from recmtl.train import Trainer

LABELLED_ROWS = 200_000  # at most, on which metrics are measured
CHECK_ROWS, PROBE_ROWS = 10_000, 20


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with the run.

    Args:
        folder: The folder of the exported model.
        rows: The rows with which it was checked: generated ones, and labelled ones.
        difference: The largest difference of a prediction from that of the run, both with weights and sums in fp32.
        precision: The precision in which the run itself predicts.
        precision_difference: What that changes its predictions by at most; 0 for fp32.
        size: The bytes of the graph with its weights.
        cost: What it costs to store weights in fewer bits; ``None`` for fp32.
    """

    folder: Path
    rows: int
    difference: float
    precision: str
    precision_difference: float
    size: int
    cost: WeightsCost | None = None


@dataclass(frozen=True)
class WeightsCost:
    """What a model loses by weights in fewer bits.

    Args:
        fp32_size: The bytes of the same graph with weights in fp32.
        difference: The largest difference of a prediction on generated rows, as of `Exported`.
        rows: The number of labelled rows on which the metrics are measured.
        about: Which rows these are; without any, why there are none.
        metrics: The main metric of each task with weights in fp32 and as they are stored.
    """

    fp32_size: int
    difference: float
    rows: int
    about: str
    metrics: Mapping[str, tuple[Measured, Measured]]


def export_model(
    run: str | Path | Trainer,
    out: str | Path,
    format: Format = "onnx",  # noqa: A002
    weights: Weights = "fp32",
    rows: Rows | Data | None = None,
    trust: str | Sequence[str] = (),
) -> Exported:
    """Write a trained model as a folder with all that scores raw rows.

    The model is checked before the folder appears: on generated rows, among them unseen categories, missing values and
    empty lists, it must predict what the run predicts in fp32.

    Args:
        run: A run folder, or a trainer.
        out: The folder to write, which must not exist yet or be empty.
        format: ``onnx``, or ``torch`` for a program of `torch.export`.
        weights: How weights are stored: ``fp32``; ``bf16``, in half of the bytes; or ``int8``, in about a quarter.
        rows: Labelled rows, with which the model is checked as well, and on which the metrics that weights in fewer
            bits cost are measured; ``None`` takes the test or else the validation rows of the run, if they can be read.
        trust: Further modules whose classes the recipe of the run may name.

    Raises:
        RunError: The run is not finished or cannot be loaded, or its model cannot be exported.
        DataError: The folder exists, a package is missing, or the exported model predicts something else than the run.

    Example:
        >>> recmtl.export_model("runs/first", "model")  # doctest: +SKIP
    """
    out = Path(out)
    if isinstance(run, Trainer) and spread_tables(run.model):
        raise RunError(
            "the tables of the model are spread over processes: export its run folder, which one process can read"
        )
    for name, value, known in (("format", format, GRAPHS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise DataError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
    check_installed(format)
    with new_folder(out) as folder:
        trainer = run if isinstance(run, Trainer) else load_run(run, trust)
        labelled = _labelled(trainer.model.schema, run, rows, weights != "fp32")
        found = _write(trainer, folder, format, weights, labelled)
    return replace(found, folder=out)


def _labelled(
    schema: FittedSchema, run: str | Path | Trainer, rows: Rows | Data | None, prepare: bool
) -> tuple[Rows | None, str]:
    """Return labelled rows and what they are; without any, why there are none."""
    if isinstance(rows, Rows):
        return rows, "given rows"
    if rows is not None:
        return first_rows(schema, rows, LABELLED_ROWS), "given rows"
    if isinstance(run, Trainer):
        return None, "a trainer has none"
    try:
        options = data_options(read_text(Path(run) / RECIPE), repr(str(run)))
        found = held_out_rows(options, schema, LABELLED_ROWS, prepare)
    except (DataError, SchemaError, OSError, ValueError) as error:
        return None, f"those of the run cannot be read: {' '.join(str(error).split())}"
    return found, f"{found.name} rows"


def _write(
    trainer: Trainer, folder: Path, form: Format, weights: Weights, labelled: tuple[Rows | None, str]
) -> Exported:
    schema, network = trainer.model.schema, ServedNetwork(trainer.model)
    written = WrittenNetwork(network, form, folder)
    write_encoder(schema, folder)
    (folder / READER).write_text(reader_source(), encoding="utf-8")
    columns = probe_columns(schema, CHECK_ROWS)
    generated = encoded(schema, probe_table(schema, columns))
    exact = served_predictions(folder, network, written.run, columns)
    count, difference = len(generated), _checked(trainer, generated, exact, "generated rows")
    rows, about = labelled
    precision, changed = trainer.setup.optimization.precision, _precision_difference(trainer, generated)
    if rows is not None:
        own = Rows(schema, rows.table.slice(0, CHECK_ROWS))
        count, difference = count + len(own), max(difference, _checked(trainer, own, written.predictions(own), about))
    measured = {"rows": count, "difference": difference, "precision": precision, "precision_difference": changed}
    cost, found = None, exact
    if weights != "fp32":
        before, size = _metrics(schema, rows, written), written.size
        written.store_weights(weights)
        after, found = _metrics(schema, rows, written), served_predictions(folder, network, written.run, columns)
        metrics = {name: (measured, after[name]) for name, measured in before.items()}
        cost = WeightsCost(size, largest_difference(trainer, exact, found), len(rows or ()), about, metrics)
    few = {name: values[:PROBE_ROWS] for name, values in columns.items()}
    probe = {"rows": probe_rows(few), "expected": {name: v[:PROBE_ROWS].tolist() for name, v in found.items()}}
    (folder / PROBE_FILE).write_text(json.dumps(probe, ensure_ascii=False), encoding="utf-8")
    about_weights = {"weights": asdict(cost) | ({} if cost.rows else {"about": "no labelled rows"})} if cost else {}
    write_manifest(folder, manifest_content(trainer, network, form, weights, measured | about_weights))
    return Exported(folder, count, difference, precision, changed, written.size, cost)


def _checked(trainer: Trainer, rows: Rows, found: Mapping[str, Floats], what: str) -> float:
    """Return the largest difference of a prediction from that of the run, which must be rounding."""
    expected = run_predictions(trainer, rows)
    difference = largest_difference(trainer, expected, found)
    if difference <= LIMIT:
        return difference
    limit = max(LIMIT, ROUNDING * largest_difference(trainer, exact_predictions(trainer, rows), expected))
    if not difference <= limit:
        raise RunError(
            f"the exported model was removed: on {len(rows):,} {what} it differs from the run by {difference:.1e}, "
            f"where at most {limit:.1e} is rounding"
        )
    return difference


def _precision_difference(trainer: Trainer, rows: Rows) -> float:
    """Return by how much predictions of the run change, at most, by its own precision."""
    if trainer.setup.optimization.precision == "fp32":
        return 0.0
    return largest_difference(trainer, run_predictions(trainer, rows), own_predictions(trainer, rows))


def _metrics(schema: FittedSchema, rows: Rows | None, written: WrittenNetwork) -> dict[str, Measured]:
    return {} if rows is None else main_metrics(schema, rows, written.predictions(rows))


def encoded(schema: FittedSchema, table: pa.Table) -> Rows:
    """Encode raw rows without labels."""
    parts = list(encode_rows(schema, table, labelled=False, note=lambda _: None))
    return Rows(schema, pa.concat_tables([part.table for part in parts]))


def manifest_content(
    trainer: Trainer, network: ServedNetwork, form: Format, weights: Weights, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the manifest says beside its layout and files."""
    schema = trainer.model.schema
    return {
        "recmtl": __version__,
        "calibration": trainer.model.calibration.methods if trainer.model.calibration else {},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": schema.fingerprint,
        "model": type(trainer.model).__name__,
        "format": form,
        "weights": weights,
        "inputs": list(network.inputs),
        "tasks": [task_entry(task) for task in network.tasks],
        "request": [request_field(feature, schema.schema.decimal) for feature in schema.schema.features],
        "ignored": sorted(schema.schema.unfeatured),
        "measured": dict(measured),
    }


def task_entry(task: Task) -> dict[str, Any]:
    """Return the entry of a task among those of the manifest."""
    entry: dict[str, Any] = {"name": task.name, "kind": task.kind, "meaning": meaning(task)}
    return entry | ({"classes": list(task.classes)} if task.has_classes else {})


def request_field(feature: Any, decimal: str = ".") -> dict[str, Any]:
    """Return the entry of a feature among the fields of a request."""
    options = {name: value for name, value in asdict(feature).items() if name in ("format", "separator", "share_with")}
    if decimal != "." and isinstance(feature, Numeric | Binned):
        options["decimal"] = decimal
    return {"name": feature.name, "kind": KIND_NAMES[type(feature)]} | {k: v for k, v in options.items() if v}
