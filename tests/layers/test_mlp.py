import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recmtl.layers import MLP, LayerStyle
from recmtl.layers.mlp import ReLU


def test_layers_follow_the_order_linear_norm_activation_dropout() -> None:
    mlp = MLP(4, [3], LayerStyle(normalization="batch", dropout=0.1, activation="gelu"))
    linear, after = mlp.layers
    assert isinstance(linear, nn.Linear)
    assert [type(m) for m in after] == [nn.BatchNorm1d, nn.GELU, nn.Dropout]


def test_without_layers_it_is_the_identity() -> None:
    mlp, x = MLP(4, []), torch.randn(2, 4)
    assert torch.equal(mlp(x), x)
    assert mlp.out_features == 4
    assert mlp.last_weights == ()


def test_last_weight_is_that_of_the_last_layer() -> None:
    (weight,) = MLP(4, [3, 2]).last_weights
    assert weight.shape == (2, 3)


def test_stacked_initialisation_equals_that_of_layers_that_stand_alone() -> None:
    bound = (6 / (100 + 20)) ** 0.5  # Glorot and Bengio, 2010, eq. 16, of one layer of 100 to 20
    weight = LayerStyle().linear(100, 20, stacked=8).weight
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.98 * bound


@pytest.mark.parametrize(
    "options",
    [{"normalization": "instance"}, {"activation": "step"}, {"initialization": "ones"}, {"dropout": 1.0}],
)
def test_bad_options_say_what_is_accepted(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        LayerStyle(**options)


def test_layer_norm_of_stacked_layers_equals_separate_ones() -> None:
    style, x = LayerStyle(normalization="layer"), torch.randn(5, 12)
    stacked = style.after(4, stacked=3)[0](x)
    alone = torch.cat([nn.LayerNorm(4)(chunk) for chunk in x.chunk(3, dim=1)], dim=1)
    torch.testing.assert_close(stacked, alone)


def test_relu_leaves_views_and_hooks_alone() -> None:
    """Written over is only what a layer has made; a view of something else is not."""
    x = torch.tensor([[-1.0, 2.0]])
    assert ReLU()(x[:, :1]).tolist() == [[0.0]]
    assert x.tolist() == [[-1.0, 2.0]]
    mlp, seen = MLP(2, [3, 1]), []
    mlp.layers[0].register_full_backward_hook(lambda _, into, out: seen.append(out[0]))
    mlp(torch.randn(4, 2, requires_grad=True)).sum().backward()
    assert seen[0].shape == (4, 3)


@pytest.mark.parametrize(("width", "padded"), [(2111, 2112), (2112, 2112), (100, 100)])
def test_a_gpu_pads_large_products_by_zeros(
    width: int, padded: int, on_a_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whole numbers, whose sums are exact, output and gradients are the same to the last bit."""
    layer = LayerStyle().linear(width, 512)
    layer.weight.data.mul_(1000).round_()
    x = torch.randint(-9, 10, (3, width)).float().requires_grad_()
    multiplied: list[int] = []
    monkeypatch.setattr(F, "linear", lambda x, *rest: multiplied.append(x.shape[1]) or torch._C._nn.linear(x, *rest))
    output = layer(x)
    assert multiplied == [padded]
    expected = x @ layer.weight.T + layer.bias
    assert torch.equal(output, expected)
    target = torch.randint(-9, 10, (3, 512)).float()
    tensors = (x, layer.weight, layer.bias)
    found = torch.autograd.grad((output * target).sum(), tensors)
    for mine, theirs in zip(found, torch.autograd.grad((expected * target).sum(), tensors), strict=True):
        assert torch.equal(mine, theirs)


def test_padding_is_in_neither_the_state_nor_the_first_weights(on_a_device: None) -> None:
    torch.manual_seed(0)
    layer = LayerStyle().linear(2111, 512)
    layer(torch.zeros(3, 2111)).sum().backward()
    torch.manual_seed(0)
    plain = torch.nn.Linear(2111, 512)
    torch.nn.init.xavier_uniform_(plain.weight)
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {"weight": (512, 2111), "bias": (512,)}
    assert torch.equal(layer.weight, plain.weight)
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous()
