"""ESCM²: its CVR loss beside the paper's sums, row by row."""

import math

import pandas as pd
import pytest
import torch
from together import in_threads
from torch import Tensor

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Batch
from recmtl.models import ESCM2

NAN = float("nan")
CLICK, BUY, WEIGHT = [1, 0, 1, NAN, 1], [1, 0, 0, NAN, NAN], [2.0, 1.0, 1.0, 5.0, 3.0]
LOGITS = {"ctr": [-1.0, 0.5, -4.0, 0.3, 1.0], "cvr": [0.2, 3.0, -0.7, 1.0, 2.0], "imputation": [0.1, -2.0, 1.5, 0, 1]}


@pytest.fixture(scope="module")
def schema() -> recmtl.FittedSchema:
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy", given="click", weight=2.0)]
    card = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel=recmtl.Funnel("click", "buy"), weight="w")
    rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0], "w": [1.0, 1.0, 1.0]})
    return recmtl.prepare(card, rows, holdout=0).schema


def batch() -> Batch:
    ids, labels = torch.zeros(5, 1, dtype=torch.int32), torch.tensor([CLICK, BUY]).T
    return Batch(ids, torch.zeros(5, 0), labels, weight=torch.tensor(WEIGHT))


def naive(estimator: str, most: float) -> float:
    """The last two rows do not count: their clicks or conversions are not known."""
    total = 0.0
    for row in range(3):
        entropy = math.log1p(math.exp(-LOGITS["cvr"][row] * (1 if BUY[row] else -1)))
        weight = CLICK[row] * min(1 + math.exp(-LOGITS["ctr"][row]), most)
        imputed = math.log1p(math.exp(LOGITS["imputation"][row]))
        of_row = weight * entropy
        if estimator == "dr":
            of_row = imputed + weight * (entropy - imputed) + weight * (entropy - imputed) ** 2
        total += WEIGHT[row] * of_row
    return 2.0 * total / sum(WEIGHT[:3])


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("most", [15.0, 100.0])
@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_the_loss_of_cvr(estimator: str, most: float, members: int, schema: recmtl.FittedSchema) -> None:
    model = ESCM2(schema, estimator=estimator, max_weight=most, tower_layers=[2])
    logits = {name: torch.tensor(values, requires_grad=True) for name, values in LOGITS.items()}
    read = logits if members == 1 else {name: v[:, None].expand(5, members) for name, v in logits.items()}
    losses = model.losses({**read, "ctcvr": read["cvr"]}, batch())
    assert list(losses) == ["ctr", "cvr", "ctcvr"]
    assert losses["cvr"].item() == pytest.approx(naive(estimator, most), rel=1e-6)
    of_ctr = torch.autograd.grad(losses["cvr"], logits["ctr"], allow_unused=True)[0]
    assert of_ctr is None  # the weights pass no gradient on


def test_the_square_trains_the_imputation_alone(schema: recmtl.FittedSchema) -> None:
    """So the CVR tower has the gradient of inverse propensity scores, with both estimators."""
    found = []
    for estimator in ("ips", "dr"):
        logits = {name: torch.tensor(values, requires_grad=True) for name, values in LOGITS.items()}
        losses = ESCM2(schema, estimator=estimator, tower_layers=[2]).losses(
            {**logits, "ctcvr": logits["cvr"]}, batch()
        )
        found.append(torch.autograd.grad(losses["cvr"], logits["cvr"])[0])
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_the_loss_of_cvr_on_a_thinned_file_is_that_of_all_rows(estimator: str) -> None:
    """Each outcome stands once, weighted by its share, so that inverse propensity scores are exact."""
    items = {"a": (0.02, 0.05), "b": (0.4, 0.5)}  # P(click), P(conversion | click)
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy", given="click")]
    card = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel=recmtl.Funnel("click", "buy"), weight="share")
    found = []
    for rate in (1.0, 0.1):
        shares = [
            (item, click, buy, share * (1 if click else rate))
            for item, (c, v) in items.items()
            for click, buy, share in ((0, 0, 1 - c), (1, 0, c * (1 - v)), (1, 1, c * v))
        ]
        rows = pd.DataFrame(shares, columns=["item", "click", "buy", "share"])
        thinning = recmtl.Thinning(rate, ["click"]) if rate < 1 else None
        data = recmtl.prepare(card, rows, holdout=0, thinning=thinning)
        whole = next(recmtl.Loader(data.train, len(rows)).epoch())
        clicks = torch.tensor([0.0, 0.0, *(items[item][0] for item in data.schema.vocabularies["item"].to_pylist())])
        model = ESCM2(data.schema, estimator=estimator, max_weight=100.0, tower_layers=[2])

        def loss_of(processes: ProcessGroup, whole: Batch, clicks: Tensor, model: ESCM2, rate: float) -> float:
            read = whole.part(processes)
            c = clicks[read.ids[:, 0].long()].double()
            logits = {"ctr": torch.logit(c / (c + rate * (1 - c))), "cvr": torch.logit(torch.full_like(c, 0.3))}
            logits |= {"imputation": torch.full_like(c, -0.5), "ctcvr": logits["cvr"]}
            return model.losses(logits, read)["cvr"].item()

        found += [sum(in_threads(number, loss_of, whole, clicks, model, rate)) for number in (1, 2)]
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)
    if estimator == "ips":  # the cross-entropy of 0.3 in all rows, clicked or not
        expected = sum(-v * math.log(0.3) - (1 - v) * math.log(0.7) for _, v in items.values()) / len(items)
        assert found[0] == pytest.approx(expected, rel=1e-6)


