"""What a balancer has learned stays with the model: in its state, its file, its fold, and the next trainer."""

import copy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import recmtl
from recmtl import balance
from recmtl.balance import Balancer
from recmtl.data import Batch, Loader
from recmtl.models import RankingModel
from recmtl.models.base import IdentityFork
from recmtl.train import Optimization, Step
from tests.contracts.test_models import BALANCERS, built, each_once, each_pair

OPTIONS = Optimization(batch_size=256, balancer_rate=0.05)
RUN = recmtl.RunConfig(progress=False, device="cpu")
# Options unlike the defaults: a model that gets its balancer from a state must train on with these.
CHOSEN: dict[str, dict[str, object]] = {
    "GradNorm": {"alpha": 0.5, "lr": 0.1},
    "MetaBalance": {"relax_factor": 0.2, "beta": 0.5, "strategy": "reduce", "target": "ctr"},
    "PCGrad": {"reduction": "sum", "scope": "part", "seed": 7},
    "PPCGrad": {"reduction": "sum", "scope": "part"},
    "DBMTL": {"beta": 0.5, "decay": 0.5},
    "GradCraft": {"tau": 0.5, "epsilon": 0.2, "reduction": "sum", "scope": "part"},
    "GradVac": {"beta": 0.5, "scope": "part", "seed": 7},
    "MGDA": {"normalization": "loss+"},
    "IMTLG": {},
    "AlignedMTL": {"preference": [0.7, 0.3]},
    "CAGrad": {"c": 0.2},
    "UPGrad": {"preference": [0.7, 0.3]},
    "DualProj": {"preference": [0.7, 0.3]},
    "NashMTL": {"every": 2, "max_norm": 0.5},
    "FairGrad": {"alpha": 2.0},
    "GradDrop": {"leak": 0.25, "seed": 7},
    "NormalizedSplitter": {"beta": 0.5, "projection": "before", "seed": 7},
    "RotateOnly": {"rotation_size": 3, "normalize_losses": True},
    "RotoGrad": {"rotation_size": 3, "orthogonal_map": "matrix_exp", "burn_in": 2},
    "RotoGradNorm": {"rotation_size": 3, "burn_in": 2, "alpha": 0.5, "lr": 0.1},
    "RLW": {"seed": 7},
    "GLS": {},
    "STCH": {"mu": 1.0, "preference": [0.7, 0.3], "reference": [0.1, 0.2]},
    "IMTLL": {"lr": 0.1},
    "UncertaintyWeighting": {"regressions": ["ctr"], "lr": 0.1},
    "DWA": {"temperature": 3.0},
    "FAMO": {"lr": 0.1, "decay": 0.1},
    "ExcessMTL": {"lr": 0.1},
    "Sum": {},
    "FixedWeights": {"task_weights": {"ctr": 0.3}},
}


@pytest.fixture
def batch(aliexpress: recmtl.PreparedData) -> Batch:
    return next(Loader(aliexpress.train, 256, seed=0).epoch())


def trained(model: RankingModel, balancer: Balancer, batch: Batch) -> RankingModel:
    """Return the model after three steps: one more than the longest burn-in."""
    step = Step(recmtl.Trainer(model, balancer, run=RUN).model, balancer, OPTIONS, 20)
    for _ in range(3):
        step(batch)
    return model


def outputs(model: RankingModel, batch: Batch) -> list[torch.Tensor]:
    """Return the logits in evaluation mode."""
    with torch.no_grad():
        return list(copy.deepcopy(model).eval()(batch).values())


@each_pair
def test_a_fresh_model_takes_the_state_of_a_trained_one_and_trains_on_alike(
    cls: type, balancer: type, aliexpress: recmtl.PreparedData, batch: Batch, tmp_path: Path
) -> None:
    """From a file, and with MMOE from memory, too, where the tensors are the first model's own."""
    model, options = built(cls, aliexpress), dict(CHOSEN[balancer.__name__])
    for name in {"preference", "reference"} & options.keys():  # one number per objective, of which ESCM2 has three
        options[name] = [*options[name], 0.5][: len(model.objectives)]
    trained(model, balancer(**options), batch)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    states = [torch.load(tmp_path / "model.pt", weights_only=True), model.state_dict()]
    several = [model]
    for state in states[: 2 if cls is recmtl.MMOE else 1]:
        fresh = built(cls, aliexpress, seed=1)
        fresh.load_state_dict(state)
        assert type(fresh.fork) is balancer
        assert repr(fresh.fork) == repr(model.fork)
        assert (fresh.fork.names, fresh.fork.head_names) == (model.fork.names, model.fork.head_names)
        assert all(map(torch.equal, outputs(fresh, batch), outputs(model, batch)))
        assert all(map(torch.equal, outputs(fresh.fold(), batch), outputs(model.fold(), batch)))
        several.append(fresh)
    for one in several:
        trainer = recmtl.Trainer(one, run=RUN)  # keeps the balancer
        assert trainer.balancer is one.fork
        step = Step(one, trainer.balancer, OPTIONS, 20)
        for _ in range(2):
            step(batch)
        assert all(map(torch.equal, one.state_dict().values(), model.state_dict().values()))


