"""PLE: experts of each task beside shared ones, in several levels; one level is CGC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import Experts, Gates, LayerStyle
from recmtl.layers.ensemble import by_member
from recmtl.layers.experts import check_experts, mixtures, own_mixtures
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class PLE(RankingModel):
    r"""Progressive layered extraction: each task has experts of its own beside the shared ones, in several levels.

    Tang, Liu, Zhao and Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations", RecSys 2020, equations 1 to 6. At level j the gate of task k mixes the outputs
    S^{k,j} of its own experts and of the shared ones; its experts and its gate read its mixture of the level below:

    $$
    g^{k,j}(x) = \operatorname{softmax}\big(W^{k,j}\, g^{k,j-1}(x)\big)\, S^{k,j}(x), \qquad g^{k,0}(x) = x
    $$

    The shared experts read the mixture of a shared gate, which mixes the experts of all tasks. At the last level there
    is none, and head k reads $g^{k,N}(x)$. One level is the paper's CGC (customized gate control).

    Below the last level the shared gate passes the experts of a task on to all tasks: they are shared, too, and
    balanced. A task's own are only its experts of the last level and its gates of the last two. Use it where MMOE gains
    one task what another loses.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        levels: The number of levels, N.
        task_experts: The number of experts of each task in each level.
        shared_experts: The number of shared experts in each level.
        layers: The widths of each expert's layers, in each level.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers; see `Gates` for theirs.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: `levels`, `task_experts` or `shared_experts` is below 1, `layers` is empty, or `towers` names no
            task.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> model = PLE(data.schema, levels=2, task_experts=1, shared_experts=2, layers=[32, 16])
        >>> {task: tuple(w.shape) for task, w in model.expert_usage(next(recmtl.Loader(data.train, 3).epoch())).items()}
        {'ctr': (3, 3), 'cvr': (3, 3)}
    """

    def __init__(
        self,
        schema: FittedSchema,
        levels: int = 2,
        task_experts: int = 1,
        shared_experts: int = 2,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        super().__init__(schema, schema.schema.tasks, encoder)
        check_experts(layers, levels=levels, task_experts=task_experts, shared_experts=shared_experts)
        counts = len(self.objectives), task_experts, shared_experts
        widths = [self.encoder.out_features, *[layers[-1]] * (levels - 1)]
        below = [LowerLevel(width, *counts, layers, style, not i) for i, width in enumerate(widths[:-1])]
        self.levels = nn.ModuleList(below)
        self.last = LastLevel(widths[-1], *counts, layers, style, not below)
        self.build_heads(self.objectives, layers[-1], tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each head's mixture of the last level."""
        return self.last(self._below(batch))  # type: ignore[no-any-return]

    def _below(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the last level reads: each task's mixture and the shared one, or the encoded batch alone."""
        mixed: tuple[Tensor, ...] = (self.encoder(batch),)  # [B, W]
        for level in self.levels:
            mixed = level(mixed)  # K + 1 of [B, D]
        return mixed

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of each head's gate of the last level, ``{head: [B, E]}``: its own experts, then shared.

        E is the number of a task's own experts and of the shared ones together.
        """
        gates = by_member(self.last.gate(self._below(batch)), self.ensemble).mean(1)  # [B·k, H, E] -> [B, H, E]
        return dict(zip(self.heads, gates.unbind(1), strict=True))  # H of [B, E]

    def shared(self) -> Shared:
        """Return the parameters of the encoder, of all lower levels but a task's last gates, and of shared experts."""
        lower = [level for level in self.levels if isinstance(level, LowerLevel)]
        modules = [module for i, level in enumerate(lower, 1) for module in level.shared(gates=i < len(lower))]
        return Shared.of(self.encoder, *modules, self.last.common, last=self.last.common.last_weights)


class LowerLevel(nn.Module):
    """A level of PLE below the last one: experts, a gate per task, and a shared gate that mixes all experts.

    Shape:
        - input: K + 1 tensors ``[B, W]``, those of the tasks and the shared one; at the first level one for all
        - output: K + 1 tensors ``[B, D]``, or ``[B·k, D]`` for an ensemble of k

    Args:
        in_features: W, the width of the inputs.
        tasks: K, the number of tasks.
        own: The number of experts of each task.
        common: The number of shared experts.
        sizes: The widths of each expert's layers.
        style: Normalisation, activation, dropout, initialisation and ensemble.
        first: Whether this is the first level, whose experts and gates all read one input and are stacked.
    """

    eye: Tensor

    def __init__(
        self, in_features: int, tasks: int, own: int, common: int, sizes: Sequence[int], style: LayerStyle, first: bool
    ) -> None:
        super().__init__()
        experts = [tasks * own + common] if first else [*[own] * tasks, common]
        self._counts = [own, common]
        self.experts = nn.ModuleList(Experts(in_features, count, sizes, style, first) for count in experts)
        self.gates = task_gates(in_features, tasks, own + common, style, first)
        self.shared_gate = Gates(in_features, 1, tasks * own + common, style, first)
        self.register_buffer("eye", torch.eye(tasks)[:, :, None], persistent=False)  # [K, K, 1]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the mixture of each task, then the shared one."""
        outputs = [experts(x) for experts, x in zip(self.experts, inputs, strict=True)]  # each [B, experts, D]
        experts = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)  # [B, E, D]
        own, common = torch.split(gate_weights(self.gates, inputs), self._counts, 2)  # [B, K, own], [B, K, common]
        own = (own[:, :, None] * self.eye).flatten(2)  # [B, K, K·own]: no weight of the other tasks' experts
        of_tasks = torch.cat([own, common], 2)  # [B, K, E]
        gates = torch.cat([of_tasks, self.shared_gate(inputs[-1])], 1)  # [B, K + 1, E]
        return mixtures(gates, experts).unbind(1)

    def shared(self, gates: bool) -> list[nn.Module]:
        """Return the modules that several tasks train: the tasks' gates if two or more levels follow."""
        return [self.experts, *([self.gates] if gates else []), self.shared_gate]


