"""Markdown of generated pages: tables, and formulas as MathML."""

import html
import re
from collections.abc import Iterable, Sequence

from latex2mathml.converter import convert

# What pymdownx.arithmatex writes in its generic form.
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], right: int = 1) -> str:
    """Return a Markdown table.

    Args:
        headers: The names of the columns.
        rows: The cells, row by row.
        right: The first column that is aligned to the right.
    """
    rules = ["---" if column < right else "---:" for column in range(len(headers))]
    lines = [list(headers), rules, *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(record: dict[str, list[str] | str]) -> str:
    """Return the line that says how a record was made."""
    return f"`{record['command']}` · {' · '.join(record['machine'])}"


def cell(text: str) -> str:
    """Return text for a cell of a table: one line, bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def render_formulas(page: str) -> str:
    """Replace the LaTeX of a page of HTML by MathML, which browsers show without a script.

    Raises:
        ValueError: If the converter leaves part of a formula as it was.
    """
    page = DISPLAY.sub(lambda found: f'<div class="formula">{mathml(found[1], "block")}</div>', page)
    return INLINE.sub(lambda found: mathml(found[1], "inline"), page)


def mathml(latex: str, display: str) -> str:
    """Return a LaTeX formula, as it stands in HTML, as MathML.

    Raises:
        ValueError: If the formula uses a command that the converter does not know.
    """
    latex = html.unescape(latex).strip()
    converted: str = convert(latex, display=display)
    unknown = re.findall(r"<m[iot][^>]*>(?:\\[a-zA-Z]+|&)</m[iot]>", converted)
    if unknown or "<math" not in converted:
        raise ValueError(f"cannot convert the formula {latex!r} to MathML: {unknown}")
    return converted
