"""What was not finite in a training, counted on the device: no step waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recmtl.balance import Balancer, zero_nonfinite_gradients
from recmtl.features import EmbeddingTable
from recmtl.runs.serialization import check_state_like

STATE = ("steps", "counts", "streaks", "first", "reached", "skipped")


class NonFiniteEvent(NamedTuple):
    """What was not finite.

    Args:
        name: A task, a layer or a feature.
        steps: In how many steps.
        first: The first of them, counted from 1.
        reached: The step in which there were too many of them in a row; 0 where there never were.
    """

    name: str
    steps: int
    first: int
    reached: int


class NonFiniteCounter:
    """Counts the steps in which a task, a layer's gradient or that of a feature's embeddings was not finite.

    All state is changed in place, so that a recorded step counts, too.

    Args:
        model: The model.
        balancer: Counts the tasks that it leaves out.
        layers: The parameters whose gradients are looked at.
        tables: Those tables whose gathered rows are looked at behind them.
        limit: How many steps in a row are too many.
    """

    def __init__(
        self,
        model: nn.Module,
        balancer: Balancer,
        layers: Sequence[nn.Parameter],
        tables: Sequence[EmbeddingTable],
        limit: int,
    ) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        known = {id(layer) for layer in layers} | {id(table.weight) for table in tables}
        all_tables = (module for module in model.modules() if isinstance(module, EmbeddingTable))
        self._tables = [table for table in all_tables if id(table.weight) in known]
        labels = balancer.labels if len(balancer.labels or ()) == len(balancer.skipped) else None
        tasks = [f"task {label}" for label in labels or range(len(balancer.skipped))]
        features = [f"feature {owner}" for table in self._tables for owner in table.owners]
        tensors = [*layers, *(table.weight for table in tables)]
        self.names = [*tasks, *(names[id(tensor)] for tensor in tensors), *features]
        self._gradients = slice(len(tasks), len(tasks) + len(tensors))
        self._place = {id(tensor): place for place, tensor in enumerate(tensors)}
        self._balancer, self._limit = balancer, limit
        self.skipped = balancer.skipped.clone()  # as they were after the last step
        self.steps = self.skipped.new_zeros(())
        self.counts, self.streaks, self.first, self.reached = self.skipped.new_zeros(4, len(self.names)).unbind()

    @torch.no_grad()
    def take(self, tensors: Sequence[Tensor]) -> None:
        """Set what is not finite in the gradients of a step to zero, and count it.

        Args:
            tensors: The layers, then the gathered rows of the tables.
        """
        norms = [table.gradient_norms() for table in self._tables]
        marks = zero_nonfinite_gradients(tensors)
        features = [marks[self._place[id(t.weight)]] & ~n.isfinite() for t, n in zip(self._tables, norms, strict=True)]
        bad = torch.cat([self._balancer.skipped != self.skipped, marks, *features])
        self.skipped.copy_(self._balancer.skipped)
        self.steps += 1
        self.counts += bad
        self.streaks.add_(1).mul_(bad)
        self.first.copy_(torch.where((self.first == 0) & bad, self.steps, self.first))
        self.reached.copy_(torch.where((self.reached == 0) & (self.streaks == self._limit), self.steps, self.reached))

    def found(self) -> Iterator[NonFiniteEvent]:
        """Give what was not finite by now. Waits for the device."""
        rows = torch.stack([self.counts, self.first, self.reached], 1).tolist()
        return (NonFiniteEvent(name, *row) for name, row in zip(self.names, rows, strict=True) if row[0])

    @property
    def zeroed(self) -> Tensor:
        """How many tensors had a gradient with entries that were not finite, over all steps: ``[]``."""
        return self.counts[self._gradients].sum()

    def state_dict(self) -> dict[str, Tensor]:
        """Give what was counted so far."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on counting from what another one's `state_dict` gave.

        Raises:
            ValueError: It was that of another model.
        """
        check_state_like(state, self.state_dict(), "what was not finite")
        for name in STATE:
            getattr(self, name).copy_(state[name])


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Give by name the weights of a model, and what else it keeps in floating-point numbers."""
    tensors = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor) and t.numel()}
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def bad_weights(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Name the layers, and the features with embeddings, that are not all finite among weights of a model."""
    if not state:
        return []
    finite = torch.stack([torch.stack(torch.aminmax(tensor)).isfinite().all() for tensor in state.values()]).tolist()
    bad = [name for name, good in zip(state, finite, strict=True) if not good]
    return [part for name in bad for part in _parts(model, name)]


def _parts(model: nn.Module, name: str) -> list[str]:
    module, _, last = name.rpartition(".")
    table = model.get_submodule(module)
    if not (isinstance(table, EmbeddingTable) and last == "weight"):
        return [name]
    rows = zip(table.owners, table.by_owner(table.weight.detach()), strict=True)
    return [f"feature {owner}" for owner, own in rows if own.numel() and not own.isfinite().all()]
