import dataclasses
import math

import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Batch
from recmtl.models import Losses

NAN = float("nan")
TASKS = [
    recmtl.Task("ctr", "click"),
    recmtl.Task("cvr", "conversion", given="click"),
    recmtl.Task("stay", "stay", kind="regression"),
]
ROWS = pd.DataFrame(
    {"x": [0.0, 1.0], "click": [0, 1], "conversion": [0, 1], "stay": [-1.0, 1.0]}
)  # mean 0, deviation 1
SCHEMA = recmtl.prepare(recmtl.Schema([recmtl.Numeric("x")], TASKS), ROWS, holdout=0).schema


def batch(labels: list[list[float]], weight: list[float] | None = None) -> Batch:
    rows = len(labels)
    return Batch(
        ids=torch.zeros(rows, 0, dtype=torch.int32),
        numeric=torch.zeros(rows, 1),
        labels=torch.tensor(labels),
        weight=None if weight is None else torch.tensor(weight),
    )


def losses(rows: Batch, logits: list[float], *tasks: recmtl.Task) -> dict[str, torch.Tensor]:
    objectives = tasks or TASKS
    values = torch.tensor(logits, requires_grad=True)
    return Losses(SCHEMA, objectives)({t.name: values for t in objectives}, rows)


def bce(logit: float, label: float) -> float:
    return math.log1p(math.exp(-logit)) if label else math.log1p(math.exp(logit))


def test_each_loss_is_the_mean_over_the_rows_that_count() -> None:
    rows = batch([[1, 1, 2.0], [1, 0, NAN], [0, 0, 1.0], [NAN, 1, 5.0]])
    assert SCHEMA.schema.labels == ("click", "conversion", "stay")
    values = losses(rows, [0.5, -1.0, 2.0, 0.0])
    assert values["ctr"].item() == pytest.approx((bce(0.5, 1) + bce(-1, 1) + bce(2, 0)) / 3)
    assert values["cvr"].item() == pytest.approx((bce(0.5, 1) + bce(-1, 0)) / 2)  # clicked rows alone
    assert values["stay"].item() == pytest.approx((1.5**2 + 1 + 25) / 3)


def test_row_weights() -> None:
    rows = batch([[1, 0, 0.0], [0, 0, 0.0]], weight=[3.0, 1.0])
    assert losses(rows, [0.5, 2.0])["ctr"].item() == pytest.approx((3 * bce(0.5, 1) + bce(2, 0)) / 4)


@pytest.mark.parametrize("name", ["bce", "focal", "mse", "mae", "huber"])
def test_the_loss_of_an_ensemble_is_the_mean_of_its_members_losses(name: str) -> None:
    kind = "binary" if name in ("bce", "focal") else "regression"
    task = recmtl.Task("ctr", "click", kind=kind, loss=name, weight=2.0)
    rows = batch([[1, 0, 0.0], [NAN, 0, 0.0], [0, 0, 0.0]], weight=[3.0, 1.0, 0.5])
    logits = torch.tensor([[0.5, -2.0], [NAN, 1.0], [0.3, 4.0]], requires_grad=True)
    measure = Losses(SCHEMA, [task])
    loss = measure({"ctr": logits}, rows)["ctr"]
    alone = [measure({"ctr": logits[:, i]}, rows)["ctr"] for i in range(2)]
    torch.testing.assert_close(loss, (alone[0] + alone[1]) / 2)
    loss.backward()
    assert logits.grad[1].tolist() == [0.0, 0.0]
    assert logits.grad[::2].all()


def test_a_task_without_rows_has_a_loss_of_zero_without_gradient() -> None:
    logits = torch.tensor([0.5, float("inf")], requires_grad=True)
    loss = Losses(SCHEMA, TASKS)({t.name: logits for t in TASKS}, batch([[0, 1, NAN], [0, NAN, NAN]]))["cvr"]
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad.tolist() == [0.0, 0.0]


def test_rows_that_do_not_count_have_no_gradient() -> None:
    logits = torch.tensor([0.5, NAN, float("inf")], requires_grad=True)
    loss = Losses(SCHEMA, TASKS)({t.name: logits for t in TASKS}, batch([[1, 0, 0.0], [NAN, 0, 0.0], [NAN, 0, 0.0]]))
    loss["ctr"].backward()
    assert logits.grad[0].isfinite()
    assert logits.grad[1:].tolist() == [0.0, 0.0]


def test_task_weight_and_other_losses() -> None:
    rows = batch([[1, 0, 3.0]])
    double = dataclasses.replace(TASKS[0], weight=2.0)
    assert losses(rows, [0.5], double)["ctr"].item() == pytest.approx(2 * bce(0.5, 1))
    p = 1 / (1 + math.exp(-0.5))
    focal = dataclasses.replace(TASKS[0], loss="focal")
    assert losses(rows, [0.5], focal)["ctr"].item() == pytest.approx((1 - p) ** 2 * -math.log(p), rel=1e-5)
    assert losses(rows, [0.5], dataclasses.replace(TASKS[2], loss="mae"))["stay"].item() == pytest.approx(2.5)
    assert losses(rows, [0.5], dataclasses.replace(TASKS[2], loss="huber"))["stay"].item() == pytest.approx(2.0)
