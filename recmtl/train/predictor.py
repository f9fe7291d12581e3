"""What a model makes of rows, without a gradient: predictions, and the weights of its gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recmtl.data import Batch, Loader, Rows
from recmtl.io.memory import explain_oom
from recmtl.models import RankingModel
from recmtl.train.device import autocast, matmul_precision
from recmtl.train.options import Optimization

BATCH = 8192  # rows


def outputs(
    model: RankingModel, rows: Rows, device: torch.device, options: Optimization
) -> dict[str, npt.NDArray[np.float64]]:
    """Predict each output of a model ``{task: [rows]}``, in the order of the rows, of which there are some.

    Args:
        model: The model.
        rows: The rows.
        device: Where the model is.
        options: Name the precision.
    """
    parts: list[dict[str, Tensor]] = []
    with (
        explain_oom(f"predictions of {len(rows):,} {rows.name} rows, {BATCH:,} at a time"),
        inferring(model, device, options),
    ):
        for batch in Loader(rows, BATCH, device).epoch():
            parts.append({name: value.double() for name, value in _activated(model, batch).items()})
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]} if parts else {}


def share_of(rows: Rows, rank: int, processes: int) -> Rows:
    """Give the rows that one of several processes predicts: as many batches as the others, or one less."""
    if processes == 1:
        return rows
    batches = -(-len(rows) // BATCH)
    start, end = (min(len(rows), batches * i // processes * BATCH) for i in (rank, rank + 1))
    return Rows(rows.schema, rows.table.slice(start, end - start), rows.name)


def expert_usage(
    model: RankingModel, rows: Rows, device: torch.device, options: Optimization
) -> dict[str, list[float]]:
    """Give by head the mean weight that its gate gives each expert on the rows; nothing for a model without gates.

    Args:
        model: The model.
        rows: The rows.
        device: Where the model is.
        options: Name the precision.
    """
    totals: dict[str, Tensor] = {}
    with inferring(model, device, options):
        for batch in Loader(rows, BATCH, device).epoch():
            found = {head: weights.sum(0, dtype=torch.float64) for head, weights in model.expert_usage(batch).items()}
            if not found:
                return {}
            totals = {head: totals.get(head, 0.0) + total for head, total in found.items()}  # [E]
    return {head: (total / len(rows)).tolist() for head, total in totals.items()}


def _activated(model: RankingModel, batch: Batch) -> dict[str, Tensor]:
    """Turn logits into probabilities; the sampling of negatives is undone."""
    tasks = {task.name: task for task in (*model.schema.schema.reported_tasks, *model.objectives)}
    activated = {}
    for name, logit in model(batch).items():
        binary = tasks[name].kind == "binary"
        shift = float(np.log(tasks[name].negative_rate))
        activated[name] = torch.sigmoid(logit.double() + shift) if binary else logit
    return activated


@contextmanager
def inferring(model: RankingModel, device: torch.device, options: Optimization) -> Iterator[None]:
    """Put a model into evaluation mode within a block, where no gradient is taken."""
    mode = model.training
    model.eval()
    try:
        with torch.inference_mode(), matmul_precision(device, options.precision), autocast(device, options):
            yield
    finally:
        model.train(mode)
