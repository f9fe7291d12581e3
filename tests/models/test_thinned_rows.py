"""Models trained on thinned rows predict the probabilities of all rows, whichever tasks they predict."""

import dataclasses
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
    model = cls(data.schema, **options).double()
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
