"""The fast ranking losses against loops over groups and pairs in float64, and in training."""

import dataclasses
import math
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from together import in_threads
from torch import Tensor

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Batch, Loader
from recmtl.models import Losses, ranking_losses
from recmtl.models.ranking_losses import RankedRows, listwise, pairwise

RNG = np.random.default_rng(0)


def pairwise_by_loops(s, y, w, g, graded=False) -> float:
    """The mean over groups of the mean over pairs, weighted by the rows of the groups."""
    numerator = denominator = 0.0
    for group in np.unique(g):
        rows, loss, pairs = np.flatnonzero(g == group), 0.0, 0.0
        for i, j in permutations(rows, 2):
            weight = w[i] * w[j] * (y[i] > y[j] if graded else y[i] * (1 - y[j]))
            loss, pairs = loss + weight * np.logaddexp(0, s[j] - s[i]), pairs + weight
        if pairs:
            numerator, denominator = numerator + w[rows].sum() * loss / pairs, denominator + w[rows].sum()
    return numerator / denominator


def listwise_by_loops(s, y, w, g) -> float:
    """The cross-entropy of each group in which labels differ, weighted by its rows."""
    numerator = denominator = 0.0
    for group in np.unique(g):
        rows = np.flatnonzero((g == group) & (w > 0))
        if len(rows) and np.ptp(y[rows]):
            shares = w[rows] * y[rows] / (w[rows] @ y[rows])
            loss = -shares @ (s[rows] - np.log(w[rows] @ np.exp(s[rows])))
            numerator, denominator = numerator + w[rows].sum() * loss, denominator + w[rows].sum()
    return numerator / denominator


def rows_like(kind: str, rows: int = 40) -> tuple[np.ndarray, ...]:
    groups, scores = np.sort(RNG.integers(0, 9, rows)), 4 * RNG.normal(size=rows)
    labels = {
        "hard": RNG.integers(0, 2, rows).astype(float),
        "soft": RNG.random(rows),
        "graded": RNG.integers(0, 4, rows) / 2,
    }[kind]
    return scores, labels, RNG.uniform(0, 2, rows) * (RNG.random(rows) < 0.8), groups


def ratio(loss, scores, labels, weight, groups, graded=False) -> Tensor:
    rows = RankedRows(
        torch.tensor(groups, dtype=torch.int32),
        torch.tensor(labels),
        torch.tensor(weight),
        int(np.bincount(groups).max()),
        graded,
    )
    parts, counted = loss(torch.tensor(scores), rows)
    return parts.sum(0) / counted.sum()


@pytest.mark.parametrize("kind", ["hard", "soft", "graded"])
def test_pairwise_is_the_mean_over_groups_of_the_mean_over_pairs(kind: str) -> None:
    for _ in range(5):
        given, graded = rows_like(kind), kind == "graded"
        assert ratio(pairwise, *given, graded).item() == pytest.approx(pairwise_by_loops(*given, graded), rel=1e-12)


@pytest.mark.parametrize("kind", ["hard", "soft", "graded"])
def test_listwise_is_the_mean_over_groups_of_the_cross_entropy(kind: str) -> None:
    for _ in range(5):
        given = rows_like(kind)
        assert ratio(listwise, *given).item() == pytest.approx(listwise_by_loops(*given), rel=1e-12)


def test_by_hand() -> None:
    """One positive with the logit 0 among two negatives with 0 and log 2."""
    given = ([0.0, 0.0, math.log(2)], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0, 0, 0])
    assert ratio(pairwise, *given).item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    assert ratio(listwise, *given).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("loss", [pairwise, listwise])
def test_members_of_an_ensemble_are_measured_apart(loss) -> None:
    scores, *given = rows_like("hard")
    both = ratio(loss, np.stack([scores, -scores], 1), *given)
    alone = [ratio(loss, s, *given) for s in (scores, -scores)]
    torch.testing.assert_close(both, torch.stack(alone))


@pytest.mark.parametrize("loss", [pairwise, listwise])
def test_a_shift_of_a_groups_scores_changes_nothing(loss) -> None:
    scores, labels, weight, groups = rows_like("hard")
    offsets = 50 * RNG.normal(size=9)[groups]
    torch.testing.assert_close(
        ratio(loss, scores + offsets, labels, weight, groups), ratio(loss, scores, labels, weight, groups)
    )


