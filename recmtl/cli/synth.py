"""The `synth` command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recmtl.cli.console import RowCounter, print_line
from recmtl.cli.parser import usage_errors
from recmtl.data.synthetic.generate import synthesize
from recmtl.schema import SplitName


def synth_command(
    out: Path,
    rows: int = 200_000,
    seed: int = 0,
    vocabulary: int = 0,
    click_rate: float = 0.05,
    conversion_rate: float = 0.10,
    layout: Literal["processed", "raw"] = "processed",
    negative_rate: float = 1.0,
    thinned: Sequence[SplitName] | None = None,
) -> None:
    """Generate rows like AliExpress's from a known model: train, valid and test CSV, and truth.json.

    Args:
        out: The folder to write.
        rows: Rows in all: 80 % train, 10 % validation, 10 % test.
        seed: The seed of the model and the rows.
        vocabulary: The number of values of each of two predictive id columns; 0 leaves these columns small.
        click_rate: Share of rows that are clicked.
        conversion_rate: Share of clicks that convert.
        layout: `processed` writes a CSV per split; `raw` writes AliExpress's user and item files, with the validation
            rows among the training rows.
        negative_rate: The rate at which rows without a click are kept in the files that are thinned.
        thinned: A file to thin, `train`, `valid` or `test`, by default `train`; may be repeated.
    """
    with RowCounter() as counter, usage_errors():
        truth = synthesize(
            out,
            rows,
            seed=seed,
            vocabulary=vocabulary,
            click_rate=click_rate,
            conversion_rate=conversion_rate,
            layout=layout,
            negative_rate=negative_rate,
            thinned=thinned or ("train",),
            progress=counter.count_to("write"),
        )
    bayes = ", ".join(f"{name} {task.auc:.4f}" for name, task in truth.test.items() if task.auc is not None)
    kept = sum(file.rows for file in truth.files.values())
    print_line(f"{kept:,} rows in {out} · Bayes AUC of the test rows: {bayes}")
