"""An ensemble equals k separate networks with the weights diag(s_i)·W·diag(r_i), in value and in balanced gradient."""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl import balance
from recmtl.balance import Balancer, SharedTensor
from recmtl.balance.representation.base import RepresentationBalancer
from recmtl.data import Batch, Loader
from recmtl.layers import MLP, EnsembleInput, EnsembleLinear, EnsembleOutput, LayerStyle
from recmtl.models.esmm import product_logit

K = 3
SIZES = {"tower_layers": [5]}
MODELS = [
    (recmtl.SharedBottom, {"layers": [8, 6]}),
    (recmtl.SingleTask, {"layers": [8, 6]}),
    (recmtl.MMOE, {"layers": [8, 6], "experts": 3}),
    (recmtl.ESMM, {}),
    (recmtl.OMoE, {"layers": [8, 6], "experts": 3}),
    (recmtl.PLE, {"layers": [8, 6]}),
    (recmtl.STEM, {"layers": [8, 6]}),
    (recmtl.AITM, {"layers": [8, 6]}),
    (recmtl.ESCM2, {}),
]
SHARING = [MODELS[0], *MODELS[2:4], MODELS[5]]
each_model = pytest.mark.parametrize(("cls", "options"), MODELS, ids=[cls.__name__ for cls, _ in MODELS])
# Methods at the views see the rows of all members at once: separate networks have no such rows.
BALANCERS = [
    c
    for c in (getattr(balance, name) for name in balance.__all__)
    if isinstance(c, type) and issubclass(c, Balancer) and not inspect.isabstract(c)
]
BEFORE_THE_VIEWS = [c for c in BALANCERS if not issubclass(c, RepresentationBalancer)]


@pytest.fixture
def batch(aliexpress: recmtl.PreparedData) -> Batch:
    return double(next(Loader(aliexpress.train, 64, seed=0).epoch()))


def double(batch: Batch) -> Batch:
    return dataclasses.replace(batch, labels=batch.labels.double(), numeric=batch.numeric.double())


def ensemble(
    cls: type[recmtl.RankingModel], data: recmtl.PreparedData, options: Mapping[str, object], **style: object
) -> recmtl.RankingModel:
    """A model in float64 whose members differ in every adapter and in every weight of their own."""
    torch.manual_seed(0)
    model = cls(data.schema, **{**SIZES, **options}, style=LayerStyle(ensemble=K, **style)).double()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("r", "s") or (name == "bias" and parameter.dim()):
                nn.init.normal_(parameter, mean=1.0, std=0.5)
    return model


