"""The tables of a comparison on a terminal and as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re

from recmtl.comparison.comparison import Comparison
from recmtl.comparison.tables import TIED, Field, ResultTable, flat, sheets
from recmtl.io.files import new_file

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "−": "$-$", "–": "--", TIED: r"$^\ddagger$"}


def write_tables(comparison: Comparison, metric: str | None = None) -> list[ResultTable]:
    """Write `table.md`, `table.tex` and `table.csv` into the folder of a comparison, and give what they show.

    Where single-task training is among its models, `transfer.csv` holds the differences to it.

    Args:
        comparison: The comparison.
        metric: What to show of the tasks that have it; ``None`` takes each task's main one.
    """
    shown = sheets(comparison, metric)
    texts = {
        "table.md": "\n".join(map(markdown, shown)),
        "table.tex": "\n".join(map(latex, shown)),
        "table.csv": flat(comparison, metric).to_csv(index=False),
    }
    if comparison.single:
        texts["transfer.csv"] = comparison.differences(metric, comparison.single).to_csv(index=False)
    for name, text in texts.items():
        with new_file(comparison.folder / name) as file:
            file.write_text(text, encoding="utf-8")
    return shown


def markdown(sheet: ResultTable) -> str:
    """Give a table as Markdown, its notes as paragraphs below."""
    rule = ["---"] * sheet.named + ["---:"] * (len(sheet.header) - sheet.named)
    rows = [[_escape_markdown(name) for name in sheet.header], rule]
    rows += [[_bold_markdown(field) for field in row] for row in sheet.rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"{_escape_markdown(note)}\n" for note in sheet.notes)])


def latex(sheet: ResultTable) -> str:
    """Give a table as LaTeX that needs no package, its notes as the caption."""
    columns = "l" * sheet.named + "r" * (len(sheet.header) - sheet.named)
    rows = [r" & ".join(_bold_latex(field) for field in row) + r" \\" for row in sheet.rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape_latex(' '.join(sheet.notes))}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        r" & ".join(map(_escape_latex, sheet.header)) + r" \\",
        r"\hline",
        *rows,
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _bold_markdown(field: Field) -> str:
    text = _escape_markdown(str(field))
    return f"**{text}**" if field.bold else text


def _bold_latex(field: Field) -> str:
    text = _escape_latex(str(field))
    return rf"\textbf{{{text}}}" if field.bold else text


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