class LastLevel(nn.Module):
    """The last level of PLE, or its only one: each task's experts and gate are its own, the other experts shared.

    Shape:
        - input: K + 1 tensors ``[B, W]``, those of the tasks and the shared one; at the first level one for all
        - output: K tensors ``[B, D]``, or ``[B·k, D]`` for an ensemble of k

    Args:
        in_features: W, the width of the inputs.
        tasks: K, the number of tasks.
        own: The number of experts of each task.
        common: The number of shared experts.
        sizes: The widths of each expert's layers.
        style: Normalisation, activation, dropout, initialisation and ensemble.
        first: Whether this is the first level, whose experts and gates all read one input and are stacked.
    """

    def __init__(
        self, in_features: int, tasks: int, own: int, common: int, sizes: Sequence[int], style: LayerStyle, first: bool
    ) -> None:
        super().__init__()
        experts = [tasks * own] if first else [own] * tasks
        self._counts = [own, common]
        self.own = nn.ModuleList(Experts(in_features, count, sizes, style, first) for count in experts)
        self.common = Experts(in_features, common, sizes, style, first)
        self.gates = task_gates(in_features, tasks, own + common, style, first)

    def gate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the weights of each task's own experts and of the shared ones, ``[B, K, own + common]``."""
        return gate_weights(self.gates, inputs)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the mixture of each task."""
        own, common = torch.split(self.gate(inputs), self._counts, 2)  # [B, K, own], [B, K, common]
        # No product of a task's gradient and another's experts, not even one by zero: it could be NaN.
        by_group = zip(own.chunk(len(self.own), 1), self.own, inputs, strict=False)
        mixed = [own_mixtures(gates, experts(x)) for gates, experts, x in by_group]
        of_own = mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1)  # [B, K, D]
        return (of_own + mixtures(common, self.common(inputs[-1]))).unbind(1)


def task_gates(in_features: int, tasks: int, experts: int, style: LayerStyle, first: bool) -> nn.ModuleList:
    """Build a gate per task, stacked in one layer at the first level."""
    counts = [tasks] if first else [1] * tasks
    return nn.ModuleList(Gates(in_features, count, experts, style, first) for count in counts)


def gate_weights(gates: nn.ModuleList, inputs: Sequence[Tensor]) -> Tensor:
    """Return the weights of all gates, ``[B, K, experts]``, each for its input."""
    weights = [gate(x) for gate, x in zip(gates, inputs, strict=False)]  # the last input is the shared gate's
    return weights[0] if len(weights) == 1 else torch.cat(weights, 1)
