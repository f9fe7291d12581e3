"""FAMO: a step by hand, what it asks of a loop, and the second forward pass of the trainer."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import recmtl
from recmtl.balance import FAMO, BalancedModule
from recmtl.balance.weighting.famo import log_ratio
from recmtl.data import Loader
from recmtl.train import Step
from recmtl.train import step as step_module


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def tell(balancer, *values):
    balancer.after_step([torch.tensor(value, dtype=torch.float64) for value in values])


def test_a_step_by_hand():
    # z = ½, ½; z/L = ½, ⅛; c = 8/5
    balancer = FAMO(lr=0.1, decay=0.0)
    torch.testing.assert_close(step(balancer, 1.0, 4.0), torch.tensor([0.8, 0.2], dtype=torch.float64))
    tell(balancer, 0.5, 4.0)  # the first fell by log 2: δ = ¼·log 2, −¼·log 2, and Adam's first step is ∓lr
    torch.testing.assert_close(balancer.adam.mean[0].item(), 0.1 * math.log(2) / 4)
    torch.testing.assert_close(balancer.adam.values, torch.tensor([-0.1, 0.1], dtype=torch.float64))
    z = torch.tensor([-0.1, 0.1], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(step(balancer, 1.0, 1.0), z)


def test_the_logarithm_of_a_ratio_near_to_one_is_not_rounded():
    """Differences of logarithms would be off by up to 1 % here; far losses neither overflow nor underflow."""
    first = torch.tensor([0.003, 0.1, 2.0, 1e-30, 1e30, 3.0])
    second = torch.tensor([0.0030001, 0.0999999, 1.0, 1e30, 1e-30, 3.0])
    found = log_ratio(first, second)
    torch.testing.assert_close(found, (first.double() / second.double()).log().float(), rtol=3e-7, atol=0)
    assert abs((first.log() - second.log())[1] / found[1] - 1) > 0.01


def test_absent_and_negative_losses_take_no_part():
    balancer = FAMO()
    expected = step(FAMO(), 1.0, 4.0)
    for value in (0.0, -3.0):
        found = step(balancer, 1.0, value, 4.0)
        torch.testing.assert_close(found[[0, 2]], expected)
        tell(balancer, 0.5, value, 2.0)
    assert balancer.skipped.tolist() == [0, 1, 0]
    assert balancer.adam.updates.tolist() == [2, 0, 2]


def model_of_one_batch(method):
    torch.manual_seed(0)
    model = BalancedModule(nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 1)], method)
    x = torch.randn(8, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), lambda: [o.square().mean() for o in model(x)]


def test_a_loop_that_tells_no_losses_after_the_step_is_refused():
    model, optimizer, losses = model_of_one_batch(FAMO())
    for _ in range(3):  # before the weights move, passes may accumulate
        model.backward(losses())
    for _ in range(2):
        optimizer.step()
        model.after_step(losses())
        model.backward(losses())
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"call `after_step\(losses\)` with the same batch's losses"):
        model.backward(losses())
    with pytest.raises(RuntimeError, match="and there was none"):
        FAMO().after_step(losses())


@pytest.mark.parametrize("fused", [False, True])
def test_fused_optimizers_move_the_weights_visibly_too(fused):
    model, _, losses = model_of_one_batch(FAMO())
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)
    model.backward(losses())
    optimizer.step()
    with pytest.raises(RuntimeError, match="the weights have moved"):
        model.backward(losses())


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_trainer_tells_the_losses_under_the_updated_weights(aliexpress, precision, rows, monkeypatch):
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if rows else 1_000_000)
    torch.manual_seed(0)
    style = recmtl.LayerStyle(normalization="batch")
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8, 4], tower_layers=[4], style=style)
    balancer, told = FAMO(), []
    recmtl.Trainer(model, balancer, run=recmtl.RunConfig(progress=False, device="cpu"))
    after_step = balancer.after_step
    balancer.after_step = lambda losses: (told.append(list(losses.values())), after_step(losses))
    taken = Step(model.train(), balancer, recmtl.Optimization(batch_size=64, precision=precision), 20)
    steps = 0
    for batch in Loader(aliexpress.train, 64, seed=0).epoch():
        before = [float(loss) for loss in taken(batch)]
        if taken.taken:
            steps += 1
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                expected = model.losses(model(batch), batch)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            tolerance = 1e-2 if precision == "fp16" else 1e-6
            torch.testing.assert_close(torch.stack(told[-1]), torch.stack([*expected.values()]), rtol=tolerance, atol=0)
            assert [float(loss) for loss in told[-1]] != before
    assert len(told) == steps > 2
    assert balancer.adam.updates.tolist() == [steps, steps]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    passes = sum(1 for _ in Loader(aliexpress.train, 64, seed=0).epoch())
    assert norms
    assert {int(norm.num_batches_tracked) for norm in norms} == {passes}


@pytest.mark.parametrize(
    ("options", "message"), [({"lr": 0.0}, "`lr` must be positive"), ({"decay": -1.0}, "`decay` must be at least 0")]
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        FAMO(**options)


def test_new_shared_tensors_in_each_step_are_not_taken_for_moved_ones():
    balancer = FAMO()
    for _ in range(50):
        for _ in range(2):
            rows = torch.ones(2, requires_grad=True)  # gathered anew; its address may be that of the last ones
            balancer.backward([1 + rows[0], 2 + rows[1]], shared=[rows])
            with torch.no_grad():
                rows.add_(1.0)
        balancer.after_step([torch.tensor(1.0), torch.tensor(2.0)])
    assert balancer.adam.updates.tolist() == [50, 50]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda balancer: pickle.loads(pickle.dumps(balancer)), None])
def test_weights_that_are_loaded_or_copied_have_not_moved(copied):
    x, balancer = torch.ones(2, requires_grad=True), FAMO()
    balancer.backward([x[0], 2 * x[1]], shared=[x])
    saved = balancer.state_dict()
    with torch.no_grad():
        x.mul_(0.5)
    if copied:
        balancer = copied(balancer)
    else:
        balancer.load_state_dict(saved)
    balancer.backward([x[0], 2 * x[1]], shared=[x])
    assert x.grad.isfinite().all()
