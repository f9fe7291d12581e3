"""Models trained on thinned rows predict the probabilities of all rows, whichever tasks they predict."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.models import Losses

CTR, CVR, CTCVR = (
    recmtl.Task("ctr", "click"),
    recmtl.Task("cvr", "conversion", given="click"),
    recmtl.Task("ctcvr", "conversion"),
)
TREE = {"click": None, "like": "click", "cart": "click", "pay": "cart"}
PAIRS = [(CTR, CVR), (CTR, CTCVR), (CVR, CTCVR)]
SIZES = {"layers": [32], "tower_layers": [16]}
MODELS = {
    "SharedBottom": (recmtl.SharedBottom, SIZES),
    "MMOE": (recmtl.MMOE, {**SIZES, "experts": 3}),
    "SingleTask": (recmtl.SingleTask, {"layers": [32, 16]}),
    "ESMM": (recmtl.ESMM, {"tower_layers": [32, 16]}),
}
CELLS = [
    (name, pair)
    for name in MODELS
    for pair in PAIRS
    if not (name == "ESMM" and pair == (CVR, CTCVR))  # ESMM always trains CTR and CTCVR
]
CLICK, CONVERSION = np.array([0.02, 0.05, 0.2, 0.4]), np.array([0.5, 0.1, 0.3, 0.05])  # by item


def outcomes(negative_rate: float) -> pd.DataFrame:
    """Each outcome of each item once, weighted by its probability among thinned rows: no sampling error."""
    rows = [
        (item, click, conversion, share * (1 if click else negative_rate))
        for item, (c, v) in enumerate(zip(CLICK, CONVERSION, strict=True))
        for click, conversion, share in ((0, 0, 1 - c), (1, 0, c * (1 - v)), (1, 1, c * v))
    ]
    return pd.DataFrame(rows, columns=["item", "click", "conversion", "share"]).astype({"item": str})


def trained(name: str, tasks: Sequence[recmtl.Task], rate: float, thinning: recmtl.Thinning | None) -> recmtl.Trainer:
    schema = recmtl.Schema([recmtl.Categorical("item")], tasks, recmtl.Funnel("click", "conversion"), weight="share")
    data = recmtl.prepare(schema, outcomes(rate), holdout=0, thinning=thinning)
    cls, options = MODELS[name]
    torch.manual_seed(0)
    return fitted(cls(data.schema, **options).double(), data)


def fitted(model: recmtl.RankingModel, data: recmtl.PreparedData) -> recmtl.Trainer:
    """Train on all rows at once, in float64."""
    batch = next(recmtl.Loader(data.train, 99).epoch())
    batch = dataclasses.replace(
        batch,
        labels=batch.labels.double(),
        weight=batch.weight.double(),
        sampling_weight=None if batch.sampling_weight is None else batch.sampling_weight.double(),
    )
    losses = Losses(model.schema, model.objectives)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.04)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.04 * (1 - step / 300)
        optimizer.zero_grad()
        sum(losses(model(batch), batch).values()).backward()
        optimizer.step()
    return recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False))


@pytest.mark.parametrize(
    ("name", "tasks", "rate"),
    [
        pytest.param(name, pair, rate, id=f"{name}-{'+'.join(task.name for task in pair)}-{rate}")
        for name, pair in CELLS
        for rate in (0.01, 0.5)
        if rate == 0.01 or name in ("SharedBottom", "ESMM")  # whatever the trunk, a model has logits or their product
    ],
)
def test_all_tasks_of_a_funnel_are_calibrated_and_consistent(
    name: str, tasks: tuple[recmtl.Task, ...], rate: float
) -> None:
    fitted = trained(name, tasks, rate, recmtl.Thinning(rate))
    found = fitted.predict(outcomes(1).groupby("item").first().reset_index())
    np.testing.assert_allclose(found.ctr, CLICK, rtol=0.02)
    np.testing.assert_allclose(found.cvr, CONVERSION, rtol=0.02)
    np.testing.assert_allclose(found.ctcvr, CLICK * CONVERSION, rtol=0.02)
    np.testing.assert_allclose(found.ctr * found.cvr, found.ctcvr, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "funnel"),
    [
        (recmtl.SharedBottom, recmtl.Funnel("click", "cart", "pay")),
        pytest.param(recmtl.AITM, recmtl.Funnel(parents=TREE), marks=pytest.mark.slow),
        pytest.param(recmtl.ESMM, recmtl.Funnel(parents=TREE), marks=pytest.mark.slow),
    ],
)
def test_longer_funnels_are_calibrated_on_thinned_rows(cls: type[recmtl.RankingModel], funnel: recmtl.Funnel) -> None:
    """Every outcome of every item once, weighted by its share; rows without a click were thinned."""
    rate, rng = 0.1, np.random.default_rng(0)
    shares = {label: rng.uniform(0.1, 0.6, 3) for label in funnel.labels}  # P(label | step before) by item
    outcomes = []
    for item in range(3):
        for labels in itertools.product((0, 1), repeat=len(funnel.labels)):
            happened, share = dict(zip(funnel.labels, labels, strict=True)), 1.0
            for label, parent in funnel.steps:
                p = shares[label][item] if parent is None or happened[parent] else 0.0
                share *= p if happened[label] else 1 - p
            outcomes.append({"item": str(item), **happened, "share": share * (1 if happened["click"] else rate)})
    rows = pd.DataFrame(outcomes).query("share > 0")
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cart", "cart"), recmtl.Task("pays", "pay", given="cart")]
    schema = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel, weight="share")
    data = recmtl.prepare(schema, rows, holdout=0, thinning=recmtl.Thinning(rate, ["click"]))
    torch.manual_seed(0)
    model = cls(data.schema, tower_layers=[16], **({} if cls is recmtl.ESMM else {"layers": [32]}))
    found = fitted(model.double(), data).predict(pd.DataFrame({"item": ["0", "1", "2"]}))
    for step in schema.funnel_rates:
        joint = math.prod(shares[label] for label in (step.label, *funnel.ancestors(step.label)))
        np.testing.assert_allclose(found[step.joint.name], joint, rtol=0.02)
        np.testing.assert_allclose(found[step.conditional.name], shares[step.label], rtol=0.02)
