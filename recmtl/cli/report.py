"""The `report` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recmtl.cli.console import RowCounter
from recmtl.errors import DataError
from recmtl.evaluate.intervals import DRAWS
from recmtl.io.location import public_name
from recmtl.report.page import write_report


def report_command(
    runs: Sequence[Path],
    out: str = "report.html",
    slices: Sequence[str] | None = None,
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
) -> None:
    """Write a report on finished runs: one HTML page that works offline.

    Args:
        runs: The run folders; the others are compared with the first.
        out: The HTML file to write, on disk or at a URI such as `s3://bucket/report.html`.
        slices: A feature to slice the AUC by; may be repeated.
        rows: The predicted rows for `--slice`, raw files or a prepared dataset; by default the data that the recipes
            name.
        title: The title of the page.
        draws: The number of bootstrap draws; 0 leaves out bootstrap intervals.
    """
    if draws < 0 or draws == 1:
        raise DataError(f"`--draws` must be 0 or at least 2, got {draws}")
    with RowCounter() as counter:
        write_report(runs, out, slices or (), rows, title, draws, counter)
    sys.stdout.write(f"report in {public_name(out)}\n")
