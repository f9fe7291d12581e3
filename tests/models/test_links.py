"""Links: predictions, constants and members of each kind of task, held to float64 and to other libraries."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics as sk

import recmtl
from recmtl.data import Loader
from recmtl.evaluate import metrics_of, scores_of
from recmtl.models.links import link_of
from recmtl.models.row_losses import ROW_LOSSES, row_loss
from recmtl.schema.fitted import LabelRate, LogMoments, Moments
from recmtl.train import Optimization, Step

STARS = recmtl.Task("stars", "rating", kind="multiclass", classes=["a", "b", "c"])
COUNT = recmtl.Task("count", "n", kind="amount")
MONEY = recmtl.Task("money", "spent", kind="amount", loss="ziln")
CTR, STAY = recmtl.Task("ctr", "click"), recmtl.Task("stay", "stay", kind="regression")
SCHEMA = SimpleNamespace(
    class_shares={"stars": (0.5, 0.25, 0.25)},
    log_moments={"money": LogMoments(0.3, 2.0, 1.5)},
    rate=lambda task: LabelRate(1000, 4.0),
    label_moments=lambda task: Moments(4.0, 2.0),
)


@pytest.mark.parametrize("task", [CTR, STAY, STARS, COUNT, MONEY], ids=lambda task: task.name)
def test_the_prediction_of_members_is_the_mean_of_theirs(task: recmtl.Task) -> None:
    torch.manual_seed(0)
    shape = (7, 4) if task.outputs == 1 else (7, 4, task.outputs)
    logits, link = torch.randn(shape, dtype=torch.float64), link_of(task)
    expected = torch.stack([link.predictions(task, each, SCHEMA) for each in logits.unbind(1)]).mean(0)
    found = link.predictions(task, link.mean_of_members(task, logits, SCHEMA), SCHEMA)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_constants_predict_the_training_rows() -> None:
    rate = LabelRate(100_000, 4.0)
    constants = {
        t.name: link_of(t).predictions(t, link_of(t).constant(t, rate, SCHEMA), SCHEMA) for t in (STARS, COUNT)
    }
    assert constants["stars"].tolist() == pytest.approx([0.5, 0.25, 0.25], rel=1e-3)
    assert constants["count"].item() == pytest.approx(4, rel=1e-6)
    money = link_of(MONEY).predictions(MONEY, link_of(MONEY).constant(MONEY, rate, SCHEMA), SCHEMA)
    assert money.item() == pytest.approx(0.3 * math.exp(2 + 1.5**2 / 2), rel=1e-5)  # of the distribution


def test_poisson_and_tweedie_are_half_the_deviance_of_scikit_learn() -> None:
    logits = torch.linspace(-3, 3, 50, dtype=torch.float64)
    labels = torch.tensor(np.random.default_rng(0).poisson(1.0, 50)).double()
    for name, power in (("poisson", 1), ("tweedie", 1.5)):
        found = ROW_LOSSES[name](logits, labels)
        assert (found >= 0).all()
        for loss, logit, label in zip(found.tolist(), logits.tolist(), labels.tolist(), strict=True):
            deviance = sk.mean_tweedie_deviance([label], [math.exp(logit)], power=power)
            assert loss == pytest.approx(deviance / 2, rel=1e-9, abs=1e-12)


def test_ziln_is_the_likelihood_of_scipy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(60, 3, dtype=torch.float64)
    labels = torch.where(torch.arange(60) % 3 > 0, torch.rand(60, dtype=torch.float64) * 9, 0.0)
    found = ROW_LOSSES["ziln"](logits, labels)
    for loss, (a, mean, spread), label in zip(found.tolist(), logits, labels.tolist(), strict=True):
        share = torch.sigmoid(a).item()
        expected = -math.log(1 - share)
        if label > 0:
            deviation = F.softplus(spread).item() + 1e-3
            expected = -math.log(share) - stats.norm.logpdf(math.log(label), mean.item(), deviation)
        assert loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", ["poisson", "tweedie", "ziln"])
def test_losses_of_amounts_do_not_depend_on_the_unit(loss: str) -> None:
    """Seconds or hours: predictions and labels 3,600 times larger have the same losses."""
    task, unit = recmtl.Task("money", "spent", kind="amount", loss=loss), 3600.0
    larger = SimpleNamespace(
        class_shares={},
        log_moments={"money": LogMoments(0.3, 2.0 + math.log(unit), 1.5)},
        rate=lambda task: LabelRate(1000, 4.0 * unit),
    )
    torch.manual_seed(0)
    logits = torch.randn(20, 3, dtype=torch.float64) if loss == "ziln" else torch.randn(20, dtype=torch.float64)
    shift = torch.tensor([0.0, math.log(unit), 0.0], dtype=torch.float64) if loss == "ziln" else math.log(unit)
    labels = torch.where(torch.arange(20) % 3 > 0, torch.rand(20, dtype=torch.float64) * 9, 0.0)
    small, large = (
        row_loss(task, SCHEMA, 0.0)(logits, labels),
        row_loss(task, larger, 0.0)(logits + shift, labels * unit),
    )
    torch.testing.assert_close(small, large, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_ziln_is_closer_to_planted_means_than_the_squared_error() -> None:
    """Zero-inflated log-normal amounts, whose few large ones pull a mean of squares; test rows have the true means."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3))
    share, mean = 1 / (1 + np.exp(1 - x[:, 0])), 1 + x[:, 1]
    y = np.where(rng.random(3000) < share, np.exp(mean + 2 * rng.normal(size=3000)), 0.0)
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=y)
    truth = frame.tail(1000).assign(y=(share * np.exp(mean + 2))[2000:])
    features = [recmtl.Numeric(name) for name in ("a", "b", "c")]
    found = {}
    for task in (MONEY, dataclasses.replace(STAY, name="money")):
        schema = recmtl.Schema(features, [dataclasses.replace(task, label="y")])
        data = recmtl.prepare(schema, frame.head(2000), test=truth, holdout=0)
        torch.manual_seed(0)
        model = recmtl.SharedBottom(data.schema, layers=[16])
        step = Step(model, recmtl.Trainer(model, run=recmtl.RunConfig(progress=False)).balancer, Optimization(), 80)
        for _ in range(8):
            for batch in Loader(data.train, 200, seed=0).epoch():
                step(batch)
        predicted = np.maximum(recmtl.Trainer(model).predictor.outputs(data.test)["money"], 0)
        scores = scores_of(dataclasses.replace(MONEY, loss=None), data.test.labels["y"], predicted)
        found[task.kind] = metrics_of(scores).values
    assert found["amount"]["gini"] > found["regression"]["gini"] + 0.05
    assert found["amount"]["poisson_deviance"] < found["regression"]["poisson_deviance"]


def test_smoothing_replaces_a_share_of_each_class_by_those_of_all() -> None:
    logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.arange(9.0, dtype=torch.float64) % 3
    task = dataclasses.replace(STARS, label_smoothing=0.2)
    smoothed = 0.8 * F.one_hot(labels.long(), 3) + 0.2 * torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    expected = F.cross_entropy(logits, smoothed, reduction="none")
    torch.testing.assert_close(row_loss(task, SCHEMA, 0.0)(logits, labels), expected)
