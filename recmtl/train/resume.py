"""What must be as it was for a training to go on: its options, its rows, and where its generators stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recmtl.data import Rows
from recmtl.errors import RunError
from recmtl.train.step import Step

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer

LETTERS = 16  # of a fingerprint


def run_fingerprint(trainer: Trainer, step: Step, train: Rows, valid: Rows | None) -> dict[str, Any]:
    """Give by name what the result of a training depends on, as far as it can be written down.

    Args:
        trainer: The model, the balancer and the options.
        step: Has the optimizers.
        train: The training rows.
        valid: The validation rows.
    """
    optimizer = step.optimizers[0]
    settings = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items())
    return {
        "training rows": len(train),
        "validation rows": 0 if valid is None else len(valid),
        "digest of the training rows": train.fingerprint[:LETTERS],
        "digest of the validation rows": None if valid is None else valid.fingerprint[:LETTERS],
        "model": type(trainer.model).__name__,
        "balancer": type(trainer.balancer).__name__,
        "epochs": trainer.epochs,
        "gradient_stats_every": trainer.gradient_stats_every,
        "seed": trainer.run.seed,
        "log_every": trainer.run.log_every,
        "window": trainer.run.window,
        **vars(trainer.stopping),
        **vars(trainer.optimization),
        "optimizer": f"{type(optimizer).__name__}({settings})",
    }


def shape_of(trainer: Trainer) -> dict[str, Any]:
    """Give by name what must be the same in several processes before they can tell each other anything."""
    sizes = {f"size of {name}": tuple(tensor.shape) for name, tensor in trainer.model.named_parameters()}
    run = trainer.run
    kept = {"run folder": bool(run.folder), "window": run.window, "checkpoint_every": run.checkpoint_every}
    return {"model": type(trainer.model).__name__, "balancer": type(trainer.balancer).__name__} | sizes | kept


def check_same(told: Sequence[Mapping[str, Any]]) -> None:
    """Check that all processes train the same.

    Raises:
        RunError: One has other rows or other options.
    """
    for rank, other in enumerate(told):
        for name in dict.fromkeys((*told[0], *other)):
            mine, theirs = told[0].get(name), other.get(name)
            if mine != theirs:
                raise RunError(f"process 0 trains with `{name}` {mine!r}, process {rank} with {theirs!r}")


def check_conditions(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a training goes on as it was begun.

    Raises:
        RunError: Something is not as it was.
    """
    for name in dict.fromkeys((*before, *now)):
        one, other = before.get(name), now.get(name)
        if one != other:
            raise RunError(f"{str(folder)!r} was begun with `{name}` {one!r}, which is {other!r} now: it cannot go on")


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Give where torch's generators stand, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put torch's generators where they stood."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
