"""What every ranking model has: an encoder, a trunk, a fork and one head per task."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.schema import FittedSchema, LabelRate, Task

Tower = Callable[[int], nn.Module]
"""Builds a tower from D, the width of its view: a module from ``[B, D]`` to ``[B]`` or ``[B, 1]``."""
EncoderFactory = Callable[[FittedSchema], FeatureEncoder]
"""Builds the encoder of a model from the fitted schema."""
RARE = 0.5  # the count that a class without training rows is taken to have, so that its log-odds are finite


class Shared(NamedTuple):
    """What more than one objective trains.

    Args:
        tensors: The tensors, and the parts that they count as.
        last: Those that lie last before the fork: the W of GradNorm.
    """

    tensors: tuple[SharedTensor, ...]
    last: tuple[Tensor, ...]


class Fork(Protocol):
    """What lies between trunk and heads: every balancer is one."""

    def __call__(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hand each head its view, ``[B, D]``."""

    def fold(self, heads: Iterable[nn.Module], features: int) -> list[nn.Module]:
        """Give copies of the heads that need no fork."""


class Identity(nn.Module):
    """A fork that hands every view on as it is."""

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hand the views on."""
        return tuple(views)

    def fold(self, heads: Iterable[nn.Module], features: int) -> list[nn.Module]:
        """Give copies of the heads: they need no fork."""
        return [copy.deepcopy(head) for head in heads]


class Head(nn.Module):
    """A tower and an output bias, which starts where the task's label rate is.

    Shape:
        - input: ``[B, D]``
        - output: ``[B]``, in the precision of the weights, also under autocast

    Args:
        name: The head's name.
        tower: A module from ``[B, D]`` to ``[B]`` or ``[B, 1]``.
        bias: The output bias at the start.
    """

    def __init__(self, name: str, tower: nn.Module, bias: float) -> None:
        super().__init__()
        self._name = name
        self.tower = tower
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, view: Tensor) -> Tensor:
        """Give the logit (a regression: the value) of each row."""
        output: Tensor = self.tower(view)
        rows, features = view.shape  # no len(): an exported model takes any number of rows
        if output.shape not in ((rows, 1), (rows,)):
            raise ValueError(
                f"the tower of head {self._name!r} must map [{rows}, {features}] to [{rows}] or [{rows}, 1], got "
                f"{list(output.shape)}"
            )
        return output.flatten().to(self.bias.dtype) + self.bias


class RankingModel(nn.Module, ABC):
    """A model that predicts several tasks from one batch.

    ``model(batch)`` gives the logits of each task (of a regression: the values), ``{name: [B]}``. Between the trunk
    and the heads lies ``fork``: the identity, or a balancer that acts on the views.

    Attributes:
        schema: The fitted schema.
        encoder: From a batch to ``[B, W]``; not where each task has one of its own.
        fork: From H views to H views.
        heads: One head per name.
        objectives: What the logits are trained on, in the order of the losses.
        view_features: D, the width of a view.

    Args:
        schema: The fitted schema.
        objectives: What the logits are trained on, in the order of the losses.
        encoder: Builds the encoder; ``None`` where a model builds its own.
    """

    encoder: FeatureEncoder

    def __init__(self, schema: FittedSchema, objectives: Sequence[Task], encoder: EncoderFactory | None) -> None:
        super().__init__()
        self.schema = schema
        self.objectives = tuple(objectives)
        if encoder is not None:
            self.encoder = encoder(schema)
        self.fork: Fork = Identity()
        self.heads = nn.ModuleDict()
        self.view_features = 0

    def build_heads(
        self,
        tasks: Sequence[Task],
        view_features: int,
        layers: Sequence[int],
        style: LayerStyle,
        towers: Mapping[str, Tower] | None,
    ) -> None:
        """Build one head per task.

        Args:
            tasks: What each head predicts by itself.
            view_features: D, the width of a view.
            layers: The hidden layers of the default tower.
            style: What stands around its linear layers.
            towers: Towers of one's own by the name of their head.

        Raises:
            ValueError: `towers` names no head, or a task's name cannot be that of a module.
        """
        own = towers or {}
        for name in own:
            if name not in [task.name for task in tasks]:
                names = ", ".join(task.name for task in tasks)
                raise ValueError(f"`towers` names {name!r}, but the heads are {names}")
        self.view_features = view_features
        for task in tasks:
            build = own.get(task.name)
            tower = build(view_features) if build else default_tower(view_features, layers, style)
            if hasattr(self.heads, task.name) or "." in task.name:
                raise ValueError(f"a task cannot be named {task.name!r}: its head is a module of that name")
            self.heads[task.name] = Head(task.name, tower, starting_bias(task, self.schema.rate(task)))

    @abstractmethod
    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Give one view of the shared representation per head, H times ``[B, D]``."""

    @abstractmethod
    def shared(self) -> Shared:
        """Name the tensors that more than one objective trains through the trunk: neither gates nor heads."""

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Give by head the weight of each expert in each row, ``{head: [B, E]}``; nothing where there are no gates."""
        return {}

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the logits of the heads into those of the model; the same by default."""
        return logits

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Give the logits of each task, ``{name: [B]}``, objectives included."""
        views = self.fork(self.trunk(batch))
        heads = zip(self.heads.items(), views, strict=True)
        return self.outputs({name: head(view) for (name, head), view in heads})

    def fold(self) -> Self:
        """Give a copy for export that predicts the same without a balancer: a rotation is taken into the towers."""
        model = copy.deepcopy(self, {id(self.schema): self.schema})
        heads = model.fork.fold(model.heads.values(), self.view_features)
        model.heads = nn.ModuleDict(dict(zip(model.heads, heads, strict=True)))
        model.fork = Identity()
        return model


def default_tower(in_features: int, layers: Sequence[int], style: LayerStyle) -> nn.Module:
    """Build an MLP with one output; its bias is the head's."""
    hidden = MLP(in_features, layers, style)
    last = style.linear(hidden.out_features, 1)
    last.bias = None  # type: ignore[assignment]  # the head has one
    return nn.Sequential(hidden, last)


def starting_bias(task: Task, rate: LabelRate) -> float:
    """Give the output that is right for a model that knows nothing but the label rate of the training rows.

    Log-odds for a binary task, the mean for a regression; 0 where there is no labelled row.
    """
    if rate.rows == 0:
        return 0.0
    if task.kind == "regression":
        return rate.mean
    positives = min(max(rate.mean * rate.rows, RARE), rate.rows - RARE)
    return math.log(positives / (rate.rows - positives))
