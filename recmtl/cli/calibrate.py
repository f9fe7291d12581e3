"""The `calibrate` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from recmtl.calibration import Method
from recmtl.calibration.calibration import shown_methods
from recmtl.cli.console import print_line, silence_others, text_table, wide_console
from recmtl.cli.evaluate import encoded_rows
from recmtl.cli.parser import usage_errors
from recmtl.io.display import decimal
from recmtl.io.joining import MINUTES
from recmtl.io.processes import joined_on_error
from recmtl.recipe.calibrate_run import calibrate_run
from recmtl.recipe.row_options import ALL_ROWS, RowOptions
from recmtl.recipe.short_options import NO_OPTIONS
from recmtl.train.distributed import process_group


def calibrate_command(
    run: Path,
    rows: str,
    method: Method = "isotonic",
    task: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    timeout: float = MINUTES,
    reading: RowOptions = ALL_ROWS,
    text: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Calibrate the probabilities of a finished run on labelled rows.

    Several processes of torchrun predict the rows in shares, and the first calibrates; tables that were spread over
    processes are spread over these.

    Args:
        run: The run folder. Its predictions and metrics become those of the calibrated model.
        rows: Labelled raw files that the model was not trained on, or a prepared dataset, whose validation rows are
            taken.
        method: `isotonic`, a rising function; `platt`, a line on the log-odds; or `temperature`, one factor on them,
            which a multi-class task takes in any case.
        task: A task to calibrate, by default all with probabilities; may be repeated.
        trust: A further module whose classes the run's recipe may name; may be repeated.
        timeout: Minutes that processes started by torchrun wait for each other.
        reading: Which rows are read, and how they were thinned.
        text: How text in these files is read, where it differs from the training rows of the run.
    """
    with joined_on_error():
        encode = partial(encoded_rows, rows=reading.place(rows), reading=reading, text=text, split="valid")
    methods: Method | dict[str, Method] = dict.fromkeys(task, method) if task else method
    with process_group(timeout) as processes, silence_others(processes), usage_errors():
        found = calibrate_run(run, encode, methods, trust)
        print_calibration(found, f"calibration on the {found['split'].iloc[0]} rows")
        used = found.dropna(subset=["method"])
        print_line(f"{shown_methods(dict(zip(used['task'], used['method'], strict=True)))} · run in {run}")


def print_calibration(found: pd.DataFrame, title: str) -> None:
    """Print a table of calibration before and after."""
    rows: list[Any] = [*found.itertuples()]
    lines = [
        [
            str(row.task),
            str(row.stage),
            f"{row.rows:,}",
            decimal(row.predicted),
            decimal(row.observed),
            f"{decimal(row.ece)} [{decimal(row.low, row.high)}, {decimal(row.high)}]",
            decimal(row.noise),
            decimal(row.logloss),
        ]
        for row in rows
    ]
    header = ["task", "", "rows", "predicted", "observed", "calibration error", "of it noise", "log-loss"]
    table = text_table(header, lines, 2)
    table.title = title
    wide_console().print(table)
