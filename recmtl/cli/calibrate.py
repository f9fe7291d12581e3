"""The `calibrate` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from recmtl.calibration import Method
from recmtl.cli.console import print_line, text_table, wide_console
from recmtl.cli.evaluate import encoded_rows
from recmtl.cli.parser import usage_errors
from recmtl.io.csv_records import BadRows
from recmtl.recipe.calibrate_run import calibrate_run
from recmtl.recipe.options import partitions
from recmtl.recipe.short_options import NO_OPTIONS
from recmtl.schema.thinning import thinning_of


def calibrate_command(
    run: Path,
    rows: str,
    method: Method = "isotonic",
    task: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    bad_rows: BadRows = "error",
    negative_rate: float = 1.0,
    negative_label: Sequence[str] | None = None,
    text: Mapping[str, Any] = NO_OPTIONS,
    since: str | None = None,
    until: str | None = None,
    date_key: str | None = None,
) -> None:
    """Calibrate the probabilities of a finished run on labelled rows.

    Args:
        run: The run folder. Its predictions and metrics become those of the calibrated model.
        rows: Labelled raw files that the model was not trained on, or a prepared dataset, whose validation rows are
            taken.
        method: `isotonic`, a rising function; `platt`, a line on the log-odds; or `temperature`, one factor on them.
        task: A task to calibrate, by default all with probabilities; may be repeated.
        trust: A further module whose classes the run's recipe may name; may be repeated.
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        negative_rate: The share of negative rows that was kept in these files, if they were thinned. Prepared rows know
            it themselves.
        negative_label: A label column; a row is negative if none of those named is 1 in it, by default none of all
            binary labels. May be repeated.
        text: How text in these files is read, where it differs from the training rows of the run.
        since: The first day of these rows (`2024-01-01`), if they are a folder of folders named like
            `date=2024-01-01`; a month or an hour (`2024-01-01T05`) is a bound as well.
        until: The last day of these rows, which is included.
        date_key: The key of these folders, `date` in `date=2024-01-01`; by default the only one with dates.
    """
    chosen = partitions(rows, since, until, date_key)
    thinning = thinning_of(negative_rate, negative_label or ())
    encode = partial(encoded_rows, rows=chosen, bad_rows=bad_rows, thinning=thinning, text=text, split="valid")
    methods: Method | dict[str, Method] = dict.fromkeys(task, method) if task else method
    with usage_errors():
        found = calibrate_run(run, encode, methods, trust)
    print_calibration(found, f"calibration on the {found['split'].iloc[0]} rows")
    print_line(f"{method} · run in {run}")


def print_calibration(found: pd.DataFrame, title: str) -> None:
    """Print a table of calibration before and after."""
    lines = [
        [
            str(row.task),
            str(row.stage),
            f"{row.rows:,}",
            f"{row.predicted:.4f}",
            f"{row.observed:.4f}",
            f"{row.ece:.4f} [{row.low:.4f}, {row.high:.4f}]",
            f"{row.noise:.4f}",
            f"{row.logloss:.4f}",
        ]
        for row in found.itertuples()
    ]
    header = ["task", "", "rows", "predicted", "observed", "calibration error", "of it noise", "log-loss"]
    table = text_table(header, lines, 2)
    table.title = title
    wide_console().print(table)
