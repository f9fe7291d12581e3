"""Runs of Weights & Biases, in a stand-in for its client."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import recmtl
from recmtl.callbacks import FitResult, TrainingContext, records


class Run:
    """A run of the stand-in; the server has rows up to the step before `starting_step`."""

    def __init__(self, starting_step: int = 0, **given: Any) -> None:
        self.given, self.starting_step = given, starting_step
        self.id = given["id"] or "abc"
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None

    def log(self, content: dict[str, float], step: int) -> None:
        self.rows.append((step, content))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were begun."""
    module, begun = ModuleType("wandb"), list[Run]()

    def init(**given: Any) -> Run:
        begun.append(Run(4 if given["resume"] else 0, **given))
        return begun[-1]

    vars(module)["init"] = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(records, "find_spec", lambda name: object())
    return begun


def record(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "loss": {"ctr": loss, "cvr": None}}


def test_a_run_holds_the_numbers_and_the_options(runs: list[Run], context: Callable[..., TrainingContext]) -> None:
    logger = recmtl.WandB("ads", entity="team")
    logger.on_fit_start(context(step=0, options={"epochs": 3}))
    logger.on_record(context(), record(4, 0.5))
    logger.on_fit_end(context(), FitResult(best=0.7))
    logger.close()
    (run,) = runs
    assert run.given["project"] == "ads"
    assert (run.given["entity"], run.given["config"], run.given["resume"]) == ("team", {"epochs": 3}, None)
    assert run.rows == [(4, {"loss/ctr": 0.5})]
    assert run.summary == {"monitor": "auc", "best": 0.7, "stopped": None}
    assert run.exit_code == 0


def test_a_resumed_training_goes_on_behind_what_is_there(
    runs: list[Run], context: Callable[..., TrainingContext]
) -> None:
    """The server has steps up to 3; two records were not logged when the callback failed."""
    first = recmtl.WandB()
    first.on_fit_start(context(step=0))
    for step in (1, 2, 3):
        first.on_record(context(), record(step, 1.0))
    state = first.state_dict()
    first.close()
    second = recmtl.WandB()
    second.load_state_dict(state)
    second.on_fit_start(context(step=5, records=[record(step, 1.0) for step in (1, 2, 3, 4, 5)]))
    second.on_record(context(), record(6, 0.5))
    assert (runs[1].given["id"], runs[1].given["resume"]) == ("abc", "allow")
    assert [step for step, _ in runs[1].rows] == [4, 5, 6]
    assert second.state_dict() == {"run_id": "abc", "logged": 6}
    assert runs[0].exit_code == 1
    # After a kill the checkpoint is older than what the server has: no step is logged again.
    third = recmtl.WandB()
    third.load_state_dict({"run_id": "abc", "logged": 1})
    third.on_fit_start(context(step=1, records=[record(1, 1.0)]))
    for step in (2, 3, 4):
        third.on_record(context(), record(step, 1.0))
    assert [step for step, _ in runs[2].rows] == [4]
