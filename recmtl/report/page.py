"""The page of a report: one file that needs no other, and may fetch none."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recmtl.data.preparation.prepare import Progress
from recmtl.evaluate.intervals import DRAWS
from recmtl.io.files import new_file
from recmtl.report import sections as build
from recmtl.report.elements import Section, gallery
from recmtl.report.figures import Album
from recmtl.report.runs import ReportedRun, open_runs

FOLDER = Path(__file__).parent
PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"
POLICY = "default-src 'none'; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    slices: Sequence[str] = (),
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
    progress: Progress = lambda what, rows: None,
) -> None:
    """Write a report on finished runs as one HTML file.

    Args:
        runs: The run folders; the first is the one that the others are compared with.
        out: The file.
        slices: Features by whose values the AUC is shown.
        rows: Where the predicted rows are, raw or prepared; ``None`` takes the data that the recipes name.
        title: Of the page.
        draws: Of the bootstrap; 0 leaves its intervals out.
        progress: Called with what is being done and the number of rows just read.

    Raises:
        DataError: A folder is not a run, or rows are others than those that were predicted.
        RunError: A run is unfinished or holds no predictions.
        SchemaError: A slice names no feature.
    """
    page = report_html(open_runs(runs), slices, rows, title, draws, progress)
    with new_file(Path(out)) as file:
        file.write_text(page, encoding="utf-8")


def report_html(
    runs: Sequence[ReportedRun],
    slices: Sequence[str] = (),
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
    progress: Progress = lambda what, rows: None,
) -> str:
    """Give the page of a report; as `write_report`, for runs that are open.

    Raises:
        DataError: Rows are others than those that were predicted.
        SchemaError: A slice names no feature.
    """
    album = Album()
    found = [
        build.metric_section(runs, draws, progress),
        build.learning_section(runs, album),
        build.curve_section(runs, album),
        build.slice_section(runs, slices, rows, album, progress),
        build.balance_section(runs, album),
        build.expert_section(runs, album),
        build.data_section(runs, progress),
        build.recipe_section(runs),
    ]
    names = ", ".join(run.name for run in runs)
    return rendered(title or f"Report on {names}", names, [section for section in found if section.parts])


def rendered(title: str, subject: str, sections: Sequence[Section]) -> str:
    """Set sections in a page; all text is escaped."""
    style, script = (_trusted(name) for name in (STYLE, SCRIPT))
    policy = POLICY.format(style=_digest(style), script=_digest(script))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(PAGE).render(
        title=title,
        subject=subject,
        sections=sections,
        gallery=gallery,
        style=style,
        script=script,
        policy=policy,
        next_id=map("t{}".format, itertools.count(1)).__next__,
    )


def _trusted(name: str) -> Markup:
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    """Name what the page may run, as its policy does."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
