"""Whether probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recmtl.evaluate.ranked import RankedRows, totals
from recmtl.evaluate.scores import Scores

BINS = 15


def reliability(scores: Scores, bins: int = BINS) -> pd.DataFrame:
    """Set predicted beside observed rates, in bins of equal weight from the lowest predictions to the highest.

    Equal predictions share a bin, that of the middle of their weight: a bin may hold more than its share, or nothing
    and is then left out. The weighted mean of |`predicted` − `observed`| is the expected calibration error.

    Args:
        scores: The rows of a binary task.
        bins: How many bins to make, at most.

    Returns:
        A row for each bin, with the columns `low` and `high` (the least and the greatest prediction), `predicted` and
        `observed` (weighted means), `rows` and `weight`.

    Raises:
        ValueError: `bins` is below 1, or a prediction is not a probability.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}")
    wrong = ~((scores.predictions >= 0) & (scores.predictions <= 1))  # [rows]
    if wrong.any():
        raise ValueError(f"predictions must be probabilities in [0, 1], got {scores.predictions[wrong][0]}")
    rows = RankedRows(scores)
    ranked = rows.ranked()
    weight = ranked.positives + ranked.negatives  # [V]
    numbers, starts = np.unique(ranked.bins(bins), return_index=True) if len(weight) else (np.zeros(0, int),) * 2
    whole = totals(weight, starts)
    return pd.DataFrame(
        {
            "low": ranked.values[starts],
            "high": ranked.values[np.append(starts[1:], len(weight)) - 1] if len(weight) else np.zeros(0),
            "predicted": totals(weight * ranked.values, starts) / whole,
            "observed": totals(ranked.positives, starts) / whole,
            "rows": np.add.reduceat(rows.sizes(), starts) if len(weight) else np.zeros(0, int),
            "weight": whole,
        },
        index=pd.Index(numbers, name="bin"),
    )
