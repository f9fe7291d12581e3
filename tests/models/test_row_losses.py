import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import recmtl
from recmtl.data import Loader
from recmtl.evaluate import measure
from recmtl.models import Losses
from recmtl.models.row_losses import ROW_LOSSES, with_pos_weight, with_smoothing
from recmtl.models.thinned_rows import all_rows_logits

LOGITS, LABELS = torch.linspace(-4, 4, 9), torch.tensor([0.0, 1, 0, 1, 0.3, 0.8, 1, 0, 0.5])


def test_a_positive_weight_is_that_of_torch_on_shifted_logits() -> None:
    found = with_pos_weight(ROW_LOSSES["bce"], 7.0)(LOGITS, LABELS)
    weight = torch.tensor(7.0)
    expected = F.binary_cross_entropy_with_logits(LOGITS + math.log(7), LABELS, reduction="none", pos_weight=weight)
    torch.testing.assert_close(found, expected)


def test_smoothing_keeps_the_mean_of_the_labels() -> None:
    rate = LABELS.mean().item()
    found = with_smoothing(ROW_LOSSES["bce"], 0.2, rate)(LOGITS, LABELS)
    smoothed = 0.8 * LABELS + 0.2 * rate
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(LOGITS, smoothed, reduction="none"))
    assert smoothed.mean().item() == pytest.approx(rate)


ITEMS = np.array([0.02, 0.1, 0.3, 0.6])  # the click rate of each item
SMOOTHED = 0.8 * ITEMS + 0.2 * ITEMS.mean()


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    """Each outcome of each item once, weighted by its probability: no sampling error."""
    rows = [(i, y, p if y else 1 - p) for i, p in enumerate(ITEMS) for y in (0, 1)]
    return pd.DataFrame(rows, columns=["item", "click", "share"]).astype({"item": str})


def lowest(frame: pd.DataFrame, task: recmtl.Task, thinning: recmtl.Thinning | None = None) -> Tensor:
    """The probabilities of all rows where the loss of free logits, one for each item, is lowest ``[4]``."""
    weight = None if task.weight_column else "share"
    schema = recmtl.Schema([recmtl.Categorical("item")], [task], weight=weight)
    data = recmtl.prepare(schema, frame, holdout=0, thinning=thinning)
    (batch,) = Loader(data.train, 99).epoch()
    losses, logits = Losses(data.schema, [task]), torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = losses({"ctr": logits.repeat_interleave(2)}, batch)["ctr"]
        loss.backward()
        return loss

    optimizer.step(closure)
    return all_rows_logits(data.schema, [task], {"ctr": logits.detach()})["ctr"].sigmoid()


@pytest.mark.parametrize("options", [{"pos_weight": 20.0}, {"pos_weight": 0.1}, {"weight_column": "share"}], ids=str)
def test_predictions_stay_probabilities(outcomes: pd.DataFrame, options: dict) -> None:
    """A weight of positives moves no prediction, and a weight of rows counts rows."""
    np.testing.assert_allclose(lowest(outcomes, recmtl.Task("ctr", "click", **options)), ITEMS, rtol=0.02)


def test_smoothed_predictions_are_drawn_to_the_label_rate(outcomes: pd.DataFrame) -> None:
    found = lowest(outcomes, recmtl.Task("ctr", "click", label_smoothing=0.2))
    np.testing.assert_allclose(found, SMOOTHED, rtol=0.01)


@pytest.mark.parametrize(
    ("options", "expected"), [({"pos_weight": 5.0}, ITEMS), ({"label_smoothing": 0.2}, SMOOTHED)], ids=str
)
def test_with_a_thinned_file_predictions_are_those_of_all_rows(
    outcomes: pd.DataFrame, options: dict, expected: np.ndarray
) -> None:
    """By the likelihood of the kept rows with a weight of positives, and by sampling weights with smoothed labels."""
    thinned = outcomes.assign(share=outcomes.share * np.where(outcomes.click, 1, 0.1))
    found = lowest(thinned, recmtl.Task("ctr", "click", **options), recmtl.Thinning(0.1))
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("options", [{"pos_weight": 20.0}, {"label_smoothing": 0.5}, {"weight_column": "own"}], ids=str)
def test_predictions_start_at_the_label_rate(options: dict) -> None:
    frame = pd.DataFrame({"item": list("abcd"), "click": [0, 1, 0, 0], "own": [1.0, 2.0, 1.0, 1.0]})
    schema = recmtl.Schema([recmtl.Categorical("item")], [recmtl.Task("ctr", "click", **options)])
    data = recmtl.prepare(schema, frame, holdout=0)
    bias = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[4]).heads["ctr"].bias
    assert bias.sigmoid().item() == pytest.approx(0.4 if "weight_column" in options else 0.25)


def test_smoothing_is_of_the_training_loss_alone() -> None:
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("y", "y", label_smoothing=0.5)])
    found = measure(schema, {"y": np.array([0.1, 0.9])}, {"y": np.array([0.0, 1.0])})
    assert found["y"].values["logloss"] == pytest.approx(-math.log(0.9))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pos_weight": 0}, "`pos_weight` must be a number above 0, got 0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be a number in \[0, 1\), got 1.0"),
        ({"kind": "regression", "pos_weight": 2.0}, "a regression task has no `pos_weight`, got 2.0"),
        ({"kind": "regression", "label_smoothing": 0.1}, "a regression task has no `label_smoothing`, got 0.1"),
        ({"ranking_weight": -1}, "`ranking_weight` must be a number of at least 0, got -1"),
    ],
)
def test_options_out_of_range(options: dict, said: str) -> None:
    with pytest.raises(recmtl.SchemaError, match=f"Task 'y': {said}"):
        recmtl.Task("y", "y", **options)
