"""The Bayes AUC: that of the true probabilities, which no model can be expected to surpass."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.truth import Array


@dataclass(frozen=True)
class TaskTruth:
    """A task's Bayes AUC on the test rows with its standard error (Hanley and McNeil, 1982), or why it is undefined."""

    auc: float | None
    standard_error: float | None
    rows: int
    positives: int
    rate: float | None
    reason: str | None = None


def bayes_auc(
    click_probability: Array,
    conversion_probability: Array,
    click: npt.NDArray[np.bool_],
    conversion: npt.NDArray[np.bool_],
) -> dict[str, TaskTruth]:
    """Return the AUC of the true probabilities `[n]` for labels `[n]`; for CVR, over the clicked rows."""
    return {
        "ctr": task_truth(click_probability, click),
        "cvr": task_truth(conversion_probability[click], conversion[click]),
        "ctcvr": task_truth(click_probability * conversion_probability, conversion),
    }


def task_truth(probabilities: Array, labels: npt.NDArray[np.bool_]) -> TaskTruth:
    """Return the AUC of true probabilities `[n]` for the labels `[n]` of one task."""
    rows, positives = len(labels), int(labels.sum())
    if positives in (0, rows):
        found = "no rows" if not rows else "no positive row" if not positives else "only positive rows"
        reason = f"the AUC needs both classes, but the test file has {found} for this task"
        return TaskTruth(None, None, rows, positives, positives / rows if rows else None, reason)
    from sklearn.metrics import roc_auc_score  # takes a second, and few processes generate rows

    auc = float(roc_auc_score(labels, probabilities))
    two_positives, two_negatives = auc / (2 - auc), 2 * auc**2 / (1 + auc)  # Hanley and McNeil's Q1 and Q2
    spread = (positives - 1) * (two_positives - auc**2) + (rows - positives - 1) * (two_negatives - auc**2)
    standard_error = float(np.sqrt((auc * (1 - auc) + spread) / (positives * (rows - positives))))
    return TaskTruth(auc, standard_error, rows, positives, positives / rows)
