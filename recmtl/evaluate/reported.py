"""Every reported task of a schema, measured on its own sample space."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from recmtl.evaluate.grouped import K
from recmtl.evaluate.measures import METRICS
from recmtl.evaluate.metrics import Metrics, metrics_of
from recmtl.evaluate.predictions import Predictions
from recmtl.evaluate.scores import Floats
from recmtl.schema import Schema


def measure(
    schema: Schema,
    predictions: Mapping[str, Floats],
    labels: Mapping[str, Floats],
    weight: Floats | None = None,
    keys: pa.Table | None = None,
    k: int = K,
    names: Collection[str] | None = None,
) -> dict[str, Metrics]:
    """Measure every reported task of a schema, each on its own sample space.

    Where a task's negatives were sampled, the rows are taken to be sampled alike: a negative counts 1 / rate times.

    Shape:
        - predictions, labels, weight: ``[rows]`` each

    Args:
        schema: Says which tasks are reported; with a funnel CTR, CVR and CTCVR, whichever are predicted directly.
        predictions: By task: probabilities, or the values of a regression.
        labels: By label column, NaN where missing.
        weight: Of each row.
        keys: The columns carried through, the group among them; without it nothing is measured within groups.
        k: How many rows of a group NDCG and recall look at.
        names: The metrics to measure, where not all are wanted.
    """
    alone = {name for kind in METRICS.values() for name in kind}
    if keys is None or (names is not None and alone.issuperset(names)):
        keys = pa.table({})  # no group is numbered in vain
    scores = Predictions(schema, predictions, labels, weight, keys).scores()
    return {name: metrics_of(found, k, names) for name, found in scores.items()}
