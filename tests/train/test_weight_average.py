"""The average of the weights: what is measured and kept, while training goes on from the weights themselves."""

import copy

import pytest
import torch

import recmtl
from recmtl.data import Loader
from recmtl.train.optimizers import WeightAverage
from recmtl.train.step import Step


def model_of(data: recmtl.PreparedData) -> recmtl.SharedBottom:
    torch.manual_seed(0)
    return recmtl.SharedBottom(data.schema, layers=[8], tower_layers=[4])


def fitted(data: recmtl.PreparedData, ema: float, epochs: int = 2, valid: bool = True) -> recmtl.Trainer:
    trainer = recmtl.Trainer(
        model_of(data),
        epochs=epochs,
        optimization=recmtl.Optimization(batch_size=256, ema=ema),
        stopping=recmtl.EarlyStopping(monitor="logloss", patience=None),
        run=recmtl.RunConfig(progress=False, device="cpu"),
    )
    return trainer.fit(data.train, data.valid if valid else None)


def trajectory(data: recmtl.PreparedData, epochs: int) -> list[dict[str, torch.Tensor]]:
    """Return the weights before the first step and after each step, by a loop of plain steps."""
    model, balancer = model_of(data), recmtl.Sum()
    recmtl.Trainer(model, balancer, run=recmtl.RunConfig(progress=False, device="cpu"))
    loader = Loader(data.train, 256, seed=0)
    step = Step(model, balancer, recmtl.Optimization(batch_size=256, ema=0.0), epochs * len(loader))
    weights = [copy.deepcopy(dict(model.named_parameters()))]
    for epoch in range(epochs):
        for batch in loader.epoch(epoch + 1):
            step(batch)
            weights.append(copy.deepcopy(dict(model.named_parameters())))
    return weights


def averaged(weights: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """Return the average in float64."""
    average = {name: weight.detach().double() for name, weight in weights[0].items()}
    for t, now in enumerate(weights[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        average = {name: d * old + (1 - d) * now[name].detach().double() for name, old in average.items()}
    return average


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_weights_that_are_kept_are_the_average(decay: float, aliexpress: recmtl.PreparedData) -> None:
    trainer = fitted(aliexpress, decay, valid=False)
    expected = averaged(trajectory(aliexpress, epochs=2), decay)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-5)


def test_the_best_weights_are_an_average_of_their_step(aliexpress: recmtl.PreparedData) -> None:
    trainer = fitted(aliexpress, 0.999)
    losses = [r["valid"] for r in trainer.result.records if "valid" in r]
    best = min(range(2), key=lambda epoch: sum(losses[epoch][task]["logloss"] for task in ("ctr", "ctcvr")))
    weights = trajectory(aliexpress, epochs=2)
    expected = averaged(weights[: 1 + (best + 1) * (len(weights) // 2)], 0.999)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-5)


def test_training_goes_on_from_the_weights_themselves(aliexpress: recmtl.PreparedData) -> None:
    losses = [
        [record["loss"] for record in fitted(aliexpress, ema).result.records if "loss" in record]
        for ema in (0.0, 0.999)
    ]
    assert losses[0] == losses[1]


def test_without_an_average_the_weights_themselves_are_kept(aliexpress: recmtl.PreparedData) -> None:
    trainer = fitted(aliexpress, 0.0, valid=False)
    for name, weight in trajectory(aliexpress, epochs=2)[-1].items():
        assert torch.equal(trainer.model.get_parameter(name), weight)


def test_an_error_within_leaves_the_weights() -> None:
    weight = torch.tensor([1.0], requires_grad=True)
    average = WeightAverage([weight], 0.5)
    with torch.no_grad():
        weight += 2
    average.update()
    seen = []

    def fail() -> None:
        seen.append(weight.item())
        raise KeyError

    with pytest.raises(KeyError), average.in_place():
        fail()
    assert seen == [pytest.approx(1 * 2 / 11 + 3 * 9 / 11)]
    assert weight.item() == 3


def test_the_state_of_other_weights_is_refused() -> None:
    other = WeightAverage([torch.zeros(3)], 0.5).state_dict()
    with pytest.raises(ValueError, match="the average of the weights"):
        WeightAverage([torch.zeros(2)], 0.5).load_state_dict(other)


def test_a_decay_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`ema` must be in \[0, 1\), got 1.0"):
        recmtl.Optimization(ema=1.0)