class Scaled(nn.Module):
    """One member of an expansion."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.r = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.r


def weights_of_member(model: recmtl.RankingModel, member: int) -> dict[str, Tensor]:
    """The weights of one member as a network of its own, by the equation."""
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, module in model.named_modules():
        if isinstance(module, EnsembleLinear):
            rows = [stack * K + member for stack in range(module.stacked)]
            pairs = zip(rows, module.weight.chunk(module.stacked), strict=True)
            stacked = [torch.diag(module.s[row]) @ w @ torch.diag(module.r[row]) for row, w in pairs]
            weights[f"{name}.weight"] = torch.cat(stacked)
            weights[f"{name}.bias"] = torch.cat([module.bias[row] for row in rows])
            del weights[f"{name}.r"], weights[f"{name}.s"]
        elif isinstance(module, EnsembleOutput):
            weights[f"{name}.weight"] = module.weight[member : member + 1]
        elif isinstance(module, EnsembleInput):
            weights[f"{name}.r"] = module.r[member]
    for name in model.heads:
        weights[f"heads.{name}.bias"] = model.heads[name].bias[member]
    return weights


def members(
    cls: type[recmtl.RankingModel], model: recmtl.RankingModel, options: Mapping[str, object], style: LayerStyle
) -> list[object]:
    """The members as functions from a batch to logits, differentiable in the weights of the ensemble."""
    alone = cls(model.schema, **{**SIZES, **options}, style=style).double()
    if isinstance(alone, recmtl.ESMM | recmtl.ESCM2):
        alone.expansion = Scaled(alone.encoder.out_features)
    return [
        lambda batch, i=i: torch.func.functional_call(alone, weights_of_member(model, i), (batch,), strict=True)
        for i in range(K)
    ]


def losses_of_members(model: recmtl.RankingModel, networks: list[object], batch: Batch) -> dict[str, Tensor]:
    losses = [model.losses(network(batch), batch) for network in networks]
    return {name: torch.stack([own[name] for own in losses]).mean() for name in losses[0]}


@pytest.mark.parametrize("normalization", ["none", "layer"])
@each_model
def test_logits_losses_and_gradients_are_those_of_separate_networks(
    cls: type, options: dict[str, object], normalization: str, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = ensemble(cls, aliexpress, options, normalization=normalization)
    networks = members(cls, model, options, LayerStyle(normalization=normalization))
    logits = model(batch)
    for i, network in enumerate(networks):
        for name, own in network(batch).items():
            torch.testing.assert_close(logits[name][:, i], own, rtol=1e-10, atol=1e-12)
    mine = model.losses(logits, batch)
    twin = losses_of_members(model, networks, batch)
    parameters = list(model.parameters())
    for name, loss in mine.items():
        torch.testing.assert_close(loss, twin[name], rtol=1e-12, atol=0)
        for found, expected in zip(
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True),
            torch.autograd.grad(twin[name], parameters, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            if expected is None or found is None:
                assert found is expected
            else:
                torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("balancer", BEFORE_THE_VIEWS)
@pytest.mark.parametrize(("cls", "options"), SHARING, ids=[cls.__name__ for cls, _ in SHARING])
def test_balanced_gradients_are_those_of_separate_networks(
    cls: type, options: dict[str, object], balancer: type, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = ensemble(cls, aliexpress, options)
    networks = members(cls, model, options, LayerStyle())
    mine, twin = balancer(), balancer()
    for _ in range(2):  # the second step has a state
        gradients = []
        for method, losses in (
            (mine, model.losses(model(batch), batch)),
            (twin, losses_of_members(model, networks, batch)),
        ):
            model.zero_grad()
            shared = model.shared()
            method.backward(losses, [SharedTensor(*s) for s in shared.tensors], shared.last)
            gradients.append([parameter.grad for parameter in model.parameters()])
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


@each_model
def test_predicts_the_mean_probability_of_the_members(
    cls: type, options: dict[str, object], aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = ensemble(cls, aliexpress, options)
    by_member = model(batch)
    predicted = model.eval()(batch)
    means = {name: by_member[name].sigmoid().mean(1) for name in model.heads if name in predicted}
    assert {"ctr"} < {*means}
    for name, mean in means.items():
        torch.testing.assert_close(predicted[name].sigmoid(), mean)
    assert all(logit.shape == (64,) for logit in predicted.values())
    if cls in (recmtl.ESMM, recmtl.ESCM2):  # pCTR·pCVR = pCTCVR holds for the means, too
        assert torch.equal(predicted["ctcvr"], product_logit(predicted["ctr"], predicted["cvr"]))


def test_predicts_the_mean_of_a_regression(small: recmtl.PreparedData) -> None:
    model = recmtl.SharedBottom(small.schema, layers=[4], style=LayerStyle(ensemble=K))
    batch = next(Loader(small.train, 16).epoch())
    by_member = model(batch)["stay"]
    torch.testing.assert_close(model.eval()(batch)["stay"], by_member.mean(1))


def test_the_weight_of_an_expert_is_the_mean_over_the_members(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    cls, options = MODELS[2]
    model = ensemble(cls, aliexpress, options)
    usage = model.expert_usage(batch)
    gates = model.gates(model.encoder(batch))  # [B·k, H, E]
    for head, name in enumerate(model.heads):
        torch.testing.assert_close(usage[name], sum(gates[i::K, head] for i in range(K)) / K)


class Product(nn.Module):
    """An own tower with a linear layer that reads the view."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, view: Tensor) -> Tensor:
        return self.linear(view).tanh()


