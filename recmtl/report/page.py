"""The page of a report: one HTML file without external resources."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from recmtl.data.preparation.part_work import Progress
from recmtl.errors import ExistsError
from recmtl.evaluate.intervals import DRAWS
from recmtl.io.output import locate_output, new_output
from recmtl.report import sections
from recmtl.report.calibration import calibration_section
from recmtl.report.elements import Section, gallery, stands_beside
from recmtl.report.findings import findings
from recmtl.report.predictions import prediction_section
from recmtl.report.runs import ReportedRun, open_runs
from recmtl.report.slices import slice_section
from recmtl.report.tables import difference_frame, metric_frame
from recmtl.report.verdict import verdict_section

FOLDER = Path(__file__).parent
GENERATOR, HEAD_BYTES = b'<meta name="generator" content="recmtl report">', 1024  # marks a report near its start
PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"
CODE = re.compile("`([^`]+)`")
POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
)


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    slices: Sequence[str] = (),
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
    time: str | None = None,
    progress: Progress = lambda what, rows: None,
    trust: str | Sequence[str] = (),
    note: Callable[[str], None] = warnings.warn,
) -> None:
    """Write a report on finished runs as one HTML file.

    Args:
        runs: The run folders; the others are compared with the first.
        out: The path or URI of the HTML file.
        slices: Features to slice the AUC by, beside the domain of the schema.
        rows: The predicted rows, raw or prepared; ``None`` takes the data that the recipes name.
        title: The title of the page.
        draws: The number of bootstrap draws; 0 leaves out bootstrap intervals.
        time: The key over which calibration is shown; ``None`` takes the first key that holds times.
        progress: Called with the current activity and the number of rows just read.
        trust: Modules of your own whose metrics the recipes name, as in `load_run`.
        note: Called with a line about metrics of modules that are not trusted, which are left out.

    Raises:
        DataError: A folder is not a run, or the rows are not those that were predicted.
        RunError: A run is unfinished or has no predictions.
        SchemaError: A slice is not a feature.
    """
    check_report(out)
    with new_output(out) as file:  # which fails before any work if it cannot be written
        opened = open_runs(runs, (trust,) if isinstance(trust, str) else trust, note)
        file.write_text(report_html(opened, slices, rows, title, draws, time, progress), encoding="utf-8")


def check_report(out: str | Path) -> None:
    """Check that a report can be written to a path: there is no file yet, or it is a report."""
    location = locate_output(out)
    if not location.filesystem.get_file_info(location.path).is_file:
        return
    with location.stream(compressed=True) as file:
        if GENERATOR not in file.read(HEAD_BYTES):
            raise ExistsError(
                f"{location.name!r} exists already and is no report: give `--out` another file or remove it"
            )


def report_html(
    runs: Sequence[ReportedRun],
    slices: Sequence[str] = (),
    rows: str | None = None,
    title: str | None = None,
    draws: int = DRAWS,
    time: str | None = None,
    progress: Progress = lambda what, rows: None,
) -> str:
    """Return the HTML of a report on opened runs; arguments as of `write_report`.

    Raises:
        DataError: The rows are not those that were predicted.
        SchemaError: A slice is not a feature.
    """
    domains = {d if (d := r.fitted.schema.domain) in r.predictions.keys.column_names else None for r in runs}
    slices = [*dict.fromkeys([*filter(None, domains if len(domains) == 1 else ()), *slices])]
    metrics, differences = metric_frame(runs, draws, progress=progress), difference_frame(runs, draws)
    data = sections.describe_runs(runs, progress)
    found = findings(runs, metrics, [(d.runs, d.description) for d in data])
    content = [
        verdict_section(runs, metrics, differences, found),
        sections.metric_section(runs, metrics, differences, draws),
        sections.learning_section(runs),
        prediction_section(runs),
        calibration_section(runs, slices, rows, time, progress),
        slice_section(runs, slices, rows, progress),
        sections.balance_section(runs),
        sections.expert_section(runs),
        sections.data_section(data),
        sections.recipe_section(runs),
    ]
    names = ", ".join(run.name for run in runs)
    return render_page(title or f"Report on {names}", names, [section for section in content if section.parts])


def render_page(title: str, subject: str, content: Sequence[Section]) -> str:
    """Render sections as a page; all text is escaped."""
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in (STYLE, SCRIPT))
    policy = POLICY.format(style=_csp_hash(style), script=_csp_hash(script))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code
    return environment.get_template(PAGE).render(
        title=title,
        subject=subject,
        sections=content,
        gallery=gallery,
        stands_beside=stands_beside,
        titles={section.name: section.title for section in content},
        style=style,
        script=script,
        policy=policy,
        next_id=map("t{}".format, itertools.count(1)).__next__,
    )


def code(text: str) -> Markup:
    """Escape a text, and mark what stands between backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def _csp_hash(text: str) -> str:
    """Return the hash of a style or script as a Content Security Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
