"""What a head starts from: its default tower, and its output bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from recmtl.layers import MLP, LayerStyle
from recmtl.schema import LabelRate, Task

MIN_CLASS_COUNT = 0.5  # assumed of a class without training rows, so that its log-odds are finite


def default_tower(in_features: int, layers: Sequence[int], style: LayerStyle) -> nn.Module:
    """Build an MLP with one output and no output bias, which the head has."""
    hidden = MLP(in_features, layers, style, expand=False)
    return nn.Sequential(hidden, style.output(hidden.out_features))


def starting_bias(task: Task, rate: LabelRate) -> float:
    """Return the best constant output for the training rows.

    The log-odds of the label rate for a binary task, the mean for a regression; 0 without labelled rows.
    """
    if rate.rows == 0:
        return 0.0
    if task.kind == "regression":
        return rate.mean
    positives = min(max(rate.mean * rate.rows, MIN_CLASS_COUNT), rate.rows - MIN_CLASS_COUNT)
    return math.log(positives / (rate.rows - positives))
