"""Layers of an ensemble equal k separate layers with the weights diag(s_i)·W·diag(r_i), in value and in gradient."""

import math

import pytest
import torch
from torch import Tensor, nn

from recmtl.layers import MLP, EnsembleInput, EnsembleLinear, EnsembleOutput, Experts, Gates, LayerStyle
from recmtl.layers.ensemble import mean_probability_logit

B, K, WIDTH = 5, 3, 4


def randomized(layer: nn.Module) -> nn.Module:
    """Return the layer in float64, with all its adapters different."""
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter)
    return layer


def alone(layer: EnsembleLinear, member: int, x: Tensor) -> Tensor:
    """Return what one member's layer makes of its rows, row by row of the equation."""
    outputs = []
    for stack, weight in enumerate(layer.weight.chunk(layer.stacked)):
        adapters = stack * K + member
        rows = [layer.s[adapters] * (weight @ (layer.r[adapters] * row)) + layer.bias[adapters] for row in x]
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("rows", [B, 1])
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("stacked", [1, 2])
def test_a_linear_layer_is_one_layer_per_member(expand: bool, stacked: int, rows: int) -> None:
    torch.manual_seed(0)
    layer = randomized(EnsembleLinear(WIDTH, 6, K, stacked, expand))
    x = torch.randn(rows if expand else rows * K, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = [alone(layer, i, x if expand else x[i::K]) for i in range(K)]
    found = layer(x)
    assert found.shape == (rows * K, 6 * stacked)
    for i in range(K):
        torch.testing.assert_close(found[i::K], expected[i], rtol=1e-12, atol=1e-12)
    target = torch.randn_like(found)
    leaves = [x, *layer.parameters()]
    mine = torch.autograd.grad((found * target).sum(), leaves)
    twin = torch.autograd.grad(sum((expected[i] * target[i::K]).sum() for i in range(K)), leaves)
    for a, b in zip(mine, twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_slice_of_wider_rows_and_no_rows_at_all() -> None:
    """As the experts read slices of one matrix, and a process can have no row of a batch."""
    torch.manual_seed(0)
    layer = randomized(EnsembleLinear(WIDTH, 6, K))
    wide = torch.randn(B * K, 2 * WIDTH, dtype=torch.float64, requires_grad=True)
    chunk = wide[:, WIDTH:]
    (found,) = torch.autograd.grad(layer(chunk).square().sum(), wide)
    (expected,) = torch.autograd.grad(layer(chunk.clone()).square().sum(), wide)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for expand in (True, False):
        empty = randomized(EnsembleLinear(WIDTH, 6, K, expand=expand))
        none = torch.zeros(0, WIDTH, dtype=torch.float64, requires_grad=True)
        empty(none).sum().backward()
        assert empty(none).shape == (0, 6)
        assert all(not parameter.grad.any() for parameter in empty.parameters())


def test_a_relu_writes_over_what_a_layer_has_made() -> None:
    assert not EnsembleLinear(WIDTH, 6, K, expand=True)(torch.zeros(B, WIDTH))._is_view()
    assert not EnsembleLinear(WIDTH, 6, K)(torch.zeros(B * K, WIDTH))._is_view()


@pytest.mark.parametrize("expand", [True, False])
def test_autocast_computes_in_lower_precision(expand: bool) -> None:
    torch.manual_seed(0)
    layer = randomized(EnsembleLinear(WIDTH, 6, K, expand=expand)).float()
    x = torch.randn(B if expand else B * K, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=0.05, atol=0.05)
    found.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_the_last_layer_has_weights_of_its_own_for_each_member() -> None:
    torch.manual_seed(0)
    layer, x = randomized(EnsembleOutput(WIDTH, K)), torch.randn(B * K, WIDTH, dtype=torch.float64)
    assert layer(x).shape == (B * K, 1)
    for i in range(K):
        torch.testing.assert_close(layer(x)[i::K, 0], x[i::K] @ layer.weight[i])


def test_an_ensemble_without_a_first_layer_scales_the_rows() -> None:
    layer, x = EnsembleInput(WIDTH, K), torch.randn(B, WIDTH)
    for i in range(K):
        assert torch.equal(layer(x)[i::K], x * layer.r[i])
    assert layer.r.abs().eq(1).all()
    assert layer.r.unique().numel() == 2


def test_adapters_start_as_in_the_paper() -> None:
    """Random signs in the first layer, 1 in all others; each member of an output layer as if it were alone."""
    first, hidden = (layer for layer in MLP(64, [8, 4], LayerStyle(ensemble=K)).layers if isinstance(layer, nn.Linear))
    assert first.r.abs().eq(1).all()
    assert first.r.unique().numel() == 2
    assert all(adapter.eq(1).all() for adapter in (first.s, hidden.r, hidden.s))
    assert first.bias.shape == (K, 8)
    bound = (6 / (100 + 1)) ** 0.5  # Glorot and Bengio, 2010, eq. 16, of a layer of 100 to 1
    weight = LayerStyle(ensemble=50).output(100).weight
    assert 0.98 * bound < weight.abs().max() <= bound


def test_members_start_with_the_bias_of_one_layer() -> None:
    torch.manual_seed(0)
    alone = LayerStyle(initialization="torch").linear(3, 2, stacked=2)
    torch.manual_seed(0)
    layer = LayerStyle(initialization="torch", ensemble=K).linear(3, 2, stacked=2)
    assert torch.equal(layer.weight, alone.weight)
    assert torch.equal(layer.bias.view(2, K, 2), alone.bias.view(2, 1, 2).expand(2, K, 2))


def test_one_member_is_the_ordinary_layer_with_the_same_random_numbers() -> None:
    torch.manual_seed(0)
    layer = LayerStyle(ensemble=1).linear(3, 2, expand=True)
    torch.manual_seed(0)
    assert torch.equal(layer.weight, LayerStyle().linear(3, 2).weight)
    assert type(layer) is nn.Linear
    assert isinstance(LayerStyle().expansion(3), nn.Identity)


def test_each_expert_has_adapters_of_its_own() -> None:
    """An expert of an ensemble equals an MLP of the ensemble."""
    torch.manual_seed(0)
    style, x = LayerStyle(ensemble=K, normalization="layer"), torch.randn(B, WIDTH, dtype=torch.float64)
    experts = randomized(Experts(WIDTH, 2, [6, 5], style))
    assert experts(x).shape == (B * K, 2, 5)
    assert Gates(WIDTH, 2, 4, style).double()(x).shape == (B * K, 2, 4)
    assert {shared.parts for shared in experts.shared_tensors()[:4]} == {2}
    own = slice(K, 2 * K)  # of the second expert
    mlp = MLP(WIDTH, [6, 5], style).double()
    first, norm = mlp.layers[0], mlp.layers[1][0]
    wide, stacked_norm = experts.wide, experts.after[0]._norm
    first.weight.data, first.bias.data = wide.weight.data[6:], wide.bias.data[own]
    first.r.data, first.s.data = wide.r.data[own], wide.s.data[own]
    norm.weight.data, norm.bias.data = stacked_norm.weight.data[6:], stacked_norm.bias.data[6:]
    for mine, theirs in zip(mlp.layers[2:].parameters(), experts.towers[1].parameters(), strict=True):
        mine.data = theirs.data
    torch.testing.assert_close(experts(x)[:, 1], mlp(x), rtol=1e-12, atol=1e-12)


def test_without_layers_an_mlp_expands_the_rows_where_it_is_asked_to() -> None:
    x, style = torch.randn(B, WIDTH), LayerStyle(ensemble=K)
    assert MLP(WIDTH, [], style)(x).shape == (B * K, WIDTH)
    assert torch.equal(MLP(WIDTH, [], style, expand=False)(x), x)
    assert torch.equal(MLP(WIDTH, [])(x), x)


def test_rows_that_are_not_those_of_all_members_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an ensemble of 3 must read 3 rows for each row of the batch, got 5 rows"):
        EnsembleLinear(WIDTH, 2, K)(torch.zeros(5, WIDTH))
    with pytest.raises(ValueError, match="`ensemble` must be at least 1, got 0"):
        LayerStyle(ensemble=0)


def test_the_logit_of_the_mean_probability() -> None:
    logits = torch.randn(7, K, dtype=torch.float64)
    expected = torch.logit(torch.sigmoid(logits).mean(1))
    torch.testing.assert_close(mean_probability_logit(logits), expected, rtol=1e-12, atol=1e-12)


def test_the_logit_of_the_mean_probability_is_exact_where_probabilities_underflow() -> None:
    logits = torch.tensor([[-1000.0, -1000.0], [1000.0, 1000.0], [-1000.0, 1000.0], [-1000.0, -2000.0], [1e4, 50.0]])
    expected = [-1000.0, 1000.0, 0.0, -1000.0 - math.log(2), 50.0 + math.log(2)]
    assert mean_probability_logit(logits).tolist() == pytest.approx(expected, rel=1e-6)
    assert mean_probability_logit(torch.tensor([[math.inf, math.inf], [math.inf, 0.0]])).tolist() == pytest.approx(
        [math.inf, math.log(3)]
    )
