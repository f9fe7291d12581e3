"""The network as it is served: from encoded rows to the probabilities that `recmtl predict` writes."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.data import Batch, IdLists
from recmtl.models import RankingModel
from recmtl.models.links import link_of
from recmtl.schema import FittedSchema, Task, consistent_rates

IDS, NUMERIC, VALUES, LENGTHS = "ids", "numeric", "list_{}", "lengths_{}"  # the names of inputs


class ServedNetwork(nn.Module):
    """A model without its balancer, with all that `predict` does to its logits: float64 probabilities of all tasks.

    Sigmoids are taken in float64, and the rates of a funnel agree, as by `recmtl.evaluate.predictions.complete`: those
    that the model does not predict follow from the others. Of a regression the value is returned.

    Shape:
        - ids: int64 ``[N, id columns]``, indices within each feature; left out without such columns
        - numeric: float32 ``[N, numeric columns]``; left out without such columns
        - list_b, lengths_b: int64 ``[values of all rows]`` and ``[N]`` for each list b of the schema
        - outputs: float64 ``[N]`` for each of `tasks`

    Attributes:
        inputs: The names of the inputs, in order.
        tasks: The tasks that are predicted, in the order of the outputs.

    Args:
        model: The model; it is copied.
    """

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model.fold().eval().cpu().requires_grad_(False)
        self.model.heads = NumberedHeads(self.model.heads)
        self.inputs = input_names(model.schema)
        found: dict[str, Task] = {t.name: t for t in (*model.schema.schema.reported_tasks, *model.objectives)}
        with torch.inference_mode():
            self.tasks = tuple(found[name] for name in self.probabilities(*self.example()))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the prediction of each task."""
        return tuple(self.probabilities(*inputs).values())

    def probabilities(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the predictions by task."""
        return probabilities(self.model, self.model(batch_of(self.model.schema, inputs)))

    def example(self, rows: int = 3) -> tuple[Tensor, ...]:
        """Return inputs of unknown categories and of numbers 0, with two values in each list."""
        schema = self.model.schema
        shapes = {IDS: (rows, schema.id_columns), NUMERIC: (rows, schema.numeric_columns)}
        found = [torch.zeros(shapes[name]) for name in self.inputs if name in shapes]
        found = [each.long() if name == IDS else each for name, each in zip(self.inputs, found, strict=False)]
        for _ in schema.list_blocks:
            found += [torch.zeros(2 * rows, dtype=torch.int64), torch.full((rows,), 2)]
        return tuple(found)


class NumberedHeads(nn.ModuleDict):
    """Heads by task whose modules are numbered: the code of a graph cannot hold whatever text a task is named by."""

    def __init__(self, heads: nn.ModuleDict) -> None:
        super().__init__({str(place): head for place, head in enumerate(heads.values())})
        self._places = {name: str(place) for place, name in enumerate(heads)}

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(self._places[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def keys(self) -> KeysView[str]:
        """Return the names of the tasks."""
        return self._places.keys()

    def items(self) -> ItemsView[str, nn.Module]:
        """Return the heads with the names of their tasks."""
        return dict(zip(self._places, self.values(), strict=True)).items()


def input_names(schema: FittedSchema) -> tuple[str, ...]:
    """Return the names of the network's inputs, without those that would have no columns."""
    names = [IDS] * bool(schema.id_columns) + [NUMERIC] * bool(schema.numeric_columns)
    lists = [name.format(place) for place in range(len(schema.list_blocks)) for name in (VALUES, LENGTHS)]
    return (*names, *lists)


def batch_of(schema: FittedSchema, inputs: Sequence[Tensor]) -> Batch:
    """Return the batch of a network's inputs, without labels."""
    given = dict(zip(input_names(schema), inputs, strict=True))
    by_row = next(tensor for name, tensor in given.items() if not name.startswith("list_"))
    rows = by_row.shape[0]
    numeric = given[NUMERIC] if NUMERIC in given else by_row.new_zeros((rows, 0), dtype=torch.float32)
    ids = given[IDS] if IDS in given else by_row.new_zeros((rows, 0), dtype=torch.int64)
    lists = [
        IdLists.of_lengths(given[VALUES.format(place)], given[LENGTHS.format(place)])
        for place in range(len(schema.list_blocks))
    ]
    return Batch(ids, numeric, labels=numeric[:, :0], lists=tuple(lists))


def inputs_of(schema: FittedSchema, batch: Batch) -> dict[str, Tensor]:
    """Return the network's inputs, by name, of a batch without spare values."""
    given = {IDS: batch.ids.long(), NUMERIC: batch.numeric}
    for place, own in enumerate(batch.lists):
        given |= {VALUES.format(place): own.values.long(), LENGTHS.format(place): own.offsets.diff()}
    return {name: given[name].contiguous() for name in input_names(schema)}


def probabilities(model: RankingModel, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float64 predictions of all tasks, calibrated if the model is, from its logits in evaluation mode."""
    return consistent_rates(model.schema.schema, model.predictions(logits), torch)[0]


def meaning(task: Task) -> str:
    """Return what the prediction of a task is, in words."""
    what = link_of(task).meaning.format(label=task.label)
    return what if task.given is None else f"{what}, given that {task.given} is 1"
