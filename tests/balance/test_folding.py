"""What a fork does to the views, taken into the heads."""

import pytest
import torch
from torch import nn

from recmtl.balance import BalancedModule, NormalizedSplitter, PCGrad, RotateOnly

D = 6


class Gated(nn.Module):
    """Two linear layers read the view."""

    def __init__(self):
        super().__init__()
        self.value, self.gate = nn.Linear(D, 3), nn.Linear(D, 3)

    def forward(self, view):
        return self.value(view) * self.gate(view).sigmoid()


class Residual(nn.Module):
    """The view also goes around its linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, view):
        return view + self.layer(view)


class Tied(nn.Module):
    """The layer that reads the view reads something else, too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, view):
        return self.layer(self.layer(view).relu())


class Offset(nn.Module):
    """A way around the layer, small beside a large output."""

    def __init__(self, offset, share, opens_at):
        super().__init__()
        self.layer, self.offset, self.share, self.opens_at = nn.Linear(D, D), offset, share, opens_at

    def forward(self, view):
        return self.layer(view) + self.share * (view - self.opens_at).relu() + self.offset


class Bound(nn.Module):
    """Works in float32 alone."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 1)

    def forward(self, view):
        return self.layer(view) @ torch.ones(1, 1)


ABSORBING = {
    "linear": lambda: nn.Linear(D, 1),
    "mlp": lambda: nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 1)),
    "gated": Gated,
}
OTHER = {
    "residual": Residual,
    "tied": Tied,
    "normalised first": lambda: nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 1)),
    "normalised weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D, 1)),
    "weak way around": lambda: Offset(1e5, 1e-4, 0.0),
    "way around for large views": lambda: Offset(0.0, 1.0, 6.0),
    "without weights": lambda: nn.Softmax(1),
}


def turned(heads=2, size=None):
    balancer = RotateOnly(heads=heads, features=D, rotation_size=size)
    with torch.no_grad():
        for parameter in balancer.parameters():
            parameter.normal_()
    return balancer


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("name", [*ABSORBING, *OTHER])
def test_folded_heads_read_plain_views(name, size, dtype):
    torch.manual_seed(0)
    head = (ABSORBING | OTHER)[name]().to(dtype).eval()
    balancer, z = turned(size=size), torch.randn(7, D, dtype=dtype)
    if dtype == torch.float64:
        balancer.double()
    weights = [p.clone() for p in head.parameters()]
    random = torch.get_rng_state()
    folded = balancer.fold([head, head], D)
    assert torch.equal(random, torch.get_rng_state())
    assert all(map(torch.equal, weights, head.parameters()))
    for result, view in zip(folded, balancer.fork([z, z]), strict=True):
        torch.testing.assert_close(result(z), head(view))
        assert (parameters(result) == parameters(head)) == (name in ABSORBING)
        assert not torch.equal(result(z), head(z))


def test_worked_by_hand():
    balancer, head = RotateOnly(heads=1, features=2), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        balancer.rotations.weight.copy_(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]))  # a quarter turn
        head.weight.copy_(torch.tensor([[3.0, 4.0]]))
    (R,) = balancer.rotation()
    torch.testing.assert_close(R, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    torch.testing.assert_close(balancer.fold([head], 2)[0].weight, torch.tensor([[4.0, -3.0]]))  # W·R


def test_a_head_bound_to_a_precision_keeps_it():
    head, balancer, z = Bound(), turned(1), torch.randn(7, D)
    (folded,) = balancer.fold([head], D)
    torch.testing.assert_close(folded(z), head(balancer.fork([z])[0]))


def test_keeps_mode_and_what_is_frozen():
    head = ABSORBING["mlp"]()
    head[0].requires_grad_(False)
    mean = head[1].running_mean.clone()
    (folded,) = turned(1).fold([head], D)
    assert folded.training
    assert head.training
    assert [p.requires_grad for p in folded.parameters()] == [p.requires_grad for p in head.parameters()]
    assert torch.equal(folded[1].running_mean, mean)


@pytest.mark.parametrize("method", [PCGrad, NormalizedSplitter, RotateOnly])
def test_without_a_turn_heads_are_copied(method):
    head = nn.Linear(D, 1)
    (folded,) = method().fold([head], D)
    assert folded is not head
    assert torch.equal(folded.weight, head.weight)


def test_another_number_of_heads_is_refused():
    with pytest.raises(ValueError, match="made for 2 heads"):
        turned().fold([nn.Linear(D, 1)], D)


def test_a_module_folds():
    torch.manual_seed(0)
    model = BalancedModule(nn.Linear(3, D), [nn.Linear(D, 1), Gated()], turned())
    folded, x = model.fold(D), torch.randn(5, 3)
    for found, expected in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert not any(name.startswith("balancer") for name, _ in folded.named_parameters())
    folded.backbone.weight.data.zero_()
    assert model.backbone.weight.any()
