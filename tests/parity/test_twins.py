"""A model laid out for speed with its balancer trains as a net of separate modules with the balancer's naive twin.

One wide layer for all experts and one flat table for all features are, part by part, separate tensors; over 12 steps in
float64 all gradients, weights and rotations stay equal. `pytest -s` prints the largest relative error of each method.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from torch import Tensor, nn
from twins import BALANCERS, TWINS, Pass, Twin, rotation_optimizers, twin_of

import recmtl
from recmtl.balance import Balancer, RepresentationBalancer, SharedTensor, Sizes
from recmtl.data import Batch, Loader
from recmtl.features import table_rows as rows_module
from recmtl.features.table_rows import DistinctIds, distinct_ids, padded
from recmtl.layers import MLP
from recmtl.models import Losses, RankingModel
from recmtl.models.esmm import product_logit
from recmtl.train.step import in_row_mode

STEPS, ROWS, RATE, ROTATION_RATE, LIMIT = 12, 24, 0.05, 0.04, 1e-10
MODELS = [recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM]
# Options are tried with MMOE, which has every kind of part, and those of views with ESMM, too, whose heads and
# objectives differ; to all other options a model is a list of tensors.
SETTINGS = [
    pytest.param(cls, case, id=f"{cls.__name__}-{case}")
    for cls in MODELS
    for case in CASES
    if cls is recmtl.MMOE
    or case == Case(case.method, {})
    or (cls is recmtl.ESMM and issubclass(case.method, RepresentationBalancer))
]
# One of each kind, by whose arithmetic bfloat16 passes; what it rounds in a model's layers no balancer changes.
KINDS = (recmtl.Sum, recmtl.GradNorm, recmtl.MetaBalance, recmtl.NormalizedSplitter, recmtl.RotoGrad)
RELU, SMOOTH = recmtl.LayerStyle(), recmtl.LayerStyle(activation="tanh")


class Separate(nn.Module):
    """A net of separate tensors with the weights of a ranking model: an embedding per feature, a module per expert."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        (table,) = model.encoder.tables
        sizes = [block.size for block in model.schema.id_blocks]
        self.embeddings = nn.ParameterList(nn.Parameter(t.clone()) for t in table.weight.detach().split(sizes))
        knots = [len(model.schema.quantiles[feature.name]) for feature in model.schema.numeric]
        self.knots = nn.ParameterList(
            nn.Parameter(t.clone()) for t in model.encoder.numeric.weight.detach().split(knots)
        )
        self.starts = [block.start for block in model.schema.id_blocks]
        self.heads = copy.deepcopy(model.heads)
        self.trunk = copy.deepcopy(getattr(model, "bottom", None))
        self.experts = separate_experts(model) if isinstance(model, recmtl.MMOE) else None
        self.gates = copy.deepcopy(getattr(model, "gates", None))
        self.objectives = Losses(model.schema, model.objectives)
        self.names = [task.name for task in model.objectives]

    def views(self, batch: Batch) -> list[Tensor]:
        columns = zip(self.embeddings, self.starts, strict=True)
        embedded = [table[batch.ids[:, start].long()] for table, start in columns]
        embedded += [between(knots, batch.numeric[:, i]) for i, knots in enumerate(self.knots)]
        x = torch.cat(embedded, dim=1)
        if self.experts is not None:
            outputs, weights = [expert(x) for expert in self.experts], self.gates(x)
            return [sum(weights[:, h, e, None] * o for e, o in enumerate(outputs)) for h in range(len(self.heads))]
        return [self.trunk(x) if self.trunk is not None else x] * len(self.heads)

    def losses(self, views: list[Tensor], batch: Batch) -> list[Tensor]:
        logits = {name: head(view) for (name, head), view in zip(self.heads.items(), views, strict=True)}
        if "ctcvr" not in logits:
            logits["ctcvr"] = product_logit(logits["ctr"], logits["cvr"])
        losses = self.objectives(logits, batch)
        return [losses[name] for name in self.names]

    def shared(self) -> list[Tensor]:
        modules = [m for m in (self.embeddings, self.knots, self.trunk, self.experts) if m is not None]
        return [p for module in modules for p in module.parameters()]

    def last(self) -> list[Tensor]:
        if self.experts is not None:
            return [w for expert in self.experts for w in expert.last_weights]
        return list(self.trunk.last_weights) if self.trunk is not None else [*self.embeddings, *self.knots]

    def through(self, batch: Batch) -> Pass:
        private = [p for module in (self.heads, self.gates) if module is not None for p in module.parameters()]
        tables = [*self.embeddings, *self.knots]
        return Pass(
            self.views(batch), lambda views: self.losses(views, batch), self.shared(), private, self.last(), tables
        )


