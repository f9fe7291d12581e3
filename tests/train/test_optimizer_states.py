"""Optimizers that resume from a saved state."""

from pathlib import Path
from typing import Any

import pytest
import torch

import recmtl
from recmtl.runs.checkpoint_file import append_checksum, read_checkpoint
from recmtl.train import Optimization, RunConfig, RunError
from recmtl.train.optimizers import fused, load_optimizer


def made(optimizer: Any, seed: int) -> torch.optim.Optimizer:
    """An optimizer after some steps on a matrix and a bias, and on a weight that no loss reaches."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator).requires_grad_() for size in ((3, 4), (4,), (2,))]
    made = fused(optimizer(weights))
    for _ in range(seed):
        for weight in weights[:2]:
            weight.grad = torch.randn(weight.shape, generator=generator)
        made.step()
    return made


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "ASGD", "RMSprop")),
    *((name, {}) for name in ("Rprop", "Adafactor", "SGD")),
    ("Adam", {"amsgrad": True, "lr": torch.tensor(0.1)}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "lr": 1}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[f"{n}({', '.join(o)})" for n, o in OPTIMIZERS])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_every_optimizer_resumes(name: str, options: dict[str, Any], steps: int) -> None:
    """Whatever it keeps, and from the first step on."""

    def factory(weights: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, name)(weights, **options)

    saved, found = made(factory, steps).state_dict(), made(factory, 0)
    load_optimizer(found, saved, factory)
    resumed = found.state_dict()
    for state in (resumed, saved):
        state["param_groups"][0]["lr"] = float(state["param_groups"][0]["lr"])
    torch.testing.assert_close(resumed, saved, rtol=0, atol=0)


def test_the_state_of_another_optimizer_is_refused(small: recmtl.PreparedData, tmp_path: Path) -> None:
    def trainer() -> recmtl.Trainer:
        run = RunConfig(tmp_path / "run", progress=False, tensorboard=False, device="cpu")
        model = recmtl.SharedBottom(small.schema, layers=[6, 4], tower_layers=[4])
        return recmtl.Trainer(model, recmtl.RotoGrad(), epochs=1, optimization=Optimization(batch_size=100), run=run)

    file = trainer().fit(small.train, small.valid).folder.checkpoint("last")
    state = read_checkpoint(file)
    moments = state["training"]["optimizers"][0]["state"][0]
    moments["momentum_buffer"] = moments.pop("exp_avg")
    torch.save(state, file)
    append_checksum(file)
    with pytest.raises(RunError, match=r"is damaged: 0 of the state of the optimizer is a dict of .*momentum_buffer"):
        trainer().fit(small.train, small.valid, resume=True)
