"""Two libraries of balancers as peers: their step on this project's models, one call of their own for the gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

import recmtl
from benchmarks.generated import ENCODER
from recmtl.data import Batch
from recmtl.models import Losses
from recmtl.schema import FittedSchema


def torchjd_steps(schema: FittedSchema, given: Iterable[Batch]) -> Callable[[], None]:
    """PCGrad of TorchJD 0.18.0: `mtl_backward` at the views of MMOE, then its aggregator on the shared parameters."""
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    torch.manual_seed(0)
    model = recmtl.MMOE(schema, encoder=ENCODER)
    # It has no private parameters before the views: the gates count as shared.
    shared = [p for part in (model.encoder, model.experts, model.gates) for p in part.parameters()]
    tasks = [list(head.parameters()) for head in model.heads.values()]
    adam = torch.optim.Adam(model.parameters(), fused=True)
    losses, aggregator = Losses(schema, model.objectives), PCGrad()
    ready = itertools.cycle(given)

    def step() -> None:
        batch = next(ready)
        views = model.trunk(batch)
        logits = {name: head(view) for (name, head), view in zip(model.heads.items(), views, strict=True)}
        values = list(losses(logits, batch).values())
        adam.zero_grad()
        mtl_backward(values, views, tasks_params=tasks, shared_params=shared)
        jac_to_grad(shared, aggregator)
        adam.step()

    return step


def rotograd_steps(schema: FittedSchema, given: Iterable[Batch]) -> Callable[[], None]:
    """RotoGrad of its authors' package, rotograd 0.1.6.0, around the layers of SharedBottom."""
    from rotograd import RotoGrad

    torch.manual_seed(0)
    model = recmtl.SharedBottom(schema, encoder=ENCODER)
    backbone, heads = Backbone(model), list(model.heads.values())
    rotated = RotoGrad(backbone, heads, model.view_features)
    optimizers = [
        torch.optim.Adam([*backbone.parameters(), *(p for h in heads for p in h.parameters())], fused=True),
        torch.optim.Adam(rotated.parameters(), lr=1e-4, fused=True),
    ]
    losses, ready = Losses(schema, model.objectives), itertools.cycle(given)

    def step() -> None:
        batch = next(ready)
        logits: Sequence[Tensor] = rotated(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        rotated.backward(list(losses(dict(zip(model.heads, logits, strict=True)), batch).values()))
        for optimizer in optimizers:
            optimizer.step()

    return step


class Backbone(nn.Module):
    """What all heads of a shared-bottom model read."""

    def __init__(self, model: recmtl.SharedBottom) -> None:
        super().__init__()
        self.encoder, self.bottom = model.encoder, model.bottom

    def forward(self, batch: Batch) -> Tensor:
        view: Tensor = self.bottom(self.encoder(batch))
        return view