@each_once
def test_a_pickled_model_keeps_its_balancer(
    cls: type, balancer: type, aliexpress: recmtl.PreparedData, batch: Batch, tmp_path: Path
) -> None:
    model = trained(built(cls, aliexpress), balancer(), batch)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(loaded.fork) is balancer
    assert all(map(torch.equal, outputs(loaded, batch), outputs(model, batch)))
    fresh = built(cls, aliexpress, seed=1)
    fresh.load_state_dict(loaded.state_dict())
    assert all(map(torch.equal, outputs(fresh, batch), outputs(model, batch)))


@each_once
def test_a_run_folder_keeps_the_balancer(
    cls: type, balancer: type, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    def trainer(model: RankingModel, method: Balancer | None) -> recmtl.Trainer:
        run = recmtl.RunConfig(folder=tmp_path / "run", progress=False, tensorboard=False, device="cpu")
        return recmtl.Trainer(model, method, epochs=1, optimization=OPTIONS, run=run)

    first = trainer(built(cls, aliexpress), balancer()).fit(aliexpress.train, aliexpress.valid)
    expected = first.predict(aliexpress.test)
    again = trainer(built(cls, aliexpress, seed=1), balancer()).load()
    pd.testing.assert_frame_equal(again.predict(aliexpress.test), expected)
    kept = recmtl.Trainer(again.model, run=RUN)
    assert kept.balancer is again.balancer
    pd.testing.assert_frame_equal(kept.predict(aliexpress.test), expected)


ROTATIONS = [balance.RotateOnly, balance.RotoGrad, balance.RotoGradNorm]


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_learned_rotations_are_never_replaced(rotation: type, aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    model = trained(built(recmtl.MMOE, aliexpress), rotation(), batch)
    before, fork = outputs(model, batch), model.fork
    name = rotation.__name__
    for other in BALANCERS:
        with pytest.raises(ValueError, match=f"behind the rotations of {name}, which {other.__name__} would replace"):
            recmtl.Trainer(model, other(), run=RUN)
    assert model.fork is fork
    folded = model.fold()
    again = recmtl.Trainer(folded, recmtl.PCGrad(), run=RUN)
    for mine, theirs in zip(outputs(again.model, batch), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_balancer_that_changes_no_view_may_be_replaced(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    model = trained(built(recmtl.MMOE, aliexpress), recmtl.MetaBalance(), batch)
    before = outputs(model, batch)
    assert type(recmtl.Trainer(model, recmtl.PCGrad(), run=RUN).model.fork) is recmtl.PCGrad
    assert all(map(torch.equal, outputs(model, batch), before))


def test_without_a_trained_fork_the_default_is_the_sum(aliexpress: recmtl.PreparedData) -> None:
    assert type(recmtl.Trainer(built(recmtl.MMOE, aliexpress), run=RUN).balancer) is recmtl.Sum


def test_a_fork_of_ones_own_is_not_replaced(aliexpress: recmtl.PreparedData) -> None:
    class Halved(nn.Module):
        pass

    model = built(recmtl.MMOE, aliexpress)
    model.fork = Halved()
    with pytest.raises(ValueError, match=r"`model\.fork` is a Halved, which a balancer would replace"):
        recmtl.Trainer(model, run=RUN)


def test_a_state_of_another_method_is_refused(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    state = trained(built(recmtl.MMOE, aliexpress), recmtl.PPCGrad(), batch).state_dict()
    other = built(recmtl.MMOE, aliexpress)
    recmtl.Trainer(other, recmtl.Sum(), run=RUN)
    with pytest.raises(RuntimeError, match="expected the state of Sum, got that of PPCGrad"):
        other.load_state_dict(state)


class OwnSum(balance.Sum):
    """A method of one's own with options that JSON holds, or not."""

    def __init__(self, factor: object = 1.0) -> None:
        super().__init__()
        self.factor = factor


def test_a_method_of_ones_own_comes_back_if_it_is_imported(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    state = trained(built(recmtl.MMOE, aliexpress), OwnSum(3.0), batch).state_dict()
    fresh = built(recmtl.MMOE, aliexpress)
    fresh.load_state_dict(state)
    assert type(fresh.fork) is OwnSum
    assert fresh.fork.factor == 3.0


@pytest.mark.parametrize("factor", [(1, 2), torch.ones(2), {1: 2}])
def test_options_that_cannot_be_saved_are_said(factor: object, aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    state = trained(built(recmtl.MMOE, aliexpress), OwnSum(factor), batch).state_dict()
    fresh = built(recmtl.MMOE, aliexpress)
    with pytest.raises(
        RuntimeError, match=r"OwnSum, which cannot be built .*options cannot be saved.*set `model.fork`"
    ):
        fresh.load_state_dict(state)
    assert isinstance(fresh.fork, IdentityFork)
    fresh.fork = OwnSum(factor)
    fresh.load_state_dict(state)


def test_a_method_that_is_not_imported_is_said(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    state = trained(built(recmtl.MMOE, aliexpress), OwnSum(), batch).state_dict()
    text = bytes(state["fork._extra_state"].tolist()).replace(b"OwnSum", b"Unknown")
    state["fork._extra_state"] = torch.tensor(list(text), dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=r"Unknown, which cannot be built from it \(its class is not imported\)"):
        built(recmtl.MMOE, aliexpress).load_state_dict(state)


def test_every_method_is_found_though_only_models_were_imported() -> None:
    names = [method.__name__ for method in BALANCERS]
    code = f"""
from recmtl import MMOE
from recmtl.balance.restoring import imported_balancer
assert all(imported_balancer(name).__name__ == name for name in {names})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
