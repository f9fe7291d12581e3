"""PEPNet beside the paper's equations, row by row in float64."""

import pytest
import torch
from torch import Tensor

import recmtl
from recmtl.data import Batch
from recmtl.features.pooling import side_by_side
from recmtl.layers import LayerStyle
from recmtl.models.pepnet import ScalingGate
from tests.models.one_by_one import same_in_value_and_gradient
from tests.models.several_domains import batch_of, prepared, spread


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    return prepared()


def pepnet(data: recmtl.PreparedData, **options: object) -> recmtl.PEPNet:
    torch.manual_seed(0)
    return spread(recmtl.PEPNet(data.schema, layers=[6, 4], prior_width=3, gate_layer=5, **options))


def factors(gate: ScalingGate, prior: Tensor, x: Tensor) -> Tensor:
    """2 σ(W' relu(W [p, x] + b) + b') of one row."""
    hidden = gate.hidden.layers[0]
    inner = (hidden.weight @ torch.cat([prior, x.detach()]) + hidden.bias).relu()
    return 2 / (1 + (-(gate.output.weight @ inner + gate.output.bias)).exp())


def views_row_by_row(model: recmtl.PEPNet, batch: Batch, places: dict[str, slice], names: list[str]) -> list[Tensor]:
    """The view of each task."""
    encoded, priors = model.encoder(batch), side_by_side(model.prior, batch)
    views: list[list[Tensor]] = [[] for _ in model.networks]
    for row, prior in zip(encoded, priors, strict=True):
        x = factors(model.domain_gate, prior[places["country"]], row) * row
        personal = torch.cat([prior[places[name]] for name in names])
        for view, network, gates in zip(views, model.networks, model.gates, strict=True):
            h = x
            for layer, gate in zip(network, gates, strict=True):
                linear = layer.layers[0]
                h = factors(gate, personal, x) * (linear.weight @ h + linear.bias).relu()
            view.append(h)
    return [torch.stack(view) for view in views]


# The domain's embedding comes first, lists last.
PLACES = {"country": slice(0, 3), "user": slice(3, 6), "tags": slice(6, 9)}


@pytest.mark.parametrize("personal", [None, ["user", "tags"], ["country", "user"]], ids=str)
def test_views_are_those_of_the_equations(personal: list[str] | None, data: recmtl.PreparedData) -> None:
    model = pepnet(data, personal=personal)
    batch, _ = batch_of(data, 3, 5)
    twins = views_row_by_row(model, batch, PLACES, personal or ["country"])
    same_in_value_and_gradient(list(model.trunk(batch)), twins, list(model.parameters()))


def test_a_task_has_layers_and_gates_of_its_own(data: recmtl.PreparedData) -> None:
    model = pepnet(data)
    shared = {id(tensor.tensor) for tensor in model.shared().tensors}
    own = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) not in shared}
    assert own == {"networks", "gates", "heads"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "`layers` must hold at least one layer"),
        ({"prior_width": 0}, "`prior_width` must be at least 1, got 0"),
        ({"personal": ["price"]}, r"features with embeddings \(tags, user, country\), each once, got \['price'\]"),
        ({"personal": []}, r"each once, got \[\]"),
        ({"personal": "user"}, "must be a list of features .*, got 'user'"),
        ({"style": LayerStyle(ensemble=2)}, "PEPNet is one network and no ensemble"),
    ],
)
def test_says_what_is_wrong(options: dict[str, object], message: str, data: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=message):
        recmtl.PEPNet(data.schema, **options)


def test_an_unknown_domain_starts_from_an_embedding_of_zeros(data: recmtl.PreparedData) -> None:
    model = recmtl.PEPNet(data.schema, layers=[6], prior_width=3)
    batch, _ = batch_of(data, 3)
    prior = side_by_side(model.prior, batch)[:, :3]
    assert not prior[3].any()
    assert prior[:3].any()
