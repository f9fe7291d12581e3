"""Figures as SVG within a page: their colours are the page's, and nothing in them needs a style of its own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
UNWANTED = {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}  # the page has its own
INK, EDGE, GRID = "#1b1b1c", "#6b6b6d", "#b4b4b6"
WIDTH, HEIGHT = 5.0, 3.7  # inches
SERIES = ("#0b5fa5", "#b34700", "#00704a", "#8a2d8f", "#7a5c00", "#b3123d", "#00697a", "#55555a")
CLASSES = {INK: "ink", EDGE: "edge", GRID: "grid"} | {color: f"c{i}" for i, color in enumerate(SERIES)}
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 1)))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recmtl",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=SERIES) + cycler(linestyle=DASHES),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "font.size": 12,
}
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SHORTHAND = re.compile(r"(?:(italic|oblique) )?(?:(bold|\d+) )?([\d.]+px) ")

ElementTree.register_namespace("", SVG)


def drawn(draw: Callable[[Axes], object], words: str, number: int, height: float = HEIGHT) -> Markup:
    """Draw into axes in the page's colours and give the SVG.

    Args:
        draw: Draws into the axes that it is given.
        words: What stands for the figure where it is not seen.
        number: Tells the figures of a page apart.
        height: Of the figure, in inches.
    """
    file = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has more letters
        figure = Figure((WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Markup(_for_page(file.getvalue(), words, f"f{number}-"))


def _for_page(text: str, words: str, prefix: str) -> str:
    root = ElementTree.fromstring(NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in UNWANTED]:
            parent.remove(child)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))
    for element in root.iter():
        _restyle(element)
        _rename(element, used, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": words, "class": "figure", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element) -> None:
    """Make styles attributes, which a page may have that allows no inline style, and name the page's colours."""
    for declaration in filter(None, element.attrib.pop("style", "").split(";")):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font":
            element.attrib |= _font(value)
        elif name != "font-family":  # the page's
            element.set(name, value)
    known = [(side, CLASSES.get(element.get(side, ""))) for side in ("fill", "stroke")]
    classes = [f"{side}-{name}" for side, name in known if name]
    if classes:
        element.set("class", " ".join(classes))


def _font(value: str) -> dict[str, str]:
    """Take the shorthand apart, which is no attribute."""
    found = SHORTHAND.match(value)
    assert found, value
    given = {"font-style": found[1], "font-weight": found[2], "font-size": found[3]}
    return {name: part for name, part in given.items() if part}


def _rename(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    """Keep the ids that something refers to, no two alike in a page."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}{name}")
    target = element.attrib.pop(f"{{{XLINK}}}href", None)
    if target:
        element.set("href", f"#{prefix}{target.removeprefix('#')}")
    for attribute, value in element.attrib.items():
        if value.startswith("url(#"):
            element.set(attribute, value.replace("url(#", f"url(#{prefix}"))