@pytest.mark.parametrize("loss", [pairwise, listwise])
def test_groups_of_one_class_and_no_rows_give_exactly_zero_with_a_gradient_of_zero(loss) -> None:
    for rows in (4, 0):
        scores = torch.full((rows,), 3.0, requires_grad=True)
        groups = torch.tensor([0, 0, 1, 2][:rows], dtype=torch.int32)
        parts, counted = loss(scores, RankedRows(groups, torch.ones(rows), torch.ones(rows), 2))
        assert (parts.sum().item(), counted.sum().item()) == (0.0, 0.0)
        parts.sum().backward()
        assert not scores.grad.any()


def test_rows_of_long_groups_are_compared_with_others_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_losses, "MOST_COMPARED", 7)
    rows = RankedRows(torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([50, 4])), *torch.ones(2, 54), 50)
    others, filled = rows.others
    assert others.shape == (54, 7)
    for i in range(54):
        compared = others[i][filled[i]].tolist()
        assert len({*compared}) == len(compared) == (7 if i < 50 else 3)
        assert i not in compared
        assert all((j < 50) == (i < 50) for j in compared)
    gaps = sorted((j - 10) % 50 for j in others[10].tolist())
    assert max(np.diff([0, *gaps, 50])) <= 8


TASKS = (
    recmtl.Task("ctr", "click", ranking_loss="pairwise", ranking_weight=0.5, weight_column="own"),
    recmtl.Task("cvr", "buy", given="click", ranking_loss="listwise", weight=2.0),
    recmtl.Task("stay", "stay", kind="regression", ranking_loss="pairwise"),
    recmtl.Task("seconds", "seconds", kind="amount", ranking_loss="pairwise"),
    recmtl.Task("paid", "paid", kind="amount", loss="ziln", ranking_loss="listwise"),
)
PLAIN = tuple(dataclasses.replace(task, ranking_loss=None) for task in TASKS)


@pytest.fixture(scope="module")
def grouped() -> recmtl.PreparedData:
    """400 rows of searches of one to six rows, with missing labels and weights."""
    rng, rows = np.random.default_rng(1), 400
    click = rng.integers(0, 2, rows).astype(float)
    frame = pd.DataFrame(
        {
            "search": np.repeat(np.arange(rows), rng.integers(1, 7, rows))[:rows][rng.permutation(rows)],
            "market": rng.choice(["a", "b"], rows),
            "x": rng.normal(size=rows),
            "click": np.where(rng.random(rows) < 0.1, np.nan, click),
            "buy": rng.integers(0, 2, rows),
            "stay": 50 + 10 * rng.normal(size=rows),
            "seconds": 1000 * rng.exponential(size=rows).round(1),
            "paid": rng.lognormal(3, 2, rows) * (rng.random(rows) < 0.5),
            "own": rng.uniform(0, 2, rows),
            "row": rng.uniform(0.5, 2, rows),
        }
    )
    features = [recmtl.Numeric("x"), recmtl.Categorical("market")]
    schema = recmtl.Schema(features, TASKS, group="search", weight="row", domain="market")
    return recmtl.prepare(schema, frame, holdout=0)


def batches(data: recmtl.PreparedData, size: int, **options: Any) -> list[Batch]:
    return list(Loader(data.train, size, seed=0, grouped=True, **options).epoch())


def logits_of(rows: int) -> dict[str, Tensor]:
    """Random logits of the tasks, three of a zero-inflated amount."""
    generator = torch.Generator().manual_seed(0)
    return {task.name: torch.randn(rows, *[3] * (task.outputs > 1), generator=generator) for task in TASKS}


