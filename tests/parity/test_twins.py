"""A model laid out for speed trains as the same net built from separate modules does, whatever the balancer.

One wide layer for all experts and one flat table for all features are, part by part, separate tensors: over 20 steps in
float64 all weights stay equal.
"""

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl import balance
from recmtl.balance import Leaf
from recmtl.data import Batch, Loader
from recmtl.layers import MLP
from recmtl.models import RankingModel
from recmtl.models.esmm import product_logit
from recmtl.train import Losses

STEPS, RATE = 20, 0.05
BALANCERS = [
    c
    for c in (getattr(balance, name) for name in balance.__all__)
    if isinstance(c, type) and issubclass(c, balance.Balancer) and not inspect.isabstract(c)
]


class Separate(nn.Module):
    """A net of separate tensors with the weights of a ranking model: an embedding per feature, a module per expert."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        (table,) = model.encoder.tables
        sizes = [block.size for block in model.schema.id_blocks]
        self.embeddings = nn.ParameterList(nn.Parameter(t.clone()) for t in table.weight.detach().split(sizes))
        self.starts = [block.start for block in model.schema.id_blocks]
        self.heads = copy.deepcopy(model.heads)
        self.trunk = copy.deepcopy(getattr(model, "bottom", None))
        self.experts = separate_experts(model) if isinstance(model, recmtl.MMOE) else None
        self.gates = copy.deepcopy(getattr(model, "gates", None))

    def views(self, batch: Batch) -> list[Tensor]:
        columns = zip(self.embeddings, self.starts, strict=True)
        x = torch.cat([table[batch.ids[:, start].long()] for table, start in columns] + [batch.numeric], dim=1)
        if self.experts is not None:
            outputs, weights = [expert(x) for expert in self.experts], self.gates(x)
            return [sum(weights[:, h, e, None] * o for e, o in enumerate(outputs)) for h in range(len(self.heads))]
        return [self.trunk(x) if self.trunk is not None else x] * len(self.heads)

    def shared(self) -> list[Tensor]:
        modules = [m for m in (self.embeddings, self.trunk, self.experts) if m is not None]
        return [p for module in modules for p in module.parameters()]

    def last(self) -> list[Tensor]:
        if self.experts is not None:
            return [w for expert in self.experts for w in expert.last_weights]
        return list(self.trunk.last_weights) if self.trunk is not None else list(self.embeddings)


def separate_experts(model: recmtl.MMOE) -> nn.ModuleList:
    wide, count = model.experts.wide, model.experts.experts
    experts = nn.ModuleList()
    for index in range(count):
        width = wide.out_features // count
        expert = MLP(wide.in_features, [width, model.experts.out_features]).double()
        chunk = slice(index * width, (index + 1) * width)
        with torch.no_grad():
            expert.layers[0].weight.copy_(wide.weight[chunk])
            expert.layers[0].bias.copy_(wide.bias[chunk])
            for mine, theirs in zip(
                expert.layers[2].parameters(), model.experts.towers[index].parameters(), strict=True
            ):
                mine.copy_(theirs)
        experts.append(expert)
    return experts


def flat(net: Separate) -> dict[str, Tensor]:
    """The weights of the separate net, set together as the fast layout has them."""
    weights = {"table": torch.cat(list(net.embeddings))}
    if net.experts is not None:
        weights["wide"] = torch.cat([expert.layers[0].weight for expert in net.experts])
        weights["last"] = torch.stack([expert.layers[2].weight for expert in net.experts])
    weights |= {f"heads.{name}": p for name, p in net.heads.named_parameters()}
    for name in ("trunk", "gates"):
        if getattr(net, name) is not None:
            weights |= {f"{name}.{key}": p for key, p in getattr(net, name).named_parameters()}
    return weights


def laid_out(model: RankingModel) -> dict[str, Tensor]:
    weights = {"table": model.encoder.tables[0].weight}
    if isinstance(model, recmtl.MMOE):
        weights["wide"] = model.experts.wide.weight
        weights["last"] = torch.stack(list(model.experts.last_weights))
        weights |= {f"gates.{key}": p for key, p in model.gates.named_parameters()}
    if isinstance(model, recmtl.SharedBottom):
        weights |= {f"trunk.{key}": p for key, p in model.bottom.named_parameters()}
    return weights | {f"heads.{name}": p for name, p in model.heads.named_parameters()}


def descend(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
                parameter.grad = None


def built(cls: type[RankingModel], data: recmtl.PreparedData) -> RankingModel:
    torch.manual_seed(0)
    options = {"tower_layers": [8]} if cls is recmtl.ESMM else {"layers": [12, 8], "tower_layers": [6]}
    model = cls(data.schema, **options).double()
    with torch.no_grad():
        model.encoder.tables[0].weight.normal_()  # so that the embeddings matter from the first step on
    return model


@pytest.mark.parametrize("method", BALANCERS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("cls", [recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM], ids=lambda c: c.__name__)
def test_equals_separate_modules(cls: type[RankingModel], method: type, aliexpress: recmtl.PreparedData) -> None:
    model = built(cls, aliexpress)
    net, fast, plain = Separate(model), method(), method()
    losses = Losses(model.schema.schema, model.objectives)
    batches = list(Loader(aliexpress.train, 120, seed=0).epoch())[:STEPS]
    assert len(batches) == STEPS
    model.fork, net.fork = fast, plain  # so that rotations move, too
    for batch in batches:
        shared = model.shared()
        fast.backward(losses(model(batch), batch), [Leaf(*s) for s in shared.tensors], shared.last)
        views = plain.fork(net.views(batch))
        logits = {name: head(view) for (name, head), view in zip(net.heads.items(), views, strict=True)}
        if cls is recmtl.ESMM:
            logits["ctcvr"] = product_logit(logits["ctr"], logits["cvr"])
        plain.backward(losses(logits, batch), net.shared(), net.last())
        descend(model)
        descend(net)
    expected = flat(net)
    weights = laid_out(model)
    assert set(weights) == set(expected)
    for name, weight in weights.items():
        error = (weight - expected[name]).norm() / expected[name].norm()
        assert error < 1e-10, name
