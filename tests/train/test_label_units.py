"""A regression is learnt on its standardized label and predicted in the label's own units."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Batch, Loader
from recmtl.layers import LayerStyle
from recmtl.models import Losses

TASKS = [recmtl.Task("ctr", "click"), recmtl.Task("price", "price", kind="regression")]
SCALE, SHIFT = 1e4, 3e4


class Served(torch.nn.Module):
    """A model from ids and numbers alone, as it is served."""

    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        return self.model(Batch(ids, numeric, labels=ids.new_zeros(ids.shape[0], 2).float()))["price"]


def rows(seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    x, u = random.normal(size=(2, 400))
    click = (random.random(400) < 1 / (1 + np.exp(-2 * u))).astype(int)
    return pd.DataFrame({"x": x, "u": u, "click": click, "price": scale * (x + 0.2 * random.normal(size=400)) + shift})


def prepared(frame: pd.DataFrame, **options: object) -> recmtl.PreparedData:
    schema = recmtl.Schema([recmtl.Numeric("x"), recmtl.Numeric("u")], TASKS, **options)
    return recmtl.prepare(schema, frame, holdout=0)


def trained(data: recmtl.PreparedData, folder: Path | None = None, **options: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    model = recmtl.MMOE(data.schema, experts=2, layers=[8], towers={}, **options)
    run = recmtl.RunConfig(folder=folder, device="cpu", progress=False)
    optimization = recmtl.Optimization(optimizer=partial(torch.optim.Adam, lr=0.01))
    return recmtl.Trainer(model, recmtl.PCGrad(), epochs=4, optimization=optimization, run=run).fit(data.train)


@pytest.mark.parametrize("ensemble", [1, 3])
def test_the_unit_of_a_label_changes_nothing_but_the_unit_of_its_predictions(ensemble: int) -> None:
    style = LayerStyle(ensemble=ensemble)
    found = []
    for scale, shift in ((1.0, 0.0), (SCALE, SHIFT)):
        trainer = trained(prepared(rows(scale=scale, shift=shift)), style=style)
        predicted = trainer.predict(rows(1).drop(columns=["click", "price"]))
        found.append((predicted["ctr"].to_numpy(), predicted["price"].to_numpy()))
    (ctr, price), (other_ctr, other_price) = found
    np.testing.assert_allclose(other_ctr, ctr, atol=2e-3)
    np.testing.assert_allclose(other_price, SCALE * price + SHIFT, atol=5e-3 * SCALE)


def test_a_click_and_a_price_are_both_learnt() -> None:
    trainer = trained(prepared(rows(scale=SCALE, shift=SHIFT)))
    measured = trainer.evaluate(rows(1, SCALE, SHIFT))
    assert measured.loc["ctr", "auc"] > 0.8
    assert measured.loc["price", "r2"] > 0.5
    assert measured.loc["price", "mae"] > 100  # in the label's units


def test_predictions_start_at_the_mean_of_the_label() -> None:
    data = prepared(rows(scale=SCALE, shift=SHIFT))
    model = recmtl.SharedBottom(data.schema).eval()
    torch.nn.init.zeros_(model.heads["price"].tower[1].weight)
    values = model(next(Loader(data.train, 9).epoch()))["price"]
    mean, deviation = data.schema.label_moments(TASKS[1])
    assert values.tolist() == pytest.approx([mean] * 9)
    assert (mean, deviation) == pytest.approx((data.train.labels["price"].mean(), data.train.labels["price"].std()))


@pytest.mark.parametrize(
    ("name", "expected"), [("mse", (1 + 0.25) / 2), ("mae", (1 + 0.5) / 2), ("huber", (0.5 + 0.125) / 2)]
)
def test_the_loss_is_taken_on_the_standardized_label(name: str, expected: float) -> None:
    data = prepared(pd.DataFrame({"x": [0.0, 1.0], "u": [0.0, 1.0], "click": [0, 1], "price": [10.0, 30.0]}))
    batch = next(Loader(data.train, 2, seed=None).epoch())
    task = dataclasses.replace(TASKS[1], loss=name)
    assert data.schema.label_moments(task) == (20.0, 10.0)
    predicted = batch.labels[:, 1] + torch.tensor([10.0, -5.0])  # errors of 1 and 0.5 deviations
    loss = Losses(data.schema, [task])({"price": predicted}, batch)["price"]
    assert loss.item() == pytest.approx(expected)


def test_a_constant_label_is_predicted_as_it_is() -> None:
    data = prepared(rows().assign(price=0.1))
    assert data.schema.label_moments(TASKS[1]) == (pytest.approx(0.1), 1.0)
    assert trained(data).predict(rows(1))["price"].to_numpy() == pytest.approx(0.1, abs=0.05)


def test_folded_exported_and_loaded_models_predict_in_the_labels_units(tmp_path: Path) -> None:
    data = prepared(rows(scale=SCALE, shift=SHIFT))
    trainer = trained(data, tmp_path / "run")
    batch = next(Loader(data.train, 50).epoch())
    model = trainer.model.eval()
    wanted = model(batch)["price"]
    assert wanted.std() > 0.3 * SCALE
    torch.testing.assert_close(model.fold()(batch)["price"], wanted)
    exported = torch.export.export(Served(model.fold()), (batch.ids, batch.numeric)).module()
    torch.testing.assert_close(exported(batch.ids, batch.numeric), wanted)
    fresh = recmtl.MMOE(data.schema, experts=2, layers=[8])
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()(batch)["price"], wanted)
