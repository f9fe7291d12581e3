"""CTR, CVR and CTCVR from whichever two of them a model predicts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.scores import Floats
from recmtl.schema import Schema, Task

Mask = npt.NDArray[np.bool_]


def complete(schema: Schema, predictions: Mapping[str, Floats]) -> tuple[dict[str, Floats], dict[str, Mask]]:
    """Derive the member of the funnel that a model does not predict: pCTCVR = pCTR·pCVR, pCVR = min(1, pCTCVR/pCTR).

    Shape:
        - predictions: ``{task: [rows]}``, probabilities

    Returns:
        The predictions with the derived one, those of the funnel first; and for a derived CVR, which rows were capped
        at 1.
    """
    predictions = dict(predictions)
    if not schema.funnel:
        return predictions, {}
    capped: dict[str, Mask] = {}
    ctr, cvr, ctcvr = (task.name for task in schema.funnel_tasks)
    if ctr in predictions and cvr in predictions and ctcvr not in predictions:
        predictions[ctcvr] = predictions[ctr] * predictions[cvr]
    elif ctr in predictions and ctcvr in predictions and cvr not in predictions:
        click, both = predictions[ctr], predictions[ctcvr]
        predictions[cvr] = np.divide(np.minimum(both, click), click, out=np.zeros_like(both), where=click > 0)
        capped[cvr] = both > click
    order = [name for name in (ctr, cvr, ctcvr) if name in predictions]
    return {name: predictions[name] for name in [*order, *predictions]}, capped


def task_labels(task: Task, labels: Mapping[str, Floats]) -> Floats:
    """Give the labels that count for a task ``[rows]``: NaN where its condition is not met."""
    if task.given is None:
        return labels[task.label]
    return np.where(labels[task.given] == 1, labels[task.label], np.nan)


def unsampled(task: Task, labels: Floats, weight: Floats | None) -> Floats | None:
    """Give row weights ``[rows]`` that undo the sampling of negatives: each kept one stands for 1 / rate of them."""
    if task.negative_rate == 1:
        return weight
    kept: Floats = np.where(labels == 0, 1 / task.negative_rate, 1.0)
    return kept if weight is None else kept * weight
