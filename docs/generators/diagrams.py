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
    size = f'width="{WIDTH}" viewBox="0 0 {WIDTH} {height}"'
    opening = f'<svg {size} role="img" aria-label="{caption}" font-size="13">'
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


def omoe() -> str:
    """Return the diagram of MMOE with two tasks, and OMoE beside it."""
    encoders = [Box("encoder", x, 0, 290, SHARED) for x in (155, 485)]
    experts = [Box("experts", x, 1, 290, SHARED) for x in (155, 485)]
    gates = [Box(f"gate of {n}", x, 2, 120, OWN[i]) for i, (n, x) in enumerate((("A", 70), ("B", 240)))]
    gates += [Box("gate", 485, 2, 120, SHARED)]
    towers = [Box(f"tower of {'AB'[i % 2]}", x, 3, 120, OWN[i % 2]) for i, x in enumerate((70, 240, 400, 570))]
    arrows = [Arrow(low, high) for low, high in zip(encoders, experts, strict=True)]
    arrows += [Arrow(Box("", gate.x, 1), gate) for gate in gates]
    arrows += [Arrow(gates[i], towers[k]) for i, k in ((0, 0), (1, 1), (2, 2), (2, 3))]
    caption = "MMOE (left) and OMoE (right) with two tasks, A and B. Blue is shared: in OMoE the gate, too."
    return drawn("omoe", caption, [*encoders, *experts, *gates, *towers], arrows)


def aitm() -> str:
    """Return the diagram of AITM with two steps."""
    encoder = Box("encoder", 320, 0, 560, SHARED)
    layers = [Box("layers of A", 110, 1, 130, SHARED), Box("layers of B", 530, 1, 130, OWN[1])]
    passed, attention = Box("passed on to B", 320, 2, 130, OWN[1]), Box("attention of B", 530, 3, 130, OWN[1])
    towers = [Box("tower of A", 110, 4, 130, OWN[0]), Box("tower of B", 530, 4, 130, OWN[1])]
    penalty = Box("penalty: B above A", 320, 5, 150)
    arrows = [Arrow(Box("", layer.x, 0), layer) for layer in layers]
    arrows += [Arrow(layers[0], towers[0]), Arrow(layers[0], passed), Arrow(passed, attention)]
    arrows += [Arrow(layers[1], attention), Arrow(attention, towers[1]), *(Arrow(tower, penalty) for tower in towers)]
    caption = "AITM with two steps, first A, then B. Blue is shared: the layers of A train for both."
    return drawn("aitm", caption, [encoder, *layers, passed, attention, *towers, penalty], arrows)


def escm2() -> str:
    """Return the diagram of ESCM² with an imputation."""
    encoder = Box("encoder", 320, 0, 560, SHARED)
    ctr, cvr = Box("tower of CTR", 110, 1, 140, OWN[0]), Box("tower of CVR", 320, 1, 140, OWN[1])
    imputation = Box("imputation", 530, 1, 140)
    of_ctr, of_both = Box("loss of CTR", 110, 2, 130), Box("loss of CTCVR", 290, 2, 130)
    of_cvr = Box("loss of CVR in all rows", 510, 2, 180)
    arrows = [Arrow(Box("", tower.x, 0), tower) for tower in (ctr, cvr, imputation)]
    arrows += [Arrow(ctr, of_ctr), Arrow(ctr, of_both), Arrow(cvr, of_both), Arrow(cvr, of_cvr)]
    arrows += [Arrow(imputation, of_cvr), Arrow(ctr, of_cvr, True)]
    caption = (
        "ESCM² with an imputation (doubly robust). The dashed arrow is the weight of clicked rows, 1/CTR: it passes no "
        "gradient back. Blue is shared."
    )
    return drawn("escm2", caption, [encoder, ctr, cvr, imputation, of_ctr, of_both, of_cvr], arrows)