@pytest.mark.parametrize("tower_layers", [[5], []])
@pytest.mark.parametrize("balancer", [balance.RotoGrad, balance.RotateOnly, balance.RotoGradNorm])
def test_folding_a_rotation_is_exact(
    balancer: type, tower_layers: list[int], aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    cls, options = MODELS[0]
    model = ensemble(cls, aliexpress, options | {"tower_layers": tower_layers, "towers": {"ctcvr": Product}}).eval()
    model.fork = balancer(heads=2, features=model.view_features).double()
    with torch.no_grad():
        for parameter in model.fork.parameters():
            parameter.normal_()
    folded = model.fold()
    assert not any(name.startswith("fork") for name, _ in folded.named_parameters())
    for name, logit in model(batch).items():
        torch.testing.assert_close(folded(batch)[name], logit, rtol=1e-10, atol=1e-12)
    direct = not tower_layers  # the last layers have no adapters that stand between view and weight
    assert isinstance(folded.heads["ctr"], nn.Sequential) != direct
    assert not isinstance(folded.heads["ctcvr"], nn.Sequential)


def test_folding_as_trained_and_from_a_run_folder(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    def trainer() -> recmtl.Trainer:
        torch.manual_seed(0)
        model = recmtl.MMOE(aliexpress.schema, experts=2, layers=[8, 6], style=LayerStyle(ensemble=K))
        run = recmtl.RunConfig(progress=False, device="cpu", folder=tmp_path / "run")
        return recmtl.Trainer(model, recmtl.RotoGrad(), epochs=1, gradient_stats_every=2, run=run)

    trained = trainer().fit(aliexpress.train, aliexpress.valid)
    loaded = trainer().load()
    pd.testing.assert_frame_equal(loaded.predict(aliexpress.test), trained.predict(aliexpress.test))
    folded, batch = trained.model.fold().eval(), next(Loader(aliexpress.test, 64).epoch())
    for name, logits in trained.model.eval()(batch).items():
        torch.testing.assert_close(folded(batch)[name], logits, rtol=1e-4, atol=1e-5)


class Served(nn.Module):
    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, ids: Tensor, numeric: Tensor) -> dict[str, Tensor]:
        return self.model(Batch(ids, numeric, labels=numeric[:, :0]))


@each_model
def test_exports_with_any_number_of_rows(
    cls: type, options: dict[str, object], aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = ensemble(cls, aliexpress, options)
    rows = {0: torch.export.Dim("rows")}
    inputs = (batch.ids.clone(), batch.numeric.clone())
    program = torch.export.export(Served(model), inputs, dynamic_shapes={"ids": rows, "numeric": rows}).module()
    for few in (batch.ids[:7], batch.numeric[:7]), (batch.ids[:1], batch.numeric[:1]):
        expected = Served(model)(*few)
        for name, logit in program(*few).items():
            torch.testing.assert_close(logit, expected[name], rtol=1e-10, atol=1e-12)


class TwoStacks(recmtl.RankingModel):
    """A model of a user's own, one MLP after another."""

    def __init__(self, schema: recmtl.FittedSchema, style: LayerStyle, heads: LayerStyle, **second: bool) -> None:
        super().__init__(schema)
        self.first = MLP(self.encoder.out_features, [6], style)
        self.second = MLP(6, [5], style, **second)
        self.build_heads(self.objectives, 5, [4], heads)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.second(self.first(self.encoder(batch))),) * len(self.heads)

    def shared(self) -> recmtl.Shared:
        return recmtl.Shared.of(self.encoder, self.first, self.second)


def test_an_own_model_expands_once(aliexpress: recmtl.PreparedData) -> None:
    batch, style = next(Loader(aliexpress.train, 8).epoch()), LayerStyle(ensemble=K)
    assert TwoStacks(aliexpress.schema, style, style, expand=False)(batch)["ctr"].shape == (8, K)
    twice = r"views of 24 rows for 8 rows and an ensemble of 3, got 72: .* all others `expand=False`"
    with pytest.raises(ValueError, match=twice):
        TwoStacks(aliexpress.schema, style, style)(batch)
    with pytest.raises(ValueError, match=r"views of 8 rows for 8 rows and an ensemble of 1, got 24: `build_heads`"):
        TwoStacks(aliexpress.schema, style, LayerStyle(), expand=False)(batch)
    with pytest.raises(ValueError, match=r"views of 24 rows for 8 rows and an ensemble of 3, got 8"):
        TwoStacks(aliexpress.schema, LayerStyle(), style)(batch)


def test_an_own_tower_that_expands_again_is_named(aliexpress: recmtl.PreparedData) -> None:
    style = LayerStyle(ensemble=K)
    towers = {"ctr": lambda features: MLP(features, [1], style)}
    model = recmtl.SharedBottom(aliexpress.schema, layers=[4], style=style, towers=towers)
    with pytest.raises(ValueError, match=r"the tower of head 'ctr' must map \[24, 4\] to \[24\] .* got \[72, 1\]"):
        model(next(Loader(aliexpress.train, 8).epoch()))


def test_one_network_has_no_adapters(aliexpress: recmtl.PreparedData) -> None:
    """Also the random numbers are those of a model without the option."""
    for cls, options in MODELS:
        torch.manual_seed(0)
        plain = cls(aliexpress.schema, **{**SIZES, **options})
        torch.manual_seed(0)
        one = cls(aliexpress.schema, **{**SIZES, **options}, style=LayerStyle(ensemble=1))
        assert plain.state_dict().keys() == one.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), one.parameters(), strict=True))
