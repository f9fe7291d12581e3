"""STEM: embeddings of each task beside shared ones; a task reads all, and trains its own and the shared."""

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


class STEM(RankingModel):
    r"""Shared and task-specific embeddings: every task reads all of them, and trains its own and the shared.

    Su, Pan, Wang, Chen, Wang, Chen, Xiao, Xu, Chen and Chen, "STEM: Unleashing the Power of Embeddings for Multi-task
    Recommendation", AAAI 2024: STEM-Net. There is an encoder with shared embeddings, of output $x^s$, and one per task,
    $x^k$; each has experts of its own, S^s and S^k. The gate of task k mixes all of them, but behind a stop-gradient
    (sg) those of other tasks: "all forward, task-specific backward".

    $$
    f^k(x) = \operatorname{softmax}\big(W^k (x^k + x^s)\big)\,
        \big[\operatorname{sg}(S^1), \ldots, S^k, \ldots, \operatorname{sg}(S^K), S^s\big]
    $$

    Shared and balanced are the shared embeddings and the shared experts. Use it where tasks see the same users or items
    in opposite ways, and memory holds K + 1 encoders for K tasks.

    Note:
        A gate reads the sum of two encodings, as in the authors' code.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        task_experts: The number of experts of each task.
        shared_experts: The number of shared experts.
        layers: The widths of each expert's layers.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers; see `Gates` for theirs.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoders.

    Raises:
        ValueError: `task_experts` or `shared_experts` is below 1, `layers` is empty, or `towers` names no task.

    Attributes:
        encoder: The encoder that all tasks train.
        task_encoders: The encoder of each task.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> model = STEM(data.schema, task_experts=2, shared_experts=1, layers=[32, 16])
        >>> {task: tuple(w.shape) for task, w in model.expert_usage(next(recmtl.Loader(data.train, 3).epoch())).items()}
        {'ctr': (3, 5), 'cvr': (3, 5)}
    """

    eye: Tensor

    def __init__(
        self,
        schema: FittedSchema,
        task_experts: int = 1,
        shared_experts: int = 2,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        super().__init__(schema, schema.schema.tasks, encoder)
        check_experts(layers, task_experts=task_experts, shared_experts=shared_experts)
        tasks, width = len(self.objectives), self.encoder.out_features
        self._counts = [tasks * task_experts, shared_experts]
        self.task_encoders = nn.ModuleList(encoder(schema) for _ in range(tasks))
        self.task_experts = nn.ModuleList(Experts(width, task_experts, layers, style) for _ in range(tasks))
        self.shared_experts = Experts(width, shared_experts, layers, style)
        self.gates = nn.ModuleList(Gates(width, 1, sum(self._counts), style) for _ in range(tasks))
        self.register_buffer("eye", torch.eye(tasks)[:, :, None], persistent=False)  # [K, K, 1]
        self.build_heads(self.objectives, layers[-1], tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each head's mixture of all experts."""
        own, common = self._encoded(batch)  # K of [B, W], [B, W]
        outputs = [experts(x) for experts, x in zip(self.task_experts, own, strict=True)]
        experts = torch.cat(outputs, 1)  # [B, K·own, D]
        of_tasks, of_shared = torch.split(self._gate(own, common), self._counts, 2)  # [B, K, K·own], [B, K, shared]
        of_tasks = torch.unflatten(of_tasks, 2, (len(outputs), -1))  # [B, K, K, own]
        of_own = of_tasks.diagonal(dim1=1, dim2=2).mT  # [B, K, own]
        of_others = (of_tasks * (1 - self.eye)).flatten(2)  # [B, K, K·own]
        mixed = own_mixtures(of_own, experts) + mixtures(of_others, experts.detach())  # [B, K, D]
        return (mixed + mixtures(of_shared, self.shared_experts(common))).unbind(1)

    def _encoded(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return the batch as each task encodes it, and as the shared encoder does."""
        return [encoder(batch) for encoder in self.task_encoders], self.encoder(batch)

    def _gate(self, own: Sequence[Tensor], common: Tensor) -> Tensor:
        """Return the weights of all experts for each task, ``[B, K, E]``."""
        return torch.cat([gate(x + common) for gate, x in zip(self.gates, own, strict=True)], 1)

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of each head's gate, ``{head: [B, E]}``: the experts of each task in turn, then shared."""
        gates = by_member(self._gate(*self._encoded(batch)), self.ensemble).mean(1)  # [B·k, H, E] -> [B, H, E]
        return dict(zip(self.heads, gates.unbind(1), strict=True))  # H of [B, E]

    def shared(self) -> Shared:
        """Return the parameters of the shared encoder and of the shared experts."""
        return Shared.of(self.encoder, self.shared_experts, last=self.shared_experts.last_weights)
