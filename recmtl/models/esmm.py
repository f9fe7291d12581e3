"""ESMM: conversion rates learned from all rows, through the probability of click and conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class ESMM(RankingModel):
    """Entire space multi-task model (Ma et al., SIGIR 2018, eqs. 2–3): pCTCVR = pCTR · pCVR.

    Two towers on one encoder predict CTR and CVR; the losses are those of CTR and CTCVR over all rows, so that the CVR
    tower is never trained on clicked rows alone. The logits of all three are given.

    Args:
        schema: The fitted schema; it must have a funnel, and no task beside CTR, CVR and CTCVR.
        tower_layers: The hidden layers of the default towers.
        style: What stands around each linear layer.
        towers: Towers of one's own by the name of their head, CTR or CVR.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no funnel or another task, or `towers` names no head.
    """

    def __init__(
        self,
        schema: FittedSchema,
        tower_layers: Sequence[int] = (256, 128, 64),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        tasks = schema.schema.funnel_tasks
        if not tasks:
            raise ValueError("ESMM needs a schema with a `funnel`: the labels of click and conversion")
        for task in schema.schema.tasks:
            if task not in tasks:
                raise ValueError(
                    f"ESMM predicts the tasks of the funnel alone, but the schema has the task {task.name!r}"
                )
        ctr, cvr, ctcvr = tasks
        super().__init__(schema, (ctr, ctcvr), encoder)
        self._ctr, self._cvr, self._ctcvr = ctr.name, cvr.name, ctcvr.name
        self.build_heads((ctr, cvr), self.encoder.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Give the encoder's output, for the CTR and the CVR tower."""
        return (self.encoder(batch),) * 2

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the logit of CTCVR."""
        return logits | {self._ctcvr: product_logit(logits[self._ctr], logits[self._cvr])}

    def shared(self) -> Shared:
        """Name the encoder's tensors; nothing else lies before the fork, so they are also the last."""
        tensors = tuple(self.encoder.shared())
        return Shared(tensors, tuple(t.tensor for t in tensors))


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """Give the log-odds of σ(a)·σ(b), exact where the probabilities underflow.

    1/(σ(a)σ(b)) − 1 = e^−a + e^−b + e^−(a+b), so the log-odds are −logsumexp(−a, −b, −a−b).

    Shape:
        - inputs and output: ``[B]``
    """
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
