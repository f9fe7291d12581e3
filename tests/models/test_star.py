"""STAR beside the paper's equations, row by row in float64."""

import dataclasses
from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from together import place
from torch import Tensor

import recmtl
from recmtl.data import Batch, IdLists, Loader
from recmtl.features.pooling import side_by_side
from recmtl.layers import LayerStyle
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module
from tests.models.one_by_one import same_in_value_and_gradient
from tests.models.several_domains import batch_of, prepared, spread


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    return prepared()


def star(data: recmtl.PreparedData, **options: object) -> recmtl.STAR:
    torch.manual_seed(0)
    return spread(recmtl.STAR(data.schema, layers=[6, 4], auxiliary_layers=[5, 3], **options))


def logits_row_by_row(model: recmtl.STAR, batch: Batch, domains: list[int]) -> list[Tensor]:
    """The logit of each task: the star's, and the auxiliary network's, added up."""
    encoded, embedded = model.encoder(batch), side_by_side(model.domain_embedding, batch)
    found = []
    for head in model.heads.values():
        tower = head.tower[1].weight[0]  # one linear layer without a bias
        logits = []
        for x, e, domain in zip(encoded, embedded, domains, strict=True):
            h = x
            for layer in model.layers:
                known = domain < 2
                weight = layer.weight * layer.domain_weight[domain] if known else layer.weight
                bias = layer.bias + layer.domain_bias[domain] if known else layer.bias
                h = (weight @ h + bias).relu()
            beside = torch.cat([e, x])
            for linear in (model.auxiliary.layers[0], model.auxiliary.layers[2]):
                beside = F.linear(beside, linear.weight, linear.bias).relu()
            logits.append(tower[:4] @ h + tower[4:] @ beside + head.bias)
        found.append(torch.stack(logits))
    return found


@pytest.mark.parametrize("everywhere", [False, True], ids=["host", "device"])
def test_logits_are_those_of_the_equations(
    everywhere: bool, data: recmtl.PreparedData, request: pytest.FixtureRequest
) -> None:
    model = star(data, tower_layers=[])
    batch, domains = batch_of(data, 3, 5)
    assert {*domains} == {0, 1, 2}
    twins = logits_row_by_row(model, batch, domains)
    if everywhere:
        request.getfixturevalue("on_a_device")
    logits = model(batch)
    same_in_value_and_gradient([logits["click"], logits["like"]], twins, list(model.parameters()))


@pytest.mark.parametrize("cls", [recmtl.STAR, recmtl.PEPNet])
def test_a_step_never_waits_for_the_device(cls: type, data: recmtl.PreparedData, without_values: str) -> None:
    """With an objective per domain, too."""
    model = cls(data.schema, layers=[6, 4], tower_layers=[3])
    run = recmtl.RunConfig(device="cpu", progress=False)
    trainer = recmtl.Trainer(model, recmtl.PCGrad(), balance_domains=True, run=run)
    step = Step(trainer.model.to(without_values), trainer.balancer, Optimization(), 2)
    batch, _ = batch_of(data, 3)
    lists = tuple(own.to(without_values) for own in batch.lists)
    moved = (t.to(without_values) for t in (batch.ids, batch.numeric.float(), batch.labels))
    losses = step(Batch(*moved, lists=lists))
    assert losses.shape == (6,)


def test_a_domain_trains_its_own_weights_and_the_shared(data: recmtl.PreparedData) -> None:
    model = star(data)
    batch, domains = batch_of(data, 3)
    view = model.trunk(batch)[0]
    first = model.layers[0]
    for domain in range(3):
        own = torch.tensor([d == domain for d in domains])
        gradient, of_shared = torch.autograd.grad(
            view[own].sum(), [first.domain_weight, first.weight], retain_graph=True, materialize_grads=True
        )
        assert gradient.flatten(1).any(1).tolist() == [domain == 0, domain == 1]
        assert of_shared.any()


def test_every_weight_has_a_gradient_whatever_domains_a_process_has(data: recmtl.PreparedData) -> None:
    """So that several processes exchange the same tensors; also of rows of no training domain alone."""
    model = star(data)
    batch, _ = batch_of(data, *range(8))
    ids = batch.ids.clone()
    ids[:, data.schema.domain.block.start] = 0
    view = model.trunk(dataclasses.replace(batch, ids=ids))[0]
    layer = model.layers[0]
    of_domains, of_shared = torch.autograd.grad(view.sum(), [layer.domain_weight, layer.weight])
    assert not of_domains.any()
    assert of_shared.any()


