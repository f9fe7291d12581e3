"""Write a trained model as a folder that serves it: from raw rows to probabilities, without recmtl and torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from recmtl._version import __version__
from recmtl.data import Rows, encode_rows
from recmtl.errors import DataError, RunError
from recmtl.io.files import new_folder
from recmtl.recipe.load import load_run
from recmtl.runs.folder import RECIPE
from recmtl.schema import FittedSchema
from recmtl.schema.features import KIND_NAMES
from recmtl.serving.check import LIMIT, largest_difference, onnx_run, run_predictions, served_predictions, torch_run
from recmtl.serving.encoder_files import READER_FILE, reader_source, write_encoder
from recmtl.serving.graph import GRAPHS, Format, check_installed, onnx_of, program_of, save_onnx, save_program
from recmtl.serving.manifest import write_manifest
from recmtl.serving.network import ServedNetwork, meaning
from recmtl.serving.probe import probe_columns, probe_rows, probe_table
from recmtl.train import Trainer

CHECK_ROWS, PROBE_ROWS = 10_000, 20
PROBE = "probe.json"


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with the run.

    Args:
        folder: The folder of the exported model.
        rows: The generated rows with which it was checked.
        difference: The largest difference of a prediction from that of the run.
        size: The bytes of the graph with its weights.
    """

    folder: Path
    rows: int
    difference: float
    size: int


def export_model(
    run: str | Path | Trainer,
    out: str | Path,
    format: Format = "onnx",  # noqa: A002
    trust: str | Sequence[str] = (),
) -> Exported:
    """Write a trained model as a folder with all that scores raw rows.

    The model is checked before the folder appears: on generated rows, among them unseen categories, missing values and
    empty lists, it must predict what the run predicts.

    Args:
        run: A run folder, or a trainer.
        out: The folder to write, which must not exist yet or be empty.
        format: ``onnx``, or ``torch`` for a program of `torch.export`.
        trust: Further modules whose classes the recipe of the run may name.

    Raises:
        RunError: The run is not finished or cannot be loaded, or its model cannot be exported.
        DataError: The folder exists, a package is missing, or the exported model predicts something else than the run.

    Example:
        >>> recmtl.export_model("runs/first", "model")  # doctest: +SKIP
    """
    out = Path(out)
    if format not in GRAPHS:
        raise DataError(f"`format` must be one of {', '.join(GRAPHS)}, got {format!r}")
    check_installed(format)
    with new_folder(out) as folder:
        trainer = run if isinstance(run, Trainer) else _load(Path(run), trust)
        exported = _write(trainer, ServedNetwork(trainer.model), folder, format)
    return Exported(out, *exported)


def _load(run: Path, trust: str | Sequence[str]) -> Trainer:
    if (run / PROBE).is_file() and not (run / RECIPE).exists():
        raise RunError(f"{str(run)!r} is an exported model, expected a run folder")
    return load_run(run, trust)


def _write(trainer: Trainer, network: ServedNetwork, folder: Path, form: Format) -> tuple[int, float, int]:
    schema, graph = trainer.model.schema, folder / GRAPHS[form]
    program = program_of(network)
    if form == "onnx":
        save_onnx(onnx_of(network, program), graph)
    else:
        save_program(program, graph)
    write_encoder(schema, folder)
    (folder / READER_FILE).write_text(reader_source(), encoding="utf-8")
    run = onnx_run(graph) if form == "onnx" else torch_run(graph)
    columns = probe_columns(schema, CHECK_ROWS)
    rows = encoded(schema, probe_table(schema, columns))
    expected = run_predictions(trainer, rows)
    found = served_predictions(folder, network, run, columns)
    difference = largest_difference(trainer, expected, found)
    if not difference <= LIMIT:
        raise RunError(
            f"the exported model was removed: on {len(rows):,} generated rows it differs from the run by "
            f"{difference:.1e}, where at most {LIMIT:.0e} is rounding"
        )
    few = {name: values[:PROBE_ROWS] for name, values in columns.items()}
    probe = {"rows": probe_rows(few), "expected": {name: v[:PROBE_ROWS].tolist() for name, v in found.items()}}
    (folder / PROBE).write_text(json.dumps(probe, ensure_ascii=False), encoding="utf-8")
    write_manifest(folder, manifest_content(trainer, network, form, {"rows": len(rows), "difference": difference}))
    return len(rows), difference, sum(file.stat().st_size for file in folder.glob("network*"))


def encoded(schema: FittedSchema, table: pa.Table) -> Rows:
    """Encode raw rows without labels."""
    parts = list(encode_rows(schema, table, labelled=False, note=lambda _: None))
    return Rows(schema, pa.concat_tables([part.table for part in parts]))


def manifest_content(
    trainer: Trainer, network: ServedNetwork, form: Format, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the manifest says beside its layout and files."""
    schema = trainer.model.schema
    return {
        "recmtl": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": schema.fingerprint,
        "model": type(trainer.model).__name__,
        "format": form,
        "weights": "fp32",
        "inputs": list(network.inputs),
        "tasks": [{"name": task.name, "kind": task.kind, "meaning": meaning(task)} for task in network.tasks],
        "request": [request_field(feature) for feature in schema.schema.features],
        "ignored": sorted(schema.schema.unfeatured),
        "measured": dict(measured),
    }


def request_field(feature: Any) -> dict[str, Any]:
    """Return the entry of a feature among the fields of a request."""
    options = {name: value for name, value in asdict(feature).items() if name in ("format", "separator", "share_with")}
    return {"name": feature.name, "kind": KIND_NAMES[type(feature)]} | {k: v for k, v in options.items() if v}
