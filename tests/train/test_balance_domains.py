"""Domains of tasks as objectives of the balancer: their losses, their gradients, and what training logs of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from together import in_threads
from torch import Tensor

import recmtl
from recmtl import balance
from recmtl.balance import ProcessGroup
from recmtl.data import Batch, Loader
from recmtl.train import Optimization, Step

TASKS = [recmtl.Task("ctr", "click", weight=2.0), recmtl.Task("cvr", "buy", given="click")]
FUNNEL = recmtl.Funnel("click", "buy")
NAMES = ["ctr@US", "ctr@NL", "ctr@other", "cvr@US", "cvr@NL", "cvr@other"]
NAN = float("nan")


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    """300 rows of two countries with enough rows, and a few of others."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"item": rng.integers(0, 9, 300), "w": rng.uniform(0.5, 2, 300)})
    rows["country"] = rng.choice(["US", "NL", "JP"], 300, p=[0.6, 0.38, 0.02])
    rows["click"] = rng.integers(0, 2, 300)
    rows["buy"] = rows["click"] * rng.integers(0, 2, 300)
    features = [recmtl.Categorical("item"), recmtl.Categorical("country", min_count=20)]
    schema = recmtl.Schema(features, TASKS, funnel=FUNNEL, weight="w", domain="country")
    return recmtl.prepare(schema, rows, valid=rows.head(60))


def trainer(
    data: recmtl.PreparedData, balancer: balance.Balancer, cls: type = recmtl.SharedBottom, **run: object
) -> recmtl.Trainer:
    torch.manual_seed(0)
    layers = {} if cls is recmtl.ESCM2 else {"layers": [6]}
    model = cls(data.schema, tower_layers=[4], **layers)
    config = recmtl.RunConfig(progress=False, device="cpu", log_every=1, tensorboard=False, **run)
    optimization = Optimization(batch_size=40)
    return recmtl.Trainer(
        model, balancer, epochs=1, balance_domains=True, gradient_stats_every=2, optimization=optimization, run=config
    )


def test_each_loss_is_the_part_of_its_domain(data: recmtl.PreparedData) -> None:
    losses = trainer(data, recmtl.Sum()).model.task_losses
    assert losses.names == NAMES
    ids = torch.zeros(4, 2, dtype=torch.int32)
    ids[:, 1] = torch.tensor([2, 3, 2, 0])  # US, NL, US, one of no training domain
    labels = torch.tensor([[1, 1], [1, 0], [0, 0], [NAN, NAN]])
    batch = Batch(ids, torch.zeros(4, 0), labels, weight=torch.tensor([3.0, 1.0, 2.0, 5.0]))
    logits = torch.zeros(4, requires_grad=True)
    found = losses({"ctr": logits, "cvr": logits}, batch)
    zero = np.log(2)  # the loss of a logit of 0
    expected = [2 * 5 / 6 * zero, 2 * 1 / 6 * zero, 0, 3 / 4 * zero, 1 / 4 * zero, 0]
    assert list(found) == NAMES
    assert [loss.item() for loss in found.values()] == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(found["ctr@other"], logits)
    assert gradient.tolist() == [0, 0, 0, 0]
    assert losses.by_objective({"ctr@US": 1.0, "cvr@NL": 2.0, "ctr@other": 0.5, "penalty": 4.0}) == {
        "ctr": 1.5,
        "cvr": 2.0,
        "penalty": 4.0,
    }


@pytest.mark.parametrize("cls", [recmtl.SharedBottom, recmtl.ESCM2])
def test_losses_and_gradients_of_sum_are_those_of_the_tasks(cls: type, data: recmtl.PreparedData) -> None:
    model = trainer(data, recmtl.Sum(), cls).model.double()
    batch = next(Loader(data.train, 64, seed=0).epoch())
    results = []
    for split in (True, False):
        model.task_losses.split_by_domain(split)
        losses = model.losses(model(batch), batch)
        totals = model.task_losses.by_objective({name: loss.item() for name, loss in losses.items()})
        model.zero_grad()
        sum(losses.values()).backward()
        results.append((totals, [p.grad for p in model.parameters() if p.grad is not None]))
    (mine, gradients), (theirs, expected) = results
    assert mine == pytest.approx(theirs, rel=1e-12)
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("balancer", [recmtl.Sum, recmtl.GradNorm, recmtl.MetaBalance, recmtl.PCGrad])
def test_trains_and_logs_each_domain(balancer: type, data: recmtl.PreparedData) -> None:
    trained = trainer(data, balancer()).fit(data.train, data.valid)
    records = [record for record in trained.result.records if "loss" in record]
    assert records
    for record in records:
        assert list(record["loss"]) == ["ctr", "cvr"]
        assert list(record["domain_loss"]) == NAMES
        total = sum(record["domain_loss"][name] for name in NAMES[:3])
        assert record["loss"]["ctr"] == pytest.approx(total)
        assert list(record["weight"]) in ([], NAMES)
    stats = [record["diagnosis"] for record in trained.result.records if "diagnosis" in record]
    assert list(stats[0]["gradient_norm"]) == NAMES
    assert "ctr@US·cvr@NL" in stats[0]["cosine"]
    assert trained.result.skipped == {}