@pytest.mark.parametrize("cls", [recmtl.STAR, recmtl.PEPNet])
def test_rows_of_tables_are_trained_as_whole_tables_are(
    cls: type, data: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr(step_module, "ROW_MODE", limit)
        torch.manual_seed(0)
        model = cls(data.schema, layers=[6, 4], tower_layers=[3])
        trainer = recmtl.Trainer(model, recmtl.MetaBalance(), run=recmtl.RunConfig(device="cpu", progress=False))
        step = Step(model, trainer.balancer, Optimization(optimizer=partial(torch.optim.SGD, lr=0.5), ema=0), 9)
        for batch in Loader(data.train, 40, seed=0).epoch():
            step(batch)
        trained.append(list(model.parameters()))
    torch.testing.assert_close(*trained)


def test_starts_as_the_shared_network(data: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model = recmtl.STAR(data.schema, layers=[6], tower_layers=[4]).double()
    batch, _ = batch_of(data)
    unknown, _ = batch_of(data, 0, 1)
    star_of = [model.trunk(rows)[0][:, :6] for rows in (batch, unknown)]
    block = data.schema.domain.block
    same = (batch.ids == unknown.ids).all(1)
    torch.testing.assert_close(star_of[0][same], star_of[1][same])
    assert block.length == 1


def test_predicts_a_domain_that_was_not_seen(data: recmtl.PreparedData) -> None:
    """By the shared weights, whatever the domain is called; and with the weights of a domain, something else."""
    trained = recmtl.Trainer(star(data).float(), epochs=1, run=recmtl.RunConfig(progress=False, device="cpu"))
    rows = pd.DataFrame({"user": [1, 1, 1], "price": 0.5, "tags": "a", "country": ["JP", "BR", "US"]})
    found = trained.predict(rows)
    assert found["click"][0] == found["click"][1] != found["click"][2]
    assert found["country"].tolist() == ["JP", "BR", "US"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "`layers` must hold at least one layer"),
        ({"auxiliary_layers": []}, "`auxiliary_layers` must hold at least one layer"),
        ({"style": LayerStyle(ensemble=2)}, "STAR is one network and no ensemble: leave out `style.ensemble`, got 2"),
    ],
)
def test_says_what_is_wrong(options: dict[str, object], message: str, data: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=message):
        recmtl.STAR(data.schema, **options)


@pytest.mark.parametrize("cls", [recmtl.STAR, recmtl.PEPNet])
def test_needs_a_domain(cls: type, small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} needs a schema with a `domain`"):
        cls(small.schema)


class Served(torch.nn.Module):
    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, ids: Tensor, numeric: Tensor, values: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        lists = (IdLists.of_lengths(values, lengths),)
        return self.model(Batch(ids, numeric, labels=numeric[:, :0], lists=lists))


def values_and_lengths(batch: Batch) -> tuple[Tensor, Tensor]:
    (tags,) = batch.lists
    return tags.values.clone(), tags.offsets.diff()


@pytest.mark.parametrize("cls", [recmtl.STAR, recmtl.PEPNet])
def test_exports_with_any_number_of_rows_and_folds(cls: type, data: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model = spread(cls(data.schema, layers=[4], tower_layers=[3]))
    model.fork = recmtl.RotoGrad(heads=2, features=model.view_features).double()
    batch, _ = batch_of(data, 3)
    folded = model.eval().fold()
    rows = {0: torch.export.Dim("rows")}
    inputs, few_rows = (
        (part.ids, part.numeric, *values_and_lengths(part)) for part in (batch, batch.part(place(0, 4)))
    )
    shapes = {"ids": rows, "numeric": rows, "values": {0: torch.export.Dim("values")}, "lengths": rows}
    program = torch.export.export(Served(folded), inputs, dynamic_shapes=shapes).module()
    for few in (inputs, few_rows):
        expected = Served(model)(*few)
        for name, logit in program(*few).items():
            torch.testing.assert_close(logit, expected[name], rtol=1e-10, atol=1e-12)
