"""A step on a GPU takes few launches, and computes what a CPU does."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer
from recmtl.data import Batch, Loader
from recmtl.features import FeatureEncoder
from recmtl.layers import mlp
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module

FREE = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view"}
OPTIMIZER = 2  # launches of a fused optimizer: its step counts, and its tensors


class Launches(TorchDispatchMode):
    """Counts operations that are no views and do more than to reserve memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        library, name = func._schema.name.split("::")
        views = func._schema.returns and all(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        self.count += library == "aten" and not views and name not in FREE | {"promote_types"}
        return func(*args, **(kwargs or {}))


def launches(data: recmtl.PreparedData, cls: type, method: type[Balancer], device: str) -> int:
    """The launches of a step of the model of the GPU benchmark."""
    experts = {"experts": 8} if cls is recmtl.MMOE else {}
    model = cls(data.schema, layers=(512, 256), encoder=partial(FeatureEncoder, width=128), **experts)
    trainer = recmtl.Trainer(model, method(), run=recmtl.RunConfig(device="cpu"))
    trainer.model.to(device)
    step = Step(trainer.model, trainer.balancer, Optimization(optimizer=torch.optim.Adam), 10)
    for batch in list(Loader(data.train, 50).epoch())[:3]:
        with Launches() as seen:
            step(Batch(batch.ids.to(device), batch.numeric.to(device), batch.labels.to(device)))
    return seen.count + OPTIMIZER * (len(step.optimizers) + len(step.row_optimizers))


def moments_alone(optimizer: torch.optim.Optimizer) -> None:
    """Take a step of Adam of which only the state is seen: fused, it is not for this device."""
    for parameter in optimizer.param_groups[0]["params"]:
        if not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros(()), **moments}


@pytest.mark.parametrize(
    ("cls", "method", "dense", "rows"),
    [
        (recmtl.SharedBottom, recmtl.Sum, 149, 171),
        (recmtl.SharedBottom, recmtl.PCGrad, 263, 285),
        (recmtl.SharedBottom, recmtl.RotoGrad, 229, 251),
        (recmtl.MMOE, recmtl.Sum, 162, 184),
        (recmtl.MMOE, recmtl.PCGrad, 289, 311),
        (recmtl.MMOE, recmtl.RotoGrad, 242, 264),
    ],
)
@pytest.mark.parametrize("row_mode", [False, True], ids=["dense", "rows"])
def test_a_step_takes_few_launches(
    cls: type,
    method: type[Balancer],
    dense: int,
    rows: int,
    row_mode: bool,
    aliexpress: recmtl.PreparedData,
    without_values: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    monkeypatch.setattr(torch.optim.Adam, "step", moments_alone)
    assert launches(aliexpress, cls, method, without_values) <= (rows if row_mode else dense)


def trained(data: recmtl.PreparedData, cls: type, method: type[Balancer]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses and state of some steps, one of them with a NaN, in float64."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"layers": [16, 8]} if cls is not recmtl.ESMM else {}
    trainer = recmtl.Trainer(cls(data.schema, **sizes), method(), run=recmtl.RunConfig(device="cpu"))
    options = Optimization(optimizer=partial(torch.optim.AdamW, lr=0.01, eps=1e-6), clip_norm=1.0)
    step = Step(trainer.model.double(), trainer.balancer, options, 10)
    losses = []
    for number, batch in enumerate(itertools.islice(Loader(data.train, 50, seed=0).epoch(), 6)):
        numeric = batch.numeric.double() * (torch.nan if number == 3 else 1)
        losses.append(step(Batch(batch.ids, numeric, batch.labels.double())))
    state = {name: t for name, t in trainer.model.state_dict().items() if "_extra_state" not in name}
    return losses, state | {"skipped": step.nonfinite.skipped}


@pytest.mark.parametrize(
    ("cls", "row_mode", "method"),
    [  # every balancer merges the tensors of one model, and leaves of rows with those of another
        *((recmtl.SharedBottom, False, method) for method in BALANCERS),
        *((recmtl.MMOE, True, method) for method in BALANCERS),
        *((recmtl.ESMM, True, method) for method in (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.RotoGrad)),
        *((recmtl.MMOE, False, method) for method in (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.RotoGrad)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "rows" if value else "dense",
)
def test_what_a_gpu_computes_together_is_what_a_cpu_computes_one_by_one(
    cls: type,
    method: type[Balancer],
    row_mode: bool,
    aliexpress: recmtl.PreparedData,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Inputs padded, experts stacked, shared tensors merged, non-finite entries zeroed together; in a CPU's float64."""
    monkeypatch.setattr(mlp, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    expected = trained(aliexpress, cls, method)
    request.getfixturevalue("on_a_device")
    found = trained(aliexpress, cls, method)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, equal_nan=True)
