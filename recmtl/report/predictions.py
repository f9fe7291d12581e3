"""The predictions of a report beside the labels: curves, classes, and amounts by decile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from recmtl.evaluate.breakdown import class_table, confusion_table, decile_table
from recmtl.evaluate.measures.multiclass import top_class
from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.slices import FEW_POSITIVES
from recmtl.report import figures
from recmtl.report.elements import Heading, Part, Section, Table, TableCell, Text
from recmtl.report.runs import ReportedRun

MOST_CONFUSED = 12  # classes of a table of which is taken for which
WORST = 3  # classes that are named

ScoresOfRuns = Mapping[str, Scores]  # by the name of the run


def prediction_section(runs: Sequence[ReportedRun]) -> Section:
    """Show the predictions of each task beside its labels, by what its kind has."""
    parts: list[Part] = []
    by_task: dict[tuple[str, str], dict[str, Scores]] = {}  # which may be of another kind in another run
    for run in runs:
        for name, scores in run.scores.items():
            if len(scores):
                by_task.setdefault((name, scores.task.kind), {})[run.name] = scores
    names = [name for name, _ in by_task]
    for name, kind in sorted(by_task, key=lambda task: names.index(task[0])):
        found = list(PARTS_OF_KIND[kind](name, by_task[name, kind]))
        title = name if names.count(name) == 1 else f"{name} ({kind})"
        parts += [Heading(title), *found] if found else []
    return Section("curves", "Predictions and labels", parts)


def _binary_parts(task: str, given: ScoresOfRuns) -> Iterator[Part]:
    """Draw ROC curve, precision-recall curve and reliability diagram, a line for each run."""
    scores = {name: s for name, s in given.items() if metrics_of(s, names=["auc"]).values["auc"] is not None}
    if scores:
        yield figures.roc_picture(task, scores)
        yield figures.precision_recall_picture(task, scores)
        yield figures.reliability_picture(task, scores)


def _class_parts(task: str, given: ScoresOfRuns) -> Iterator[Part]:
    """Name the worst classes, and show all of them, which are taken for which, and how sure the model is."""
    tables: list[Table] = []
    for name, scores in given.items():
        suffix = f" ({name})" if len(given) > 1 else ""
        found = class_table(scores)
        yield Text(_worst_classes(found, suffix))
        few = (found["rows"] < FEW_POSITIVES).tolist()
        grey = f"; grey: fewer than {FEW_POSITIVES} rows" if any(few) else ""
        shown = found.rename(columns={"predicted": "predicted rows", "auc": "AUC"})
        tables.append(Table.of(shown, f"{task}: each class against all others{suffix}{grey}", faint=few))
        if len(found) <= MOST_CONFUSED:
            caption = f"{task}: of the rows of a class (on the left) the share taken for each{suffix}"
            tables.append(_confusion(scores, caption))
    yield from tables
    yield figures.reliability_picture(f"{task}, most probable class", {n: top_class(s) for n, s in given.items()})


def _worst_classes(found: pd.DataFrame, suffix: str) -> str:
    """Return which classes are told from the others worst, and which are never predicted."""
    enough = found[(found["rows"] >= FEW_POSITIVES) & found["auc"].notna()]
    worst = enough.nsmallest(min(WORST, len(enough) - 1), "auc") if len(enough) > 1 else enough
    named = ", ".join(f"{row['class']} {row['auc']:.4f}" for row in worst.to_dict("records"))
    text = f"Lowest AUC against all other classes{suffix}: {named or 'undefined'}."
    never = found.loc[(found["predicted"] == 0) & (found["rows"] > 0), "class"]
    return text + (f" Most probable in no row: {', '.join(never)}." if len(never) else "")


def _confusion(scores: Scores, caption: str) -> Table:
    shares = confusion_table(scores)
    rows = [
        [TableCell(str(label)), *(TableCell("–" if np.isnan(s) else f"{s:.0%}", number=True) for s in of_label)]
        for label, of_label in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    return Table(caption, ["label", *shares.columns], rows, ordered=True)


def _number_parts(task: str, given: ScoresOfRuns) -> Iterator[Part]:
    """Draw mean labels over mean predictions by decile of the prediction."""
    tables = {name: table for name, scores in given.items() if len(table := decile_table(scores))}
    if tables:
        yield figures.decile_picture(task, tables)


PARTS_OF_KIND: Mapping[str, Callable[[str, ScoresOfRuns], Iterator[Part]]] = {
    "binary": _binary_parts,
    "regression": _number_parts,
    "multiclass": _class_parts,
    "amount": _number_parts,
}