PARENTS = {"click": None, "like": "click", "cart": "click", "pay": "cart"}


@pytest.mark.parametrize("estimator", ["ips", "dr"])
@pytest.mark.parametrize("labels", [["click", "cart", "pay"], ["click", "like", "cart", "pay"]], ids=["chain", "tree"])
def test_of_a_longer_funnel_the_propensity_is_the_joint_rate_of_the_step_before(
    labels: list[str], estimator: str
) -> None:
    columns = {"click": [1, 0, 1, 1], "like": [0, 0, 1, 0], "cart": [1, 0, 1, 0], "pay": [1, 0, 0, 0]}
    rows = pd.DataFrame({"item": list("abab"), **{label: columns[label] for label in labels}})
    funnel = recmtl.Funnel(parents={label: PARENTS[label] for label in labels})
    card = recmtl.Schema([recmtl.Categorical("item")], [recmtl.Task("click", "click")], funnel=funnel)
    fitted = recmtl.prepare(card, rows, holdout=0).schema
    model = ESCM2(fitted, estimator=estimator, max_weight=9.0, tower_layers=[2])
    rates = card.funnel_rates
    imputations = [f"imputation_{s.conditional.name}" for s in rates if s.parent] if estimator == "dr" else []
    assert list(model.heads) == [*(s.conditional.name for s in rates), *imputations]
    assert [task.name for task in model.objectives] == [task.name for task in card.funnel_tasks]
    random = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(4, generator=random, dtype=torch.float64) for name in model.heads}
    logits = model.outputs(heads)
    batch = Batch(torch.zeros(4, 1, dtype=torch.int32), torch.zeros(4, 0), torch.tensor(rows[labels].to_numpy(float)))
    losses = model.losses(logits, batch)
    assert list(losses) == [task.name for task in model.objectives]
    p = {name: torch.sigmoid(logit).tolist() for name, logit in logits.items()}
    for step in rates[1:]:
        path, total = funnel.ancestors(step.label), 0.0
        for row in range(4):
            before = math.prod(p[s.conditional.name][row] for s in rates if s.label in path)
            q, counts = p[step.conditional.name][row], columns[step.parent][row]
            entropy = -math.log(q if columns[step.label][row] else 1 - q)
            weight, of_row = counts * min(1 / before, 9.0), 0.0
            if estimator == "dr":
                imputed = -math.log(1 - p[f"imputation_{step.conditional.name}"][row])
                of_row = imputed + weight * ((entropy - imputed) + (entropy - imputed) ** 2)
            total += of_row if estimator == "dr" else weight * entropy
        assert losses[step.conditional.name].item() == pytest.approx(total / 4, rel=1e-9)
    assert [*model.eval().outputs(heads)] == [name for name in logits if name not in imputations]


def test_predicts_ctr_cvr_and_ctcvr(schema: recmtl.FittedSchema) -> None:
    model = ESCM2(schema, tower_layers=[2])
    assert list(model(batch())) == ["ctr", "cvr", "imputation", "ctcvr"]
    logits = model.eval()(batch())
    assert list(logits) == ["ctr", "cvr", "ctcvr"]
    p = {name: torch.sigmoid(logit) for name, logit in logits.items()}
    torch.testing.assert_close(p["ctcvr"], p["ctr"] * p["cvr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "snips"}, r"`estimator` must be one of \('ips', 'dr'\), got 'snips'"),
        ({"max_weight": 0.5}, "`max_weight` must be at least 1, got 0.5"),
    ],
)
def test_says_what_is_wrong(options: dict[str, object], message: str, schema: recmtl.FittedSchema) -> None:
    with pytest.raises(ValueError, match=message):
        ESCM2(schema, **options)


def test_needs_a_funnel_and_no_other_task(small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="ESCM2 predicts only the tasks of the funnel"):
        ESCM2(small.schema)