def between(knots: Tensor, x: Tensor) -> Tensor:
    """The embedding of numbers `[B]` on the scale of the knots, from -1 to 1: `[B, d]`."""
    place = (x + 1) / 2 * (len(knots) - 1)
    before = place.floor().clamp(0, len(knots) - 2)
    share = (place - before)[:, None]
    return (1 - share) * knots[before.long()] + share * knots[before.long() + 1]


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


def set_together(net: Separate, of: object) -> dict[str, Tensor]:
    """What `of` takes of each tensor of the separate net, as the fast layout has it."""
    found = {"table": torch.cat([of(p) for p in net.embeddings]), "knots": torch.cat([of(p) for p in net.knots])}
    if net.experts is not None:
        found["wide"] = torch.cat([of(expert.layers[0].weight) for expert in net.experts])
        found["wide bias"] = torch.cat([of(expert.layers[0].bias) for expert in net.experts])
        found["last"] = torch.stack([of(expert.layers[2].weight) for expert in net.experts])
        found["last bias"] = torch.stack([of(expert.layers[2].bias) for expert in net.experts])
    for name, module in (("heads", net.heads), ("trunk", net.trunk), ("gates", net.gates)):
        if module is not None:
            found |= {f"{name}.{key}": of(p) for key, p in module.named_parameters()}
    return found


def laid_out(model: RankingModel, of: object) -> dict[str, Tensor]:
    found = {"table": of(model.encoder.tables[0].weight), "knots": of(model.encoder.numeric.weight)}
    if isinstance(model, recmtl.MMOE):
        found["wide"], found["wide bias"] = of(model.experts.wide.weight), of(model.experts.wide.bias)
        found["last"] = torch.stack([of(w) for w in model.experts.last_weights])
        found["last bias"] = torch.stack([of(tower.layers[0].bias) for tower in model.experts.towers])
    for name, attribute in (("heads", "heads"), ("trunk", "bottom"), ("gates", "gates")):
        if hasattr(model, attribute):
            found |= {f"{name}.{key}": of(p) for key, p in getattr(model, attribute).named_parameters()}
    return found


def weight_of(parameter: Tensor) -> Tensor:
    return parameter.detach()


def gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the expected; 0 where both are zero."""
    difference, size = (found - expected).norm().item(), expected.norm().item()
    if difference == 0:
        return 0.0
    return difference / size if size and math.isfinite(difference) else math.inf


def largest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert set(found) == set(expected)
    return max(error(found[name], expected[name]) for name in found)


def descend(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
    module.zero_grad()


@pytest.fixture(scope="module")
def funnel(csv: Path) -> recmtl.PreparedData:
    """Three tasks, one of them on clicked rows alone."""
    schema = recmtl.Schema(
        features=[
            *(recmtl.Categorical(f"categorical_{i}", width=3) for i in (1, 2, 3)),
            *(recmtl.Numeric(f"numerical_{i}") for i in (1, 2, 3)),
        ],
        tasks=[
            recmtl.Task("ctr", "click"),
            recmtl.Task("cvr", "conversion", given="click"),
            recmtl.Task("ctcvr", "conversion"),
        ],
        funnel=recmtl.Funnel("click", "conversion"),
    )
    return recmtl.prepare(schema, csv / "train.csv", csv / "valid.csv")


def batches(data: recmtl.PreparedData, cooperative: bool) -> Iterator[Batch]:
    """In some batches a task has no valid row.

    Cooperation compares the rotation loss with the task's own, and there is none while a task is alone.
    """
    click, conversion = (data.schema.schema.labels.index(name) for name in ("click", "conversion"))
    for step, batch in enumerate(Loader(data.train, ROWS, seed=0).epoch()):
        labels = batch.labels.clone()
        if step % 4 == 1:
            labels[:, click] = 0
        elif step % 4 == 2 and not cooperative:
            labels[:, conversion] = torch.nan
        elif step % 8 == 3 and not cooperative:
            labels[:, click] = torch.nan
        yield replace(batch, labels=labels, numeric=batch.numeric.double())


def built(cls: type[RankingModel], data: recmtl.PreparedData, style: recmtl.LayerStyle = RELU) -> RankingModel:
    torch.manual_seed(0)
    options = {"tower_layers": [8]} if cls is recmtl.ESMM else {"layers": [12, 8], "tower_layers": [6]}
    model = cls(data.schema, style=style, **options).double()
    with torch.no_grad():
        model.encoder.numeric.weight.normal_()
        model.encoder.tables[0].weight.normal_()  # so that the embeddings matter from the first step on
    return model


@pytest.fixture(scope="module")
def errors() -> Iterator[dict[str, float]]:
    """The largest relative error of each method, printed at the end."""
    found: dict[str, float] = {}
    yield found
    for name, value in found.items():
        print(f"\n{name:20} {value:.1e}", end="")  # noqa: T201


def test_every_balancer_has_a_twin() -> None:
    assert set(TWINS) == set(BALANCERS)


def take(model: RankingModel, balancer: Balancer, batch: Batch) -> None:
    """One balanced pass, as the trainer takes it."""
    for table in (table for table in model.encoder.tables if table.row_mode):
        table.start_row_mode()
    views = balancer.fork(model.trunk(batch))
    logits = model.outputs({name: head(view) for (name, head), view in zip(model.heads.items(), views, strict=True)})
    shared, losses = model.shared(), Losses(model.schema, model.objectives)
    balancer.backward(losses(logits, batch), [SharedTensor(*tensor) for tensor in shared.tensors], shared.last)
    for table in (table for table in model.encoder.tables if table.row_mode):
        assert table.weight.grad is None
        table.weight.grad = torch.zeros_like(table.weight)
        table.gathered.put(table.weight.grad, gradient_of(table.gathered.rows))


def trained(model: RankingModel, balancer: Balancer, net: Separate, twin: Twin, steps: list[Batch]) -> Iterator[float]:
    """Trains both and gives the relative errors on the way and at the end."""
    optimizers = rotation_optimizers(balancer, twin, ROTATION_RATE)
    for number, batch in enumerate(steps):
        twin(net.through(batch))
        take(model, balancer, batch)
        yield largest(laid_out(model, gradient_of), set_together(net, gradient_of))
        if twin.rotations:
            (rotations,) = balancer.parameters()
            yield error(rotations.grad, torch.stack([p.grad for p in twin.rotations]))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        descend(model)
        descend(net)
        again = net.through(batch)
        losses = again.losses(again.views)
        balancer.after_step(losses)
        twin.after_step([loss.item() for loss in losses])
        if number % 5 == 4:
            balancer.end_epoch()
            twin.end_epoch()
    yield largest(laid_out(model, weight_of), set_together(net, weight_of))
    if twin.weights is not None:
        yield error(balancer.weights, twin.weights)
    if twin.rotations:
        yield error(balancer.rotation(), twin.matrices())
        assert (twin.matrices() - torch.eye(len(twin.matrices()[0]))).norm() > 0.3


def sizes_of(model: RankingModel, net: Separate) -> Sizes:
    elements = sum(tensor.elements for tensor in model.shared().tensors)
    return Sizes(len(model.objectives), len(model.heads), model.view_features, len(net.shared()), elements)


def worst_error(cls: type[RankingModel], case: Case, data: recmtl.PreparedData, row_mode: bool) -> float:
    model = built(cls, data)
    net = Separate(model)
    sizes = sizes_of(model, net)
    balancer = case.balancer(sizes, net.names)
    steps = list(itertools.islice(batches(data, case.cooperative), STEPS))
    assert len(steps) == STEPS
    with in_row_mode(model.encoder.tables if row_mode else []):
        return max(trained(model, balancer, net, twin_of(balancer, sizes), steps))


@pytest.mark.parametrize(("cls", "case"), SETTINGS)
def test_equals_the_naive_twin(
    cls: type[RankingModel], case: Case, funnel: recmtl.PreparedData, errors: dict[str, float]
) -> None:
    worst, name = worst_error(cls, case, funnel, row_mode=False), case.method.__name__
    errors[name] = max(errors.get(name, 0.0), worst)
    assert worst <= LIMIT


@pytest.mark.parametrize(
    ("cls", "find", "method"),
    [  # every balancer with exact slots: test_parts.py
        *((recmtl.MMOE, padded, method) for method in BALANCERS),
        *((recmtl.MMOE, distinct_ids, method) for method in KINDS),
        *((recmtl.ESMM, padded, method) for method in KINDS),
    ],
    ids=lambda f: f.__name__,
)
def test_row_mode_equals_the_naive_twin(
    cls: type[RankingModel],
    method: type[Balancer],
    find: Callable[[Tensor, int], DistinctIds],
    funnel: recmtl.PreparedData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With exact slots, as on a CPU, and with spare ones, as on a GPU; in ESMM the views are rows of the table."""
    monkeypatch.setattr(rows_module, "distinct_ids", find)
    assert worst_error(cls, Case(method, {}), funnel, row_mode=True) <= LIMIT


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        pytest.param(cls, method, id=f"{cls.__name__}-{method.__name__}")
        for cls in MODELS
        for method in (BALANCERS if cls is recmtl.MMOE else KINDS)
    ],
)
def test_bf16_is_the_float64_step_up_to_its_rounding(
    cls: type[RankingModel], method: type[Balancer], funnel: recmtl.PreparedData
) -> None:
    """bfloat16 has 8 bits: a rounding is up to 0.4 %, and a gradient passes through some ten.

    Without the kink of a ReLU, where a rounding switches a unit off, and the signs of GradDrop, which it can exchange.
    """
    options: dict[str, object] = {"leak": 1.0} if method is recmtl.GradDrop else {}
    exact, rounded = built(cls, funnel, SMOOTH), built(cls, funnel, SMOOTH).float()
    sizes = sizes_of(exact, Separate(exact))
    balancers = [Case(method, options).balancer(sizes, [task.name for task in exact.objectives]) for _ in range(2)]
    for batch in itertools.islice(batches(funnel, cooperative=False), STEPS):
        take(exact, balancers[0], batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            take(rounded, balancers[1], replace(batch, numeric=batch.numeric.float()))
        found, expected = (torch.cat([gradient_of(p).flatten() for p in m.parameters()]) for m in (rounded, exact))
        assert error(found, expected) < 0.03
        for model, balancer in zip((exact, rounded), balancers, strict=True):
            descend(model)
            with torch.no_grad():
                again = replace(batch, numeric=batch.numeric.to(weight_of(next(model.parameters())).dtype))
                balancer.after_step(model.losses(model(again), again))
    assert error(balancers[1].weights, balancers[0].weights) < 0.03
