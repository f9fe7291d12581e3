"""What a model makes of some training rows: how large its losses are, and whether it tells the rows apart."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from recmtl.balance import Leaf, diagnose
from recmtl.data import Loader, Rows
from recmtl.data.memory import holding
from recmtl.features import EmbeddingTable
from recmtl.models import RankingModel
from recmtl.models.base import starting_bias
from recmtl.train.losses import Losses
from recmtl.train.options import Optimization
from recmtl.train.predicting import inferring
from recmtl.train.step import in_row_mode

STRETCHES, STRETCH = 64, 128  # of rows all over the training rows


class Reading(NamedTuple):
    """What a model makes of the rows, objective by objective.

    Args:
        losses: The loss.
        values: How many different predictions there are, those that are not finite left out.
    """

    losses: list[float]
    values: list[int]


class Probe:
    """Measures a model on the same training rows again and again, without dropout.

    Args:
        model: The model.
        rows: The training rows.
        device: Where the model is.
        options: Name the precision.

    Attributes:
        rows: How many rows are taken.
        constant: The loss of each objective for a model that predicts the mean of the labels for all rows; 0 where
            the labels do not vary.
    """

    def __init__(self, model: RankingModel, rows: Rows, device: torch.device, options: Optimization) -> None:
        self._model, self._device, self._options = model, device, options
        self._losses = Losses(model.schema.schema, model.objectives)
        sample = stretches_of(rows)
        self.rows = len(sample)
        self._batch = next(Loader(sample, self.rows, device).epoch())
        rates = [(task, model.schema.rate(task)) for task in model.objectives]
        biases = {task.name: starting_bias(task, rate) for task, rate in rates}
        losses = self._measured({n: torch.full((self.rows,), b, device=device) for n, b in biases.items()})
        one_class = [task.kind == "binary" and rate.mean in (0, 1) for task, rate in rates]
        self.constant = [0.0 if one else loss for one, loss in zip(one_class, losses, strict=True)]

    def read(self) -> Reading:
        """Measure the model. Waits for the device."""
        predictions = holding(f"predictions of {self.rows:,} training rows at once")
        plain = torch.inference_mode(False)
        with predictions, inferring(self._model, self._device, self._options), plain, torch.no_grad():
            logits = self._model(self._batch)
        values = [len(found[found.isfinite()].unique()) for found in (logits[t.name] for t in self._model.objectives)]
        return Reading(self._measured(logits), values)

    def stuck(self) -> list[bool]:
        """Say of each objective whether it would move nothing that is shared, or that embeds: all units are off."""
        tables = [m for m in self._model.modules() if isinstance(m, EmbeddingTable) and m.weight.requires_grad]
        learning = torch.inference_mode(False), torch.enable_grad(), in_row_mode(tables)
        with inferring(self._model, self._device, self._options), learning[0], learning[1], learning[2]:
            losses = self._losses(self._model(self._batch), self._batch)
            leaves = [Leaf(*tensor) for tensor in self._model.shared().tensors]
            norms = diagnose(losses, leaves or [Leaf(table.gathered.rows) for table in tables]).norms
        return [norm == 0 and bool(leaves or tables) for norm in norms.tolist()]

    def _measured(self, logits: dict[str, Tensor]) -> list[float]:
        return torch.stack(list(self._losses(logits, self._batch).values())).tolist()


def stretches_of(rows: Rows) -> Rows:
    """Take stretches of rows from all over them, or all where there are few."""
    if len(rows) <= STRETCHES * STRETCH:
        return rows
    starts = [i * (len(rows) - STRETCH) // (STRETCHES - 1) for i in range(STRETCHES)]
    return Rows(rows.schema, pa.concat_tables([rows.table.slice(start, STRETCH) for start in starts]), rows.name)
