"""Write the tables of a comparison as Markdown, LaTeX and CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recmtl.comparison.comparison import Comparison
from recmtl.comparison.tables import ResultTable, number_table, result_tables
from recmtl.io.files import new_file


def write_tables(comparison: Comparison, metric: str | None = None) -> None:
    """Write `table.md`, `table.tex` and `table.csv` into the folder of a comparison.

    If single-task training is among its models, `transfer.csv` has the differences to it.
    """
    tables = result_tables(comparison, metric)
    texts = {
        "table.md": "\n".join(map(markdown, tables)),
        "table.tex": "\n".join(map(latex, tables)),
        "table.csv": number_table(comparison, metric).to_csv(index=False),
    }
    if comparison.single:
        texts["transfer.csv"] = comparison.differences(metric, comparison.single).to_csv(index=False)
    for name, text in texts.items():
        with new_file(comparison.folder / name) as file:
            file.write_text(text, encoding="utf-8")


def markdown(table: ResultTable) -> str:
    """Return a table as Markdown, with its notes as paragraphs below."""
    rule = ["---"] * table.key_columns + ["---:"] * (len(table.header) - table.key_columns)
    rows = [[f"**{cell.text}**" if cell.bold else cell.text.replace("|", r"\|") for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in [table.header, rule, *rows]]
    return "\n".join([*lines, "", *(f"{' '.join(note.split())}\n" for note in table.notes)])


def latex(table: ResultTable) -> str:
    r"""Return a table as LaTeX (`\usepackage{booktabs}`), with its notes as comments above."""
    frame = pd.DataFrame([[cell.text for cell in row] for row in table.rows], columns=list(table.header))
    bold = np.array([["textbf: --rwrap;" if cell.bold else "" for cell in row] for row in table.rows])
    style = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    if len(frame):
        style = style.apply(lambda _: bold, axis=None)
    columns = "l" * table.key_columns + "r" * (len(table.header) - table.key_columns)
    comments = [f"% {' '.join(note.split())}" for note in table.notes]
    return "\n".join(
        [*comments, style.to_latex(hrules=True, column_format=columns, position_float="centering", caption=table.title)]
    )