def star() -> str:
    """Return the diagram of STAR with two domains and two tasks."""
    encoder, domain = Box("encoder", 235, 0, 420, SHARED), Box("embedding of the domain", 545, 0, 170, SHARED)
    star = [Box("W × W of NL", 90, 1, 130, OWN[0]), Box("W × W of ES", 235, 1, 130, OWN[1])]
    star += [Box("W", 380, 1, 130, SHARED)]
    auxiliary = Box("auxiliary network", 545, 1, 150, SHARED)
    view, towers = (
        Box("side by side", 320, 2, 150),
        [Box(f"tower of {n}", x, 3, 130) for n, x in (("A", 200), ("B", 440))],
    )
    arrows = [Arrow(Box("", layers.x, 0), layers) for layers in (*star, domain._replace(row=1))]
    arrows += [Arrow(Box("", 380, 0), auxiliary), *(Arrow(layers, view) for layers in (*star, auxiliary))]
    arrows += [Arrow(view, tower) for tower in towers]
    caption = (
        "STAR with two domains, NL and ES, and two tasks, A and B. A row passes through the layers of its domain, "
        "whose weights are the shared W times its own; rows of other domains pass through W alone."
    )
    return drawn("star", caption, [encoder, domain, *star, auxiliary, view, *towers], arrows)


def pepnet() -> str:
    """Return the diagram of PEPNet with two tasks."""
    domain, encoder = Box("embedding of the domain", 110, 0, 170, SHARED), Box("encoder", 430, 0, 380, SHARED)
    gate, scaled = Box("gate", 110, 1, 110, SHARED), Box("encoded × gate", 270, 2, 150, SHARED)
    personal = Box("personal features", 500, 2, 150, SHARED)
    layers = [Box(f"layers × gates of {n}", x, 3, 160, OWN[i]) for i, (n, x) in enumerate((("A", 270), ("B", 500)))]
    towers = [Box(f"tower of {n}", x, 4, 130, OWN[i]) for i, (n, x) in enumerate((("A", 270), ("B", 500)))]
    arrows = [
        Arrow(domain, gate),
        Arrow(Box("", 270, 0), gate, True),
        Arrow(gate, scaled),
        Arrow(Box("", 270, 0), scaled),
    ]
    arrows += [Arrow(below, above) for below in (scaled, personal) for above in layers]
    arrows += [Arrow(low, high) for low, high in zip(layers, towers, strict=True)]
    caption = (
        "PEPNet with two tasks, A and B. The dashed arrow passes values on, but no gradient back; the gates of "
        "the tasks read the encoded batch in the same way. Blue is shared."
    )
    return drawn("pepnet", caption, [domain, encoder, gate, scaled, personal, *layers, *towers], arrows)


def cross_layers() -> str:
    """Return the diagram of two cross layers."""
    encoder = Box("embeddings and numbers, x₀", 320, 0, 400, SHARED)
    first, second = (
        Box("x₁ = x₀ ⊙ (W x₀ + b) + x₀", 230, 1, 220, SHARED),
        Box("x₂ = x₀ ⊙ (W′ x₁ + b′) + x₁", 320, 2, 400, SHARED),
    )
    trunk = Box("trunk of any model", 320, 3, 400)
    arrows = [Arrow(Box("", 230, 0), first), Arrow(first, Box("", 230, 2)), Arrow(Box("", 430, 0), Box("", 430, 2))]
    arrows += [Arrow(second, trunk)]
    caption = "Two cross layers: each multiplies what the layer below makes by x₀, and so raises the degree by one."
    return drawn("cross-layers", caption, [encoder, first, second, trunk], arrows)


def target_attention() -> str:
    """Return the diagram of target attention over a history of three items."""
    history = [Box(name, x, 0, 90, SHARED) for name, x in (("e₁", 80), ("e₂", 200), ("e₃", 320))]
    item = Box("item of the row, eₜ", 540, 0, 160, SHARED)
    weights = [Box(f"a(e{n}, eₜ)", x, 1, 90, SHARED) for n, x in (("₁", 80), ("₂", 200), ("₃", 320))]
    pooled = Box("Σ a(eᵢ, eₜ) eᵢ", 200, 2, 150, SHARED)
    encoded = Box("encoded batch", 320, 3, 560)
    arrows = [Arrow(low, high) for low, high in zip(history, weights, strict=True)]
    arrows += [*(Arrow(item, weight) for weight in weights), *(Arrow(weight, pooled) for weight in weights)]
    arrows += [Arrow(pooled, Box("", 200, 3)), Arrow(item, Box("", 540, 3))]
    caption = "Target attention over a history of three items: each counts as much as it goes with the row's own item."
    return drawn("target-attention", caption, [*history, item, *weights, pooled, encoded], arrows)
