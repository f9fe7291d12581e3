import copy

import pytest
import torch
from torch import nn

from recmtl.balance import BalancedModule, MetaBalance, NormalizedSplitter, PCGrad, RotoGrad, Sum


def parts():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh()), [nn.Linear(4, 1), nn.Linear(4, 2)]


X = torch.linspace(-1, 1, 15).view(5, 3)


def losses(model):
    a, b = model(X)
    return [a.square().mean(), (b - 1).square().mean()]


@pytest.mark.parametrize("balancer", [Sum, MetaBalance, PCGrad, NormalizedSplitter, RotoGrad])
def test_equals_fork_and_backward_by_hand(balancer):
    backbone, heads = parts()
    model = BalancedModule(copy.deepcopy(backbone), copy.deepcopy(heads), balancer())
    model.backward(losses(model))
    method, z = balancer(), backbone(X)
    a, b = (head(view) for head, view in zip(heads, method.fork([z, z]), strict=True))
    method.backward([a.square().mean(), (b - 1).square().mean()], list(backbone.parameters()))
    plain = [*backbone.parameters(), *(p for head in heads for p in head.parameters())]
    mine = [*model.backbone.parameters(), *model.heads.parameters()]
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(mine, plain, strict=True))


def test_a_branch_is_the_way_to_one_head():
    backbone, heads = parts()
    model = BalancedModule(backbone, heads, RotoGrad(heads=2, features=4))
    with torch.no_grad():
        for parameter in model.balancer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    for index in (0, 1, -1):
        assert torch.equal(model[index](X), model(X)[index])
    with pytest.raises(IndexError):
        model[2]


def test_everything_is_in_the_state_dict_and_the_callers_list_is_left_alone():
    backbone, heads = parts()
    model = BalancedModule(backbone, heads, RotoGrad(heads=2, features=4))
    assert {key.split(".")[0] for key in model.state_dict()} == {"backbone", "heads", "balancer"}
    assert len(heads) == 2
    assert heads[0] is model.heads[0]
    model.backward(losses(model))
    other = BalancedModule(*parts(), RotoGrad(heads=2, features=4))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X)[1], model(X)[1])


def test_needs_a_head():
    with pytest.raises(ValueError, match="`heads` must hold at least one module"):
        BalancedModule(nn.Linear(3, 4), [], Sum())
