"""Compare an exported network with the predictions of its run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recmtl.data import Loader, Rows
from recmtl.evaluate.predictions import complete
from recmtl.models.links import link_of
from recmtl.serving.network import ServedNetwork, inputs_of, probabilities
from recmtl.serving.reader import Network
from recmtl.serving.request_encoder import RequestEncoder
from recmtl.train import Trainer
from recmtl.train.predictor import Predictor

LIMIT = 1e-6  # of the difference of a probability; of a regression, in the larger of its value and its deviation
ROUNDING = 4  # times what the run itself loses by fp32, where that is more: rotations are folded, sums are reordered
BATCH = 2048

Floats = npt.NDArray[np.float64]


def network_predictions(network: ServedNetwork, run: Network, rows: Rows) -> dict[str, Floats]:
    """Return the predictions of an exported network by task."""
    parts = [run({n: t.numpy() for n, t in inputs.items()}) for inputs in _batches(network, rows)]
    return {task.name: np.concatenate([part[i] for part in parts]) for i, task in enumerate(network.tasks)}


def served_predictions(
    folder: Path, network: ServedNetwork, run: Network, columns: Mapping[str, Sequence[Any]]
) -> dict[str, Floats]:
    """Return the predictions by task of columns of raw values, which are encoded as by the reader of a folder."""
    encoder, parts = RequestEncoder(folder), []
    for start in range(0, len(next(iter(columns.values()))), BATCH):
        parts.append(run(encoder.encode({name: values[start : start + BATCH] for name, values in columns.items()})))
    return {task.name: np.concatenate([part[i] for part in parts]) for i, task in enumerate(network.tasks)}


def run_predictions(trainer: Trainer, rows: Rows) -> dict[str, Floats]:
    """Return what the run predicts for rows, computed on the CPU in fp32."""
    setup = trainer.setup
    device = torch.device("cpu")
    if setup.device != device:
        setup = replace(setup, model=copy.deepcopy(setup.model).cpu(), device=device)
    setup = replace(setup, optimization=replace(setup.optimization, precision="fp32"))
    return complete(setup.model.schema.schema, Predictor(setup).outputs(rows))[0]


def own_predictions(trainer: Trainer, rows: Rows) -> dict[str, Floats]:
    """Return what `recmtl predict` writes for rows, in the precision and on the device of the run."""
    return complete(trainer.model.schema.schema, Predictor(trainer.setup).outputs(rows))[0]


def exact_predictions(trainer: Trainer, rows: Rows) -> dict[str, Floats]:
    """Return the predictions of a run computed in float64, of which its own differ by rounding."""
    model = copy.deepcopy(trainer.model).cpu().double().eval()
    parts = []
    with torch.inference_mode():
        for batch in Loader(rows, BATCH).epoch():
            logits = model(replace(batch, numeric=batch.numeric.double()))
            parts.append(probabilities(model, logits))
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def largest_difference(trainer: Trainer, expected: Mapping[str, Floats], found: Mapping[str, Floats]) -> float:
    """Return the largest difference of a prediction; that of a regression in the larger of value and deviation."""
    schema, largest = trainer.model.schema, 0.0
    tasks = {t.name: t for t in (*schema.schema.reported_tasks, *trainer.model.objectives)}
    for name, values in expected.items():
        difference = np.abs(found[name] - values)
        unit = link_of(tasks[name]).unit(tasks[name], schema)
        if unit is not None:
            difference = difference / np.maximum(np.abs(values), unit)
        if not np.isfinite(found[name]).all():
            return float("inf")
        largest = max(largest, float(difference.max(initial=0.0)))
    return largest


def _batches(network: ServedNetwork, rows: Rows) -> Iterator[dict[str, Tensor]]:
    for batch in Loader(rows, BATCH).epoch():
        yield inputs_of(network.model.schema, batch)
