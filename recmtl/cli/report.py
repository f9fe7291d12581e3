"""The `report` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recmtl.cli.console import RowCounter
from recmtl.errors import DataError
from recmtl.evaluate.intervals import DRAWS
from recmtl.io.location import public_name
from recmtl.replays.results import CONTENT, Replay
from recmtl.report.page import write_report
from recmtl.report.replay_page import write_replay_report


def report_command(
    runs: Sequence[Path],
    out: str = "report.html",
    slices: Sequence[str] | None = None,
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
    time: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Write a report on finished runs, or on a replay: one HTML page that works offline.

    Args:
        runs: The run folders, of which the others are compared with the first; or the folder of a replay.
        out: The HTML file to write, on disk or at a URI such as `s3://bucket/report.html`.
        slices: A feature to slice AUC and calibration by; may be repeated.
        rows: The predicted rows for `--slice`, raw files or a prepared dataset; by default the data that the recipes
            name.
        title: The title of the page.
        draws: The number of bootstrap draws; 0 leaves out bootstrap intervals.
        time: The key over which calibration is shown; by default the first key that holds times.
        trust: A further module whose metrics the runs' recipes may name; may be repeated.
    """
    if draws < 0 or draws == 1:
        raise DataError(f"`--draws` must be 0 or at least 2, got {draws}")
    if any((run / CONTENT).is_file() for run in runs):
        if len(runs) > 1 or slices or rows or time:
            raise DataError("a replay has a report of its own: give its folder alone, with `--out` and `--title`")
        write_replay_report(Replay.open(runs[0]), out, title)
        sys.stdout.write(f"report in {public_name(out)}\n")
        return
    with RowCounter() as counter:
        write_report(runs, out, slices or (), rows, title, draws, time, counter, trust, counter.print_notes)
    sys.stdout.write(f"report in {public_name(out)}\n")
