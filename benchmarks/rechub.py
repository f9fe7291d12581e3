"""torch-rechub 0.9.0 as the peer: the same MMOE, PLE and AITM, with its batch normalisation in all layers."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

import recmtl
from benchmarks.generated import BATCH
from recmtl.data import Batch
from recmtl.schema import FittedSchema

EXPERTS, LAYERS, TOWER, WIDTH, TASKS = 4, [256, 128], [64], 16, 2
LEVELS, TASK_EXPERTS, SHARED_EXPERTS = 2, 1, 2  # of PLE
Inputs = dict[str, Tensor]


def model(schema: FittedSchema, name: str = "MMOE") -> torch.nn.Module:
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models import multi_task

    sparse = [SparseFeature(b.feature.name, b.size, WIDTH) for b in schema.id_blocks]
    dense = [DenseFeature(feature.name) for feature in schema.numeric]
    towers = [{"dims": TOWER, "activation": "relu"}] * TASKS
    experts = {"dims": LAYERS, "activation": "relu"}
    features, kinds = sparse + dense, ["classification"] * TASKS
    models: dict[str, Callable[[], torch.nn.Module]] = {
        "MMOE": lambda: multi_task.MMOE(features, kinds, EXPERTS, experts, towers),
        "PLE": lambda: multi_task.PLE(features, kinds, LEVELS, TASK_EXPERTS, SHARED_EXPERTS, experts, towers),
        "AITM": lambda: multi_task.AITM(features, TASKS, experts, towers),
    }
    return models[name]()


def inputs(schema: FittedSchema, batch: Batch) -> Inputs:
    """A tensor per column, as the peer takes them."""
    names = [block.feature.name for block in schema.id_blocks]
    x = dict(zip(names, batch.ids.long().unbind(1), strict=True))
    return x | dict(zip([f.name for f in schema.numeric], batch.numeric.clone().unbind(1), strict=True))


class EndToEnd:
    """Its trainer and its loader over all rows, from arrays in memory.

    Args:
        data: The rows.
        name: The model.
    """

    def __init__(self, data: recmtl.PreparedData, name: str = "MMOE") -> None:
        from torch_rechub.utils.data import DataGenerator

        whole = next(recmtl.Loader(data.train, len(data.train)).epoch())
        x = {name: column.numpy() for name, column in inputs(data.schema, whole).items()}
        y = whole.labels.numpy().copy()
        loaders = DataGenerator(x, y).generate_dataloader(x_val=x, y_val=y, x_test=x, y_test=y, batch_size=BATCH)
        self.train_loader, _, self.test_loader = loaders
        self.schema, self.name = data.schema, name
        self.trainer = self._trainer()

    def _trainer(self) -> object:
        from torch_rechub.trainers import MTLTrainer

        return MTLTrainer(
            model(self.schema, self.name), ["classification"] * TASKS, optimizer_params={"lr": 1e-3}, n_epoch=1
        )

    def train(self) -> None:
        trainer = self._trainer()
        with quiet():
            trainer.train_one_epoch(self.train_loader)  # type: ignore[attr-defined]

    def evaluate(self) -> None:
        with quiet():
            self.trainer.evaluate(self.trainer.model, self.test_loader)  # type: ignore[attr-defined]


def steps(schema: FittedSchema, given: Iterable[Batch], metabalance: bool = False) -> Callable[[], None]:
    """Its step on batches that lie in memory; MetaBalance by its own class, as its trainer crashes with it."""
    from torch_rechub.utils.mtl import MetaBalance, shared_task_layers

    torch.manual_seed(0)
    net = model(schema)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    balancer = MetaBalance(shared_task_layers(net)[0]) if metabalance else None
    ready = itertools.cycle([(inputs(schema, batch), batch.labels) for batch in given])

    def step() -> None:
        x, y = next(ready)
        predicted = net(x)
        losses = [torch.nn.functional.binary_cross_entropy(predicted[:, k], y[:, k]) for k in range(TASKS)]
        adam.zero_grad()
        if balancer is None:
            (sum(losses, torch.zeros(())) / TASKS).backward()  # type: ignore[no-untyped-call]
        else:
            balancer.step(losses)
        adam.step()

    return step


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
