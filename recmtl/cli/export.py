"""The `export` command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recmtl.cli.console import print_line, print_note
from recmtl.errors import counted
from recmtl.evaluate.metrics import metric_title
from recmtl.io.display import decimal, signed
from recmtl.serving.export import WeightsCost, export_model
from recmtl.serving.graph import Format
from recmtl.serving.weights import Weights


def export_command(
    run: Path,
    out: Path,
    format: Format = "onnx",  # noqa: A002
    weights: Weights = "fp32",
    rows: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Write the best weights of a run as a folder that scores raw rows without recmtl.

    Args:
        run: The run folder.
        out: The folder to write, which must not exist yet or be empty.
        format: `onnx`, which needs the extra of that name, or `torch` for a program of `torch.export`.
        weights: How weights are stored: `fp32`, `bf16` in half of the bytes, or `int8` in about a quarter.
        rows: Labelled raw files, with which the model is checked as well, and on which the metrics that `--weights`
            costs are measured; by default the test or else the validation rows of the run.
        trust: A further module whose classes the run's recipe may name; may be repeated.
    """
    found = export_model(run, out, format, weights, rows, trust)
    where = "" if found.precision == "fp32" else ", computed in fp32,"
    print_line(
        f"on {counted(found.rows, 'row')} predictions differ from the run's{where} by at most {found.difference:.1e}"
    )
    if where:
        changed = f"which changes its predictions by up to {found.precision_difference:.1e}"
        print_line(f"the run itself predicts in {found.precision}, {changed}; the exported model computes in fp32")
    if found.cost is not None:
        print_cost(found.cost, weights)
    print_line(f"{found.size:,} bytes of network · model in {found.folder}")


def print_cost(cost: WeightsCost, weights: Weights) -> None:
    """Print what it costs to store weights in fewer bits."""
    print_line(
        f"{weights} weights change predictions by at most {cost.difference:.1e}; in fp32 the network has "
        f"{cost.fp32_size:,} bytes"
    )
    if not cost.rows:
        print_note(f"what {weights} weights cost is not measured: give `--rows`, labelled ones; {cost.about}")
    for name, (before, after) in cost.metrics.items():
        what = f"{metric_title(before.metric)} of {name} on {cost.rows:,} {cost.about}"
        if before.value is None or after.value is None:
            print_note(f"{what} is undefined: {before.reason or after.reason}")
            continue
        (change,) = signed(after.value - before.value)
        print_line(f"{what}: {decimal(before.value)} → {decimal(after.value)} ({change})")
