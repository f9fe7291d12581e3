"""Diagrams of models, as SVG within the page: lines and letters take the colour of the text."""

from typing import NamedTuple

WIDTH, BOX, ROW = 640, 34, 74  # pixels
SHARED = 'fill="#3f51b5" fill-opacity="0.30"'
OWN = ('fill="#e91e63" fill-opacity="0.22"', 'fill="#ff9800" fill-opacity="0.28"')  # of the first and second task
PLAIN = 'fill="currentColor" fill-opacity="0.06"'
HEAD = (
    '<marker id="{name}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker>'
)


class Box(NamedTuple):
    """A box with a label: its centre, the row that it stands in from below, its width, and its colour."""

    label: str
    x: int
    row: int
    width: int = 130
    fill: str = PLAIN


class Arrow(NamedTuple):
    """An arrow from a box up to another; a dashed one passes values on, but no gradient back."""

    start: Box
    end: Box
    dashed: bool = False


def drawn(name: str, caption: str, boxes: list[Box], arrows: list[Arrow]) -> str:
    """Return a figure with boxes in rows, the lowest first, and arrows between them."""
    height = ROW * (1 + max(box.row for box in boxes)) - ROW + BOX + 8
    lines = [_arrow(name, arrow, height) for arrow in arrows] + [_box(box, height) for box in boxes]
    opening = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{caption}" font-size="13">'
    head = f"<defs>{HEAD.format(name=name)}</defs>"
    return "\n".join(["<figure>", opening, head, *lines, "</svg>", f"<figcaption>{caption}</figcaption>", "</figure>"])


def _top(box: Box, height: int) -> int:
    return height - 4 - BOX - box.row * ROW


def _box(box: Box, height: int) -> str:
    top = _top(box, height)
    place = f'x="{box.x - box.width // 2}" y="{top}" width="{box.width}" height="{BOX}" rx="5"'
    letters = f'<text x="{box.x}" y="{top + 22}" text-anchor="middle" fill="currentColor">{box.label}</text>'
    return f'<rect {place} {box.fill} stroke="currentColor" stroke-opacity="0.6"/>{letters}'


def _arrow(name: str, arrow: Arrow, height: int) -> str:
    start, end = arrow.start, arrow.end
    ends = f'x1="{start.x}" y1="{_top(start, height)}" x2="{end.x}" y2="{_top(end, height) + BOX + 2}"'
    dashes = ' stroke-dasharray="4 4"' if arrow.dashed else ""
    return f'<line {ends} stroke="currentColor" stroke-opacity="0.7"{dashes} marker-end="url(#{name}-tip)"/>'


def ple() -> str:
    """Return the diagram of PLE with two levels and two tasks."""
    encoder = Box("encoder", 320, 0, 560, SHARED)
    below = [Box(f"experts of {n}", x, 1, 130, SHARED) for n, x in (("A", 110), ("B", 530))]
    below.insert(1, Box("shared experts", 320, 1, 130, SHARED))
    gates = [Box(f"gate of {n}", x, 2, 90, OWN[i]) for i, (n, x) in enumerate((("A", 110), ("B", 530)))]
    gates.insert(1, Box("shared gate", 320, 2, 90, SHARED))
    above = [Box(f"experts of {n}", x, 3, 130, OWN[i]) for i, (n, x) in enumerate((("A", 110), ("B", 530)))]
    above.insert(1, Box("shared experts", 320, 3, 130, SHARED))
    last = [Box(f"gate of {n}", x, 4, 90, OWN[i]) for i, (n, x) in enumerate((("A", 110), ("B", 530)))]
    towers = [Box(f"tower of {n}", x, 5, 90, OWN[i]) for i, (n, x) in enumerate((("A", 110), ("B", 530)))]
    arrows = [Arrow(Box("", box.x, 0), box) for box in below]
    arrows += [Arrow(below[i], gates[k]) for i, k in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 2))]
    arrows += [Arrow(gate, experts) for gate, experts in zip(gates, above, strict=True)]
    arrows += [Arrow(above[i], last[k]) for i, k in ((0, 0), (1, 0), (1, 1), (2, 1))]
    arrows += [Arrow(gate, tower) for gate, tower in zip(last, towers, strict=True)]
    caption = (
        "PLE with two levels and two tasks, A and B. Blue is shared: below the last level also the tasks' experts."
    )
    return drawn("ple", caption, [encoder, *below, *gates, *above, *last, *towers], arrows)


def stem() -> str:
    """Return the diagram of STEM with two tasks."""
    places = (("A", 110, OWN[0]), ("B", 530, OWN[1]))
    encoders = [Box(f"embeddings of {n}", x, 0, 150, fill) for n, x, fill in places]
    experts = [Box(f"experts of {n}", x, 1, 130, fill) for n, x, fill in places]
    common = [Box("shared embeddings", 320, 0, 150, SHARED), Box("shared experts", 320, 1, 130, SHARED)]
    gates = [Box(f"gate of {n}", x, 2, 90, fill) for n, x, fill in places]
    towers = [Box(f"tower of {n}", x, 3, 90, fill) for n, x, fill in places]
    arrows = [Arrow(low, high) for low, high in (*zip(encoders, experts, strict=True), (common[0], common[1]))]
    arrows += [Arrow(low, high) for low, high in zip(experts, gates, strict=True)]
    arrows += [Arrow(common[1], gate) for gate in gates]
    arrows += [Arrow(experts[0], gates[1], True), Arrow(experts[1], gates[0], True)]
    arrows += [Arrow(gate, tower) for gate, tower in zip(gates, towers, strict=True)]
    caption = "STEM with two tasks, A and B. Dashed arrows pass values on, but no gradient back. Blue is shared."
    return drawn("stem", caption, [*encoders, *experts, *common, *gates, *towers], arrows)
