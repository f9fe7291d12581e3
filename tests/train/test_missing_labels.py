"""A NaN label is a missing one: its row counts for the other tasks alone."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer, SharedTensor
from recmtl.data import Batch, Loader
from recmtl.train import Optimization, RunConfig, Step

SGD = partial(torch.optim.SGD, lr=0.1)
MISSING = {0: [1, 5, 6, 40], 1: [5, 7]}  # rows of a batch by task


@pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)
def test_a_step_is_that_of_the_rows_with_labels(method: type[Balancer], aliexpress: recmtl.PreparedData) -> None:
    """Beside a loop by hand that takes the rows with NaN out of a task's logits."""
    torch.manual_seed(0)
    trainer = recmtl.Trainer(recmtl.SharedBottom(aliexpress.schema), method(), run=RunConfig(device="cpu"))
    model, balancer = trainer.model.train(), trainer.balancer
    twin = copy.deepcopy(model)
    step = Step(model, balancer, Optimization(optimizer=SGD, balancer_rate=0.0, ema=0.0), 10)
    optimizer = SGD([p for name, p in twin.named_parameters() if not name.startswith("fork.")])
    for batch in list(Loader(aliexpress.train, 64, seed=0).epoch())[:4]:
        labels = batch.labels.clone()
        for task, rows in MISSING.items():
            labels[rows, task] = torch.nan
        losses = step(Batch(batch.ids, batch.numeric, labels))
        expected = by_hand(twin, optimizer, Batch(batch.ids, batch.numeric, labels))
        torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()))
    assert balancer.skipped.eq(0).all()
    assert step.nonfinite.events() == []


def by_hand(model: recmtl.RankingModel, optimizer: torch.optim.Optimizer, batch: Batch) -> torch.Tensor:
    def losses() -> list[torch.Tensor]:
        logits, found = model(batch), []
        for column, task in enumerate(model.objectives):
            kept = ~batch.labels[:, column].isnan()
            found.append(binary_cross_entropy_with_logits(logits[task.name][kept], batch.labels[kept, column]))
        return found

    optimizer.zero_grad()
    before, shared = losses(), model.shared()
    model.fork.backward(before, [SharedTensor(*tensor) for tensor in shared.tensors], shared.last)
    optimizer.step()
    if model.fork.needs_losses_after_step:
        model.fork.after_step(losses())
    return torch.stack([loss.detach() for loss in before])


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows in which a tenth of a task's labels is NaN, and the same rows with a condition that says so."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"user": random.integers(0, 9, 600), "price": random.normal(size=600)})
    frame["ctr"] = (random.uniform(size=600) < 0.3).astype(float)
    frame["like"] = (random.uniform(size=600) < 0.4).astype(float)
    known = (random.uniform(size=600) < 0.9).astype(float)
    return frame.assign(like=frame["like"].where(known == 1)), frame.assign(known=known)


@pytest.mark.parametrize("method", [recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad, recmtl.RotoGrad])
def test_a_training_is_that_with_a_condition_in_place_of_nans(method: type[Balancer]) -> None:
    features = [recmtl.Categorical("user"), recmtl.Numeric("price")]
    trained = []
    for frame, given in zip(frames(), (None, "known"), strict=True):
        schema = recmtl.Schema(features, [recmtl.Task("ctr", "ctr"), recmtl.Task("like", "like", given=given)])
        data = recmtl.prepare(schema, frame[:400], frame[400:])
        torch.manual_seed(0)
        options = Optimization(batch_size=64)
        run = RunConfig(device="cpu", progress=False)
        trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema), method(), 2, optimization=options, run=run)
        trainer.fit(data.train, data.valid)
        assert trainer.result.skipped == {}
        trained.append(list(trainer.model.parameters()))
    assert all(a.equal(b) for a, b in zip(*trained, strict=True))
    assert all(parameter.isfinite().all() for parameter in trained[0])
