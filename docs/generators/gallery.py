"""The gallery: every figure of `recmtl.evaluate.figures`, drawn from a short training when the site is built."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import recmtl
from recmtl.cli.main import main
from recmtl.evaluate import figures

ROWS = 30_000
INK = {"light": "#1f2430", "dark": "#e2e4ec"}
SIZE = (5.2, 3.6)  # inches

Draw = Callable[[Axes], object]


@cache
def files() -> dict[str, str | bytes]:
    """Return the page of the gallery and its figures in both colour schemes, by path."""
    parts = [
        "# Gallery",
        "",
        "Every figure here was drawn when this page was built, from one short training: MMOE with MetaBalance on",
        f"{ROWS:,} generated rows. The functions of",
        "[`recmtl.evaluate.figures`](reference/python/evaluate_figures.md) draw into any matplotlib `Axes`; reports",
        "use the same ones.",
        "",
        '<div class="figures" markdown>',
        "",
    ]
    found: dict[str, str | bytes] = {}
    for name, (draw, caption) in drawings().items():
        for scheme in INK:
            found[f"assets/gallery/{name}_{scheme}.svg"] = drawn(draw, scheme)
        link = f"[`{name.partition('-')[0]}`][recmtl.evaluate.figures.{name.partition('-')[0]}]"
        images = [f"![{caption}](assets/gallery/{name}_{scheme}.svg#only-{scheme})" for scheme in INK]
        parts += [
            '<figure markdown="span">',
            *images,
            f"<figcaption markdown>{link}: {caption}</figcaption>",
            "</figure>",
            "",
        ]
    return {"gallery.md": "\n".join([*parts, "</div>", ""]), **found}


def drawings() -> dict[str, tuple[Draw, str]]:
    """Train, and return how to draw each figure, and its caption, by the name of its function."""
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder))
        predictions = recmtl.Predictions.read(recmtl.card("aliexpress"), run / "predictions" / "test.parquet")
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        usage = json.loads((run / "usage.json").read_text())["experts"]
    scores = predictions.scores()
    of_all_rows = {task: scores[task] for task in ("ctr", "ctcvr")}
    return {
        "roc": (lambda axes: figures.roc(of_all_rows, axes), "ROC curves of two tasks"),
        "precision_recall": (lambda axes: figures.precision_recall(of_all_rows, axes), "precision over recall"),
        "reliability": (
            lambda axes: figures.reliability(of_all_rows, axes),
            "mean label over mean prediction, in bins",
        ),
        "learning_curves": (lambda axes: figures.learning_curves(records, axes=axes), "training losses over steps"),
        "learning_curves-valid": (
            lambda axes: figures.learning_curves(records, "valid", axes),
            "validation AUC over steps",
        ),
        "task_weights": (lambda axes: figures.task_weights(records, axes), "the weights of the tasks"),
        "gradient_norms": (lambda axes: figures.gradient_norms(records, axes), "norms of the tasks' gradients"),
        "cosines": (lambda axes: figures.cosines(records, axes), "the cosine of the tasks' gradients"),
        "expert_usage": (lambda axes: figures.expert_usage(usage, axes), "how much each task uses each expert"),
    }


def trained(folder: Path) -> Path:
    """Train on generated rows by the command, and return the run folder."""
    rows, run = folder / "rows", folder / "run"
    options = {
        "data.train": rows / "train.csv",
        "data.valid": rows / "valid.csv",
        "data.test": rows / "test.csv",
        "data.cache": folder / "cache",
        "model.experts": 3,
        "model.layers": "[48, 24]",
        "trainer.gradient_stats_every": 5,
        "trainer.optimization.batch_size": 1024,
        "trainer.run.log_every": 5,
        "trainer.run.tensorboard": "false",
        "run": run,
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    generate = ["synth", "--out", str(rows), "--rows", str(ROWS), "--click_rate", "0.2", "--conversion_rate", "0.3"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(generate) or main(["train", "--config", "demo", *arguments])
    if status:
        raise RuntimeError(f"the training for the gallery failed:\n{printed.getvalue()}")
    return run


def drawn(draw: Draw, scheme: str) -> bytes:
    """Return a figure as SVG without background, in the ink of a colour scheme."""
    ink = INK[scheme]
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {**dict.fromkeys(inked, ink), "svg.hashsalt": "recmtl", "legend.framealpha": 0}
    with mpl.rc_context(settings):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots())
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
