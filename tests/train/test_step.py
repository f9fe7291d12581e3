"""The step on devices other than a CPU: it never waits, and a GPU computes the same as a CPU."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer
from recmtl.data import Batch, Loader
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module
from recmtl.train.cuda_graph import sync_debug_mode

KINDS = (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.NormalizedSplitter, recmtl.RotoGrad)
# Every balancer has the tensors of one model, and leaves of rows with those of another; the rest is one of each kind.
CASES = [
    (cls, method, row_mode)
    for cls in (recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM)
    for row_mode in (False, True)
    for method in (BALANCERS if (cls, row_mode) in {(recmtl.SharedBottom, False), (recmtl.MMOE, True)} else KINDS)
]
ADAM = partial(torch.optim.Adam, lr=0.01, eps=1e-6)
every_case = pytest.mark.parametrize(
    ("cls", "method", "row_mode"),
    CASES,
    ids=lambda value: value.__name__ if isinstance(value, type) else "rows" if value else "dense",
)


def prepared(
    data: recmtl.PreparedData, cls: type, method: type[Balancer], device: str, dtype: torch.dtype, steps: int
) -> tuple[Step, recmtl.RankingModel]:
    torch.manual_seed(0)
    trainer = recmtl.Trainer(cls(data.schema), method(), run=recmtl.RunConfig(device="cpu"))
    model = trainer.model.to(device, dtype)
    options = Optimization(optimizer=ADAM, clip_norm=1.0, schedule="linear")
    return Step(model, trainer.balancer, options, steps), model


def moved(batch: Batch, device: str, dtype: torch.dtype) -> Batch:
    return Batch(batch.ids.to(device), batch.numeric.to(device, dtype), batch.labels.to(device, dtype))


@every_case
def test_no_step_reads_a_value_from_the_device(
    cls: type,
    method: type[Balancer],
    row_mode: bool,
    aliexpress: recmtl.PreparedData,
    without_values: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    step, _ = prepared(aliexpress, cls, method, without_values, torch.float32, 3)
    for batch in itertools.islice(Loader(aliexpress.train, 50).epoch(), 3):
        losses = step(moved(batch, without_values, torch.float32))
    assert losses.shape == (2,)
    assert losses.device.type == without_values


@pytest.mark.gpu
@every_case
def test_a_gpu_step_equals_a_cpu_step_and_never_waits(
    cls: type, method: type[Balancer], row_mode: bool, aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first four steps warm up and record; none of the later ones may wait."""
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    batches = list(Loader(aliexpress.train, 50, seed=0).epoch())[:25]
    found: dict[str, tuple[list[Tensor], dict[str, Tensor]]] = {}
    for device in ("cpu", "cuda"):
        step, model = prepared(aliexpress, cls, method, device, torch.float64, len(batches))
        on_device = [moved(batch, device, torch.float64) for batch in batches]
        losses = [step(batch) for batch in on_device[:4]]
        if device == "cuda":
            with sync_debug_mode("error"):
                losses += [step(batch) for batch in on_device[4:]]
        else:
            losses += [step(batch) for batch in on_device[4:]]
        found[device] = [loss.cpu() for loss in losses], {n: t.cpu() for n, t in model.state_dict().items()}
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-7, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 0.01), ("bf16", 0.02), ("fp16", 0.01)])
def test_a_gpu_trains_in_every_precision(precision: str, tolerance: float, aliexpress: recmtl.PreparedData) -> None:
    def losses(device: str, precision: str) -> Tensor:
        torch.manual_seed(0)
        options = Optimization(batch_size=100, precision=precision)  # type: ignore[arg-type]
        run = recmtl.RunConfig(device=device, progress=False)
        trainer = recmtl.Trainer(recmtl.MMOE(aliexpress.schema), optimization=options, run=run)
        step = Step(trainer.model, trainer.balancer, options, 20)
        return torch.stack([step(batch) for batch in Loader(aliexpress.train, 100, device).epoch()][:20]).cpu()

    torch.testing.assert_close(losses("cuda", precision), losses("cpu", "fp32"), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_dropout_works_after_a_failed_record(aliexpress: recmtl.PreparedData) -> None:
    class Waits(torch.nn.Linear):
        def forward(self, view: Tensor) -> Tensor:
            torch.cuda.synchronize()  # which no warning announces
            return super().forward(view)

    style, towers = recmtl.LayerStyle(dropout=0.5), {"ctr": lambda features: Waits(features, 1)}
    model = recmtl.SharedBottom(aliexpress.schema, style=style, towers=towers)
    options = Optimization(batch_size=100, cuda_graph=True)
    trainer = recmtl.Trainer(model, optimization=options, run=recmtl.RunConfig(device="cuda", progress=False))
    step = Step(trainer.model, trainer.balancer, options, 20)
    with pytest.warns(UserWarning, match="the step is not recorded"):
        losses = [step(batch) for batch in Loader(aliexpress.train, 100, "cuda", seed=0).epoch()]
    assert torch.stack(losses).isfinite().all()
