"""The network as a file: written in a format, run, and stored in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from recmtl.data import Rows
from recmtl.evaluate import measure
from recmtl.evaluate.metrics import main_metric
from recmtl.schema import FittedSchema
from recmtl.serving.check import Floats, network_predictions
from recmtl.serving.graph import GRAPHS, Format, onnx_of, program_of, save_onnx, save_program
from recmtl.serving.network import ServedNetwork
from recmtl.serving.reader import Network, onnx_network
from recmtl.serving.scorer import torch_network
from recmtl.serving.weights import Weights, store_onnx_weights, store_program_weights


class WrittenNetwork:
    """A network in a file, of which what is in the file is run.

    Attributes:
        run: From the inputs by name to the outputs of the tasks.

    Args:
        network: The network.
        form: The format.
        folder: The folder of the file.
    """

    run: Network

    def __init__(self, network: ServedNetwork, form: Format, folder: Path) -> None:
        self._network, self._form, self._path = network, form, folder / GRAPHS[form]
        self._program = program_of(network)
        self._model = onnx_of(network, self._program) if form == "onnx" else None
        self._save()

    def _save(self) -> None:
        for file in self._path.parent.glob(f"{self._path.name}*"):
            file.unlink()
        if self._model is None:
            save_program(self._program, self._path)
        else:
            save_onnx(self._model, self._path)
        is_onnx = self._model is not None
        self.run = onnx_network(self._path, 1) if is_onnx else torch_network(self._path, self._network.inputs)

    @property
    def size(self) -> int:
        """The bytes of the graph with its weights."""
        return sum(file.stat().st_size for file in self._path.parent.glob(f"{self._path.name}*"))

    def store_weights(self, weights: Weights) -> None:
        """Write the network again, with weights in fewer bits."""
        if self._model is None:
            self._program = store_program_weights(self._network, self._program, weights)
        else:
            store_onnx_weights(self._model, weights)
        self._save()

    def predictions(self, rows: Rows) -> dict[str, Floats]:
        """Return the predictions of encoded rows by task."""
        return network_predictions(self._network, self.run, rows)


class Measured(NamedTuple):
    """The main metric of a task.

    Args:
        metric: The name of the metric.
        value: Its value; ``None`` if it is undefined.
        reason: Why.
    """

    metric: str
    value: float | None
    reason: str | None = None


def main_metrics(schema: FittedSchema, rows: Rows, predictions: Mapping[str, Floats]) -> dict[str, Measured]:
    """Return the main metric of each task, whatever its kind."""
    metrics = {task.name: main_metric(task) for task in schema.schema.reported_tasks}
    given = (schema.schema, predictions, rows.labels, rows.weight)
    names, weights = {*metrics.values()}, rows.task_weights
    found = measure(*given, names=names, sampling_weight=rows.sampling_weight, task_weights=weights)
    return {name: Measured(metrics[name], of.values.get(metrics[name]), of.reason) for name, of in found.items()}
