"""Inference: predictions, metrics and gate weights of a model, without gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.data import Batch, Loader, Rows
from recmtl.errors import RunError
from recmtl.evaluate import Metrics, Predictions, own_metrics
from recmtl.features.embedding_table import spread_tables
from recmtl.io.machine import explain_oom
from recmtl.train.device import (
    autocast,
    check_untrained,
    check_weights,
    cpu_threads,
    inference_options,
    joined,
    matmul_precision,
)
from recmtl.train.prediction_shares import PredictionShares
from recmtl.train.setup import TrainingSetup
from recmtl.train.share_exchange import ShareExchange

BATCH = 8192  # rows


class Predictor:
    """Predicts and measures prepared rows, in any number of threads at once.

    Several processes call the same methods with the same rows, each of which one of them predicts.
    """

    def __init__(self, setup: TrainingSetup, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self._setup, self._processes = setup, processes

    def outputs(self, rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
        """Predict each output of the model ``{task: [rows]}``, of classes ``[rows, C]``, in the order of the rows.

        They are calibrated, if the model is. Of several processes each returns those of its share of the rows.

        Raises:
            DataError: The rows were prepared with another schema.
            OutOfMemoryError: A batch does not fit into memory.
        """
        return dict(self.predict(rows).values)

    def predict(self, rows: Rows) -> Predictions:
        """Predict every task, with labels, weights and keys of the rows, or of this process's share; errors as before.

        The shares of several processes, in their order, are all rows.
        """
        schema, calibration = self._setup.model.schema.schema, self._setup.model.calibration
        self._setup.check_rows(rows)
        own, outputs = process_rows(rows, self._processes.rank, self._processes.size), self._uncalibrated(rows)
        group = self._setup.stopping.group
        given = (schema, outputs, own.labels, own.weight, own.keys, group, own.sampling_weight, own.task_weights)
        found = Predictions(*given, own=own_metrics(self._setup.stopping.metrics))
        return calibration.applied(found) if calibration is not None else found

    def shares(self, rows: Rows) -> PredictionShares:
        """Predict every task; each process holds a share of the predictions, and gets metrics of all."""
        return PredictionShares(self.predict(rows), ShareExchange(self._processes, self._setup.device))

    def measure(self, rows: Rows, names: Collection[str] | None = None) -> dict[str, Metrics]:
        """Measure the model task by task on all rows, by the metrics named, or by all."""
        one = self._processes.size == 1
        return self.predict(rows).metrics(names) if one else self.shares(rows).metrics(names)

    def expert_usage(self, rows: Rows) -> dict[str, list[float]]:
        """Return by head the mean gate weight of each expert, of those gates whose weights are finite."""
        totals: dict[str, Tensor] = {}
        with self._inference():
            for batch, counts in self._batches(rows):
                usage = self._setup.model.expert_usage(batch)  # {head: [B, E]}
                if not usage:
                    return {}
                for head, weights in usage.items():
                    totals[head] = totals.get(head, 0.0) + counts * weights.sum(0, dtype=torch.float64)  # [E]
            self._processes.all_reduce([*totals.values()])
        return {head: (total / len(rows)).tolist() for head, total in totals.items() if total.isfinite().all()}

    def _uncalibrated(self, rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
        """Return what the model itself predicts for this process's share of the rows."""
        if len(rows) == 0:
            model = self._setup.model
            wide = {t.name: t.outputs for t in model.schema.schema.tasks if t.has_classes}
            names = dict.fromkeys((*model.heads, *self._setup.objectives))
            return {name: np.empty((0, wide[name]) if name in wide else 0) for name in names}
        parts: list[dict[str, Tensor]] = []
        what = f"predictions of {len(rows):,} {rows.name} rows, {BATCH:,} at a time"
        with explain_oom(what), self._inference():
            for batch, counts in self._batches(rows):
                found = self._predicted(batch)
                parts.append(found if counts else {name: values[:0] for name, values in found.items()})
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}

    def _batches(self, rows: Rows) -> Iterator[tuple[Batch, bool]]:
        """Yield the batches of this process's share of the rows, and whether they count.

        The processes run the same number of them, as they look up rows of tables that they share: one with a batch
        less than another runs the first row once more, which does not count.
        """
        rank, size = self._processes.rank, self._processes.size
        share = process_rows(rows, rank, size)
        for batch in self._loader(share).epoch():
            yield batch, True
        if len(share) <= (batches(len(rows)) - 1) // size * BATCH:
            yield next(self._loader(rows.span(0, 1)).epoch()), False

    def _loader(self, rows: Rows) -> Loader:
        return Loader(rows, BATCH, self._setup.device)

    def _predicted(self, batch: Batch) -> dict[str, Tensor]:
        model = self._setup.model
        return model.predictions(model(batch), calibrated=False)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Put the model into evaluation mode within a block, without gradients."""
        if self._processes.size < self._setup.processes.size and spread_tables(self._setup.model):
            raise RunError(
                f"the tables of the model are spread over {self._setup.processes.size} processes, which look up rows "
                "together: one alone, such as a callback in the first, cannot predict"
            )
        check_untrained(self._setup.model)
        check_weights(self._setup.model)
        model, device, threads = self._setup.model, self._setup.device, cpu_threads(self._setup.run.threads)
        options = inference_options(device, self._setup.optimization)
        with (
            joined(model, lambda: evaluation_mode(model)),
            threads,
            torch.inference_mode(),
            matmul_precision(device, options.precision),
            autocast(device, options),
        ):
            yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode within the block."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def process_rows(rows: Rows, rank: int, processes: int) -> Rows:
    """Return the rows that one of several processes predicts: whole batches, at most one more than another's."""
    if processes == 1:
        return rows
    start, end = (min(len(rows), batches(len(rows)) * i // processes * BATCH) for i in (rank, rank + 1))
    return rows.span(start, end)


def batches(rows: int) -> int:
    """Return the number of batches of so many rows."""
    return -(-rows // BATCH)
