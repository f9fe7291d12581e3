"""The `reproduce` command: train a published setting, and compare the figures."""

from __future__ import annotations

import math
from pathlib import Path

from recmtl.cli.console import print_line, text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.reproduction import Reproduction, find_preset, reproduce
from recmtl.reproduction.runner import result_file


def reproduce_command(
    dataset: str,
    model_name: str,
    out: Path,
    raw_data: str | None = None,
    seeds: int = 5,
    source: str | None = None,
    epochs: int | None = None,
    jobs: int = 1,
) -> None:
    """Train a published setting over seeds, and say whether the published figures are consistent with it.

    Args:
        dataset: The dataset: `aliexpress-nl`, `aliexpress-es`, `aliexpress-fr` or `aliexpress-us`.
        model_name: The model: `single-task`, `shared-bottom`, `omoe`, `mmoe`, `ple`, `aitm` or `esmm`.
        out: The folder to write, one for all datasets and models. Prepared rows and finished runs in it are kept,
            interrupted runs resume.
        raw_data: The folder or zip with the files of the dataset; not needed once they are prepared in the folder.
        seeds: The number of seeds, counted from 0.
        source: The source of the figures, `mtreclib` or `noah`; by default the first that has them.
        epochs: At most so many epochs, for a trial: the setting is then not the published one.
        jobs: How many runs at once; they share the CPUs.
    """
    options = {} if epochs is None else {"trainer.epochs": epochs}
    with usage_errors():
        found = reproduce(dataset, model_name, raw_data, out, seeds, source, options, jobs)
    print_reproduction(found)
    print_line(f"result in {result_file(find_preset(dataset, model_name, source), out)}")


def print_reproduction(found: Reproduction) -> None:
    """Print published and own figures, and the verdict."""
    console = wide_console()
    rows = [
        [
            task,
            f"{own.published:.4f}",
            _figure(own.mean, own.low, own.high),
            _figure(own.difference, own.difference_low, own.difference_high, "+").replace("-", "−"),
            own.verdict,
        ]
        for task, own in found.tasks.items()
    ]
    console.print(text_table([f"AUC of {found.model}", "published", "own mean", "difference", "verdict"], rows))
    for note in found.notes():
        console.print(note, markup=False)


def _figure(value: float, low: float, high: float, sign: str = "") -> str:
    """Return an AUC, or with a sign a difference of two, with its interval as far as such values can be.

    Of an interval that is wider than AUC itself, as two seeds may have it, there is nothing to show.
    """
    if math.isnan(value):
        return "–"
    if math.isnan(low):
        return f"{value:{sign}.4f}"
    if high - low > 1:
        return f"{value:{sign}.4f} [–]"
    low, high = max(low, -1.0 if sign else 0.0), min(high, 1.0)
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