def test_the_loss_of_a_task_is_both_losses(grouped: recmtl.PreparedData) -> None:
    """The labels, the condition, the weights and the scores of each task, against the loops."""
    (batch,) = batches(grouped, 400)
    logits, schema = logits_of(400), grouped.schema
    found, plain = (Losses(schema, tasks)(logits, batch) for tasks in (TASKS, PLAIN))
    scores, groups = {name: of_task.double().numpy() for name, of_task in logits.items()}, batch.groups.numpy()
    click, buy, stay, seconds, paid = batch.labels.double().numpy().T
    row, own = batch.weight.double().numpy(), batch.task_weights[:, 0].double().numpy()
    known = ~np.isnan(click)
    a, mean, spread = scores["paid"].T
    spread = schema.log_moments["paid"].deviation * np.logaddexp(0, spread)
    expected = np.exp(mean + spread**2 / 2) / (1 + np.exp(-a))
    deviation = schema.label_moments(TASKS[2]).deviation
    for name, weight, loss in (
        ("ctr", 0.5, pairwise_by_loops(scores["ctr"], np.nan_to_num(click), row * own * known, groups)),
        ("cvr", 2.0, listwise_by_loops(scores["cvr"], buy, row * (click == 1), groups)),
        ("stay", 1.0, pairwise_by_loops(scores["stay"] / deviation, stay, row, groups, True)),
        ("seconds", 1.0, pairwise_by_loops(scores["seconds"], seconds, row, groups, True)),
        ("paid", 1.0, listwise_by_loops(np.log(expected), paid, row, groups)),
    ):
        assert (found[name] - plain[name]).item() == pytest.approx(weight * loss, rel=1e-4), name


def test_the_unit_of_an_amount_does_not_matter_for_its_ranking_loss(grouped: recmtl.PreparedData) -> None:
    """Amounts in pence instead of pounds, with expected values to match: only expected shares are compared."""
    (batch,) = batches(grouped, 400)
    amounts, scores = batch.labels[:, 3].double(), logits_of(400)["seconds"].double()
    for loss in (pairwise, listwise):
        one, other = (
            loss(scores + shift, RankedRows(batch.groups, amounts * math.exp(shift), batch.weight.double(), 6, True))
            for shift in (0.0, math.log(100))
        )
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("number", [2, 3])
def test_shares_of_processes_add_up_to_the_loss_of_the_batch(grouped: recmtl.PreparedData, number: int) -> None:
    whole, losses = batches(grouped, 64), Losses(grouped.schema, TASKS)
    logits = [logits_of(len(batch)) for batch in whole]

    def parts_of(processes: ProcessGroup) -> list[dict[str, Tensor]]:
        found = []
        for part, of_batch in zip(batches(grouped, 64, processes=processes), logits, strict=True):
            sizes = processes.all_gather_object(len(part))
            assert sum(sizes) == len(of_batch["ctr"])
            own = {name: torch.split(of_task, sizes)[processes.rank] for name, of_task in of_batch.items()}
            found.append(losses(own, part))
        assert processes.sent == len(whole) * 4 * 2 * len(TASKS)  # the counts of losses of rows, and of groups
        return found

    parts = in_threads(number, parts_of)
    for batch, of_batch, *own in zip(whole, logits, *parts, strict=True):
        for name, loss in losses(of_batch, batch).items():
            torch.testing.assert_close(sum(part[name] for part in own), loss)


def test_the_losses_of_domains_add_up(grouped: recmtl.PreparedData) -> None:
    (batch,) = batches(grouped, 400)
    losses, logits = Losses(grouped.schema, TASKS), logits_of(400)
    whole = losses(logits, batch)
    losses.split_by_domain(True)
    split = losses(logits, batch)
    for name, loss in whole.items():
        torch.testing.assert_close(sum(value for key, value in split.items() if key.startswith(f"{name}@")), loss)


def test_a_batch_that_was_not_cut_between_groups_is_refused(grouped: recmtl.PreparedData) -> None:
    (batch,) = Loader(grouped.train, 400).epoch()
    with pytest.raises(ValueError, match="'ctr' needs batches that are cut between groups: give `grouped=True`"):
        Losses(grouped.schema, TASKS)(logits_of(400), batch)


def test_options_that_a_task_cannot_have() -> None:
    with pytest.raises(recmtl.SchemaError, match="'y': `ranking_loss` of a regression task must be one of pairwise"):
        recmtl.Task("y", "y", kind="regression", ranking_loss="listwise")
    with pytest.raises(recmtl.SchemaError, match="'y': a multiclass task has no `ranking_loss`, got 'pairwise'"):
        recmtl.Task("y", "y", kind="multiclass", ranking_loss="pairwise")
    with pytest.raises(recmtl.SchemaError, match="`ranking_loss` of task 'y' needs a `group`"):
        recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("y", "y", ranking_loss="listwise")])