def test_an_absent_domain_is_an_absent_task(data: recmtl.PreparedData) -> None:
    """A batch of one country leaves the weights of the others as they are, and has gradients of that one alone."""
    trained = trainer(data, recmtl.PCGrad())
    batch = next(Loader(data.train, 200, seed=0).epoch())
    us = (batch.ids[:, 1] == 2).nonzero().flatten()
    only = dataclasses.replace(
        batch, ids=batch.ids[us], numeric=batch.numeric[us], labels=batch.labels[us], weight=batch.weight[us]
    )
    model = trained.model
    logits = model(only)
    losses = model.losses(logits, only)
    assert [loss.item() for name, loss in losses.items() if not name.endswith("@US")] == [0] * 4
    stats = balance.gradient_stats(losses, model.shared().tensors)
    assert (stats.norms > 0).tolist() == [True, False, False, True, False, False]


def test_resumes_with_the_same_option_alone(
    data: recmtl.PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "run"
    whole = trainer(data, recmtl.MetaBalance(), folder=folder, checkpoint_every=3).fit(data.train, data.valid)
    again = trainer(data, recmtl.MetaBalance(), folder=folder).fit(data.train, data.valid, resume=True)
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    other = recmtl.Trainer(
        recmtl.SharedBottom(data.schema, layers=[6], tower_layers=[4]),
        recmtl.MetaBalance(),
        epochs=1,
        gradient_stats_every=2,
        optimization=Optimization(batch_size=40),
        run=again.setup.run,
    )
    with pytest.raises(recmtl.RunError, match="`balance_domains` True, which is False now"):
        other.fit(data.train, data.valid, resume=True)


class Replayed:
    """Does the recorded work again, into the tensor that the record returned."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        self.work = work
        self.result = torch.zeros(len(NAMES))
        return self.result

    def replay(self) -> None:
        self.result.copy_(self.work())


def test_a_recorded_step_splits_the_rows_of_each_batch(data: recmtl.PreparedData) -> None:
    losses = []
    for graph in (None, Replayed()):
        trained = trainer(data, recmtl.MetaBalance())
        step = Step(trained.model, trained.balancer, Optimization(), 20, graph=graph)
        losses.append(torch.stack([step(batch) for batch in Loader(data.train, 40, seed=0).epoch()]))
    assert torch.equal(*losses)
    assert (losses[0] > 0).all(0).tolist() == [True, True, False, True, True, False]


def test_parts_of_a_shared_batch_add_up(data: recmtl.PreparedData) -> None:
    model = trainer(data, recmtl.Sum()).model.double()
    batch = next(Loader(data.train, 63, seed=0).epoch())
    whole = torch.stack([*model.losses(model(batch), batch).values()])

    def losses(processes: ProcessGroup) -> Tensor:
        part = batch.part(processes)
        return torch.stack([*model.losses(model(part), part).values()])

    torch.testing.assert_close(sum(in_threads(2, losses)), whole, rtol=1e-10, atol=1e-14)


def test_says_what_it_needs(data: recmtl.PreparedData, small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="`balance_domains` needs a schema with a `domain`"):
        recmtl.Trainer(recmtl.SharedBottom(small.schema, layers=[4]), balance_domains=True)
    for balancer in (recmtl.RotoGrad(), recmtl.NormalizedSplitter()):
        with pytest.raises(ValueError, match="balances the heads, which read rows of all domains: leave out"):
            trainer(data, balancer)
