"""Training in fp16: the steps of fp32, but for those that overflow, which change nothing."""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer
from recmtl.data import Batch, Loader
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module

ADAM = partial(torch.optim.Adam, lr=0.003)
SGD = partial(torch.optim.SGD, lr=0.3)  # Adam makes a full step of any rounded gradient
every_balancer = pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)


def prepared(
    data: recmtl.PreparedData, method: type[Balancer], precision: Any, towers: Any = None, **options: Any
) -> tuple[Step, recmtl.RankingModel]:
    """A step on a CPU, which only the trainer refuses."""
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[16, 8], towers=towers)
    trainer = recmtl.Trainer(model, method(), run=recmtl.RunConfig(device="cpu"))
    optimization = Optimization(precision=precision, **({"optimizer": ADAM} | options))
    return Step(trainer.model, trainer.balancer, optimization, 40), model.train()


def scale_to(step: Step, scale: float) -> None:
    state = step.state_dict()
    step.load_state_dict(state | {"loss_scale": state["loss_scale"] | {"scale": scale}})


def scale_of(step: Step) -> float:
    return float(step.state_dict()["loss_scale"]["scale"])


def weights_of(model: recmtl.RankingModel) -> Tensor:
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if not name.startswith("fork.")])


@pytest.fixture
def batches(aliexpress: recmtl.PreparedData) -> list[Batch]:
    return list(Loader(aliexpress.train, 200, seed=0).epoch())


@pytest.mark.parametrize(
    ("method", "row_mode"),
    [
        *((method, True) for method in BALANCERS),
        *((method, False) for method in (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.RotoGrad)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "rows" if value else "dense",
)
def test_steps_are_those_of_fp32(
    method: type[Balancer],
    row_mode: bool,
    aliexpress: recmtl.PreparedData,
    batches: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With products in fp32 no rounding hides a gradient, of a table or a rotation, that is scaled wrongly."""
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    monkeypatch.setattr(step_module, "autocast", lambda *_: contextlib.nullcontext())
    found = {}
    for precision in ("fp32", "fp16"):
        step, model = prepared(aliexpress, method, precision, clip_norm=1.0)
        losses = [step(batch, with_stats=number == 3) for number, batch in enumerate(batches[:6])]
        found[precision] = torch.stack(losses), step.gradient_stats, model.state_dict()
        assert step.taken
    torch.testing.assert_close(found["fp16"], found["fp32"], rtol=1e-4, atol=1e-6)


@every_balancer
def test_trains_as_fp32_to_its_rounding(
    method: type[Balancer], aliexpress: recmtl.PreparedData, batches: list[Batch]
) -> None:
    """bf16, with three bits less, moves the weights of these steps by up to 22 % of the way elsewhere.

    Steps that are as long as ever where the gradients are small go to and fro at this rate, and end elsewhere.
    """
    rate = 0.03 if method in (recmtl.FairGrad, recmtl.NashMTL) else 1.0
    optimizer = partial(SGD, lr=rate * SGD.keywords["lr"])
    moves = {}
    for precision in ("fp32", "fp16"):
        step, model = prepared(aliexpress, method, precision, optimizer=optimizer)
        start = weights_of(model)
        for batch in batches[:8]:
            step(batch)
        moves[precision] = weights_of(model) - start
    assert (moves["fp16"] - moves["fp32"]).norm() < 0.1 * moves["fp32"].norm()


@every_balancer
def test_a_step_that_overflows_changes_nothing_but_the_scale(
    method: type[Balancer], aliexpress: recmtl.PreparedData, batches: list[Batch]
) -> None:
    step, model = prepared(aliexpress, method, "fp16", schedule="linear")
    for batch in batches[:3]:
        step(batch)
    scale_to(step, 2.0**28)
    before = copy.deepcopy((model.state_dict(), step.state_dict()))
    rate = step.learning_rate
    step(batches[3])
    assert not step.taken
    assert scale_of(step) == 2.0**27
    model_state, state = before
    assert all(torch.equal(tensor, model_state[name]) for name, tensor in model.state_dict().items())
    assert step.learning_rate == rate
    torch.testing.assert_close(step.state_dict()["optimizers"], state["optimizers"], rtol=0.0, atol=0.0)
    torch.testing.assert_close(step.state_dict()["average"], state["average"], rtol=0.0, atol=0.0)
    assert step.nonfinite.events() == []
    while not step.taken:
        step(batches[3])
    assert 1 < scale_of(step) < 2.0**27
    assert step.nonfinite.steps == 3 + 28 - torch.tensor(scale_of(step)).log2() + 1


class Planted(nn.Module):
    """A tower whose output is always NaN."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, view: Tensor) -> Tensor:
        return self.linear(view) * torch.nan


def test_what_no_scale_mends_is_counted(aliexpress: recmtl.PreparedData, batches: list[Batch]) -> None:
    """After 17 halvings from 2¹⁶; the training then ends as in other precisions."""
    step, _ = prepared(aliexpress, recmtl.MetaBalance, "fp16", towers={"ctr": Planted}, nonfinite_steps=5)
    for _ in range(16):
        step(batches[0])
    assert scale_of(step) == 1.0
    assert step.nonfinite.events() == []
    for _ in range(5):
        step(batches[0])
    event = next(event for event in step.nonfinite.events() if event.name.startswith("heads.ctr"))
    assert (event.steps, event.first, event.reached) == (5, 17, 21)


def test_resumes_with_its_scale(aliexpress: recmtl.PreparedData, batches: list[Batch]) -> None:
    step, model = prepared(aliexpress, recmtl.NormalizedSplitter, "fp16")
    scale_to(step, 2.0**30)
    for batch in batches[:6]:
        step(batch)
    other, twin = prepared(aliexpress, recmtl.NormalizedSplitter, "fp16")
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    assert scale_of(other) == scale_of(step) < 2.0**30
    for batch in batches[6:10]:
        assert step(batch).equal(other(batch))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    with pytest.raises(ValueError, match="'scale' of the loss scale is str 'large', expected float"):
        scale_to(other, "large")  # type: ignore[arg-type]


def test_a_later_training_in_fp32_knows_no_scaler(aliexpress: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    trainer = recmtl.Trainer(
        recmtl.SharedBottom(aliexpress.schema), recmtl.PCGrad(), run=recmtl.RunConfig(device="cpu")
    )
    Step(trainer.model, trainer.balancer, Optimization(precision="fp16"), 1)
    assert trainer.balancer.scaler is not None
    Step(trainer.model, trainer.balancer, Optimization(), 1)
    assert trainer.balancer.scaler is None


def test_is_for_a_gpu(aliexpress: recmtl.PreparedData) -> None:
    model, options = recmtl.SharedBottom(aliexpress.schema), Optimization(precision="fp16")
    with pytest.raises(ValueError, match="`precision` 'fp16' is for a CUDA device, got 'cpu': take 'fp32' or 'bf16'"):
        recmtl.Trainer(model, optimization=options, run=recmtl.RunConfig(device="cpu"))


def test_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="`cuda_graph` cannot record steps in 'fp16'"):
        Optimization(precision="fp16", cuda_graph=True)
    assert Optimization(precision="fp16").cuda_graph is None
