"""Searches on disk, with trials that need no training: what is drawn, pruned, run again, counted and refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recmtl.errors import RunError
from recmtl.tuning import Tuning
from recmtl.tuning.progress import shown_values
from recmtl.tuning.record import SearchRecord
from recmtl.tuning.space import Choices, Range, SearchOption, SearchSpace
from recmtl.tuning.study import JOURNAL, Outcome, Search
from recmtl.tuning.tables import markdown, notes, tables, write_results

OPTIONS = (
    SearchOption("lr", Range(0.001, 1.0, log=True)),
    SearchOption("balancer", Choices(("Sum", "GradNorm"))),
    SearchOption("balancer.alpha", Range(0.0, 2.0), (("balancer", "GradNorm"),)),
)
SPACE = SearchSpace(OPTIONS, {})
RECORD = SearchRecord({"data": {}, "trainer": {}}, SPACE.record(), "rows", "auc", True, 0, "median")


class Recipe:
    """Returns the arguments of a trial as its recipe."""

    def of_trial(self, options: list[str]) -> dict[str, Any]:
        if "--balancer=GradNorm" in options and any(o.startswith("--balancer.alpha=1.9") for o in options):
            raise ValueError("such an alpha\ncannot be")
        return {"options": options}

    complete = of_trial


def searched(folder: Path, trials: int = 12, **changes: Any) -> Search:
    record = replace(RECORD, **changes)
    return Search(folder, Recipe(), SPACE, record, trials)  # type: ignore[arg-type]


def outcome(values: dict[str, Any]) -> Outcome:
    """A value that is best at a learning rate of 0.03, by GradNorm; the highest rates diverge."""
    if values["lr"] > 0.6:
        return Outcome(None, 1.0, "the training has diverged by step 7")
    return Outcome(1 - abs(values["lr"] - 0.03) + 0.1 * (values["balancer"] == "GradNorm"), 1.0)


def run(search: Search, most: int | None = None, kill: bool = False) -> None:
    """Run trials to the end, or begin one more, which is killed."""
    while search.waiting and most != 0:
        proposal = search.ask()
        search.tell(
            proposal.number, outcome(dict(proposal.values)) if proposal.recipe else Outcome(None, 0.0, proposal.error)
        )
        most = None if most is None else most - 1
    if kill:
        search.report(search.ask().number, 1, 0.4)


def frame(folder: Path) -> list[list[Any]]:
    return json.loads(Tuning(folder).trials.to_json(orient="values"))  # NaN as null


def test_a_killed_trial_is_run_again_and_the_study_is_the_same(tmp_path: Path) -> None:
    run(searched(tmp_path / "whole", 25))
    for most in (3, 0, 8, 1):
        run(searched(tmp_path / "killed", 25), most, kill=True)
        journal = tmp_path / "killed" / JOURNAL
        journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "worker_id": "half a li')
    search = searched(tmp_path / "killed", 25)
    assert (search.waiting, search.running) == (25 - 12, 0)
    run(search)
    assert frame(tmp_path / "killed") == frame(tmp_path / "whole")
    assert len(search._study.trials) == 25 + 4  # those that were killed are on record
    assert [trial for trial, *_ in frame(tmp_path / "killed")] == list(range(25))
    assert searched(tmp_path / "killed", 25).waiting == 0


def test_a_seed_decides_what_is_drawn(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        run(searched(tmp_path / name, seed=seed))
    assert frame(tmp_path / "one") == frame(tmp_path / "same")
    assert frame(tmp_path / "one") != frame(tmp_path / "other")


def test_more_trials_go_on_as_if_there_had_been_as_many_at_once(tmp_path: Path) -> None:
    run(searched(tmp_path / "whole", 14))
    run(searched(tmp_path / "more", 11))
    run(searched(tmp_path / "more", 14))
    assert frame(tmp_path / "more") == frame(tmp_path / "whole")
    with pytest.raises(RunError, match="holds 14 trials: give `--trials` of at least that, got 12"):
        searched(tmp_path / "more", 12)


def test_trials_at_once_are_no_more_than_were_asked_for(tmp_path: Path) -> None:
    search = searched(tmp_path, 3)
    proposals = [search.ask() for _ in range(3)]
    assert (search.waiting, search.running, {p.number for p in proposals}) == (0, 3, {0, 1, 2})
    for proposal in proposals:
        search.tell(proposal.number, Outcome(0.5, 1.0))
    assert (search.waiting, len(Tuning(tmp_path).trials)) == (0, 3)


def test_a_trial_below_the_median_at_the_same_evaluation_is_pruned_with_its_reason(tmp_path: Path) -> None:
    search = searched(tmp_path, 7)
    for number in range(5):
        proposal = search.ask()
        for evaluation in (1, 2, 3):
            assert not search.report(proposal.number, evaluation, 0.1 * number + 0.01 * evaluation)
        search.tell(proposal.number, Outcome(0.1 * number + 0.03, 1.0))
    slow, other = search.ask(), search.ask()
    assert not search.report(slow.number, 1, 0.0)  # the first evaluation prunes nothing
    assert search.report(slow.number, 2, 0.21)  # below 0.22, the median after two evaluations
    assert not search.report(other.number, 2, 0.23)  # though below the median after three evaluations
    search.tell(slow.number, Outcome(0.21, 1.0, None, True))
    search.tell(other.number, Outcome(0.23, 1.0))
    row = Tuning(tmp_path).trials.loc[slow.number]
    assert (row["state"], row["value"], row["evaluations"]) == ("pruned", 0.21, 2)
    assert row["reason"] == "after evaluation 2, worse than the median 0.2200 of 5 trials"
    assert any("Pruned: 1 of 7 trials" in note and "learn slowly" in note for note in notes(Tuning(tmp_path)))


def test_no_pruner_prunes_nothing_and_lower_may_be_better(tmp_path: Path) -> None:
    search = searched(tmp_path, 8, pruner="none", higher_is_better=False, monitor="logloss")
    for number in range(8):
        proposal = search.ask()
        assert not any(search.report(proposal.number, evaluation, number) for evaluation in (1, 2, 3))
        search.tell(proposal.number, Outcome(float(number), 1.0))
    assert Tuning(tmp_path).best_value == 0.0


def test_failed_trials_count_with_their_reasons_and_the_best_is_found(tmp_path: Path) -> None:
    search = searched(tmp_path, 30)
    run(search)
    tuning = Tuning(tmp_path)
    failed = tuning.trials[tuning.trials["state"] == "failed"]
    assert (
        {"the training has diverged by step 7"}
        <= set(failed["reason"])
        <= {
            "the training has diverged by step 7",
            "such an alpha cannot be",
        }
    )
    finished = tuning.trials[tuning.trials["state"] == "finished"]
    assert len(failed) + len(finished) == 30
    assert tuning.best_value == finished["value"].max() > 1.05
    assert tuning.best_options["balancer"] == "GradNorm"
    assert search.best_recipe() == {"options": SPACE.arguments(tuning.best_options)}
    shares = tuning.importances()
    assert shares["balancer"] + shares["lr"] == pytest.approx(1)
    assert shares["lr"] > 0.5
    assert math.isnan(shares["balancer.GradNorm.alpha"])  # nothing else varies among its trials: it had 100 %
    write_results(tuning)
    table = (tmp_path / "tuning.md").read_text()
    assert f"| balancer | GradNorm | {(finished['balancer'] == 'GradNorm').sum()} | 0 |" in table
    assert f"Best auc on the validation rows: {tuning.best_value:.4f}, with lr" in table
    assert "trial" in (tmp_path / "trials.csv").read_text()
    assert [row[0] for row in tables(tuning)[0].rows] == ["lr", "balancer", "balancer.GradNorm.alpha"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"data": {}, "trainer": {"epochs": 2}}}, "searches a recipe with `trainer.epochs` None, got 2"),
        ({"space": SPACE.record()[:1]}, "was begun with another search space"),
        ({"data": "others"}, "was begun on other training or validation rows"),
        ({"monitor": "logloss"}, "was begun with the monitor 'auc', got 'logloss'"),
        ({"seed": 1}, "was begun with the seed 0, got 1"),
        ({"pruner": "none"}, "was begun with the pruner 'median', got 'none'"),
    ],
)
def test_another_search_in_the_folder_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    searched(tmp_path)
    with pytest.raises(RunError) as found:
        searched(tmp_path, **change)
    assert message in str(found.value)
    assert "give another `--out`" in str(found.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tuning.json").unlink(), "is no search: there is no tuning.json"),
        (lambda folder: (folder / "tuning.json").write_text("{}"), "tuning.json cannot be used"),
        (lambda folder: (folder / JOURNAL).unlink(), "has no study.journal: no trial has begun"),
        (lambda folder: (folder / JOURNAL).write_text("{\n{}\n"), "study.journal is damaged"),
    ],
)
def test_damage_is_said(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    run(searched(tmp_path, 1))
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        _ = Tuning(tmp_path).trials


def test_options_of_the_same_name_are_told_apart() -> None:
    rate, other = "trainer.optimization.optimizer.lr", "balancer.lr"
    assert shown_values({rate: 0.00321, "model.experts": 8}) == "lr 0.00321, experts 8"
    assert shown_values({rate: 0.00321, other: 0.5}) == "optimizer.lr 0.00321, balancer.lr 0.5"
    assert shown_values({"trainer.clip": None, "model.gate": True}) == "clip null, gate true"


def test_choices_are_counted_by_the_trials_that_took_them(tmp_path: Path) -> None:
    """Whole numbers that only some trials have, ``None`` beside numbers, and both kinds of numbers."""
    space = SearchSpace(
        (
            SearchOption("balancer", Choices(("Sum", "GradNorm"))),
            SearchOption("layers", Choices((2, 4)), (("balancer", "GradNorm"),)),
            SearchOption("clip", Choices((None, 0.5, 1))),
            SearchOption("batch", Choices((1024, 4096))),
        ),
        {},
    )
    search = Search(tmp_path, Recipe(), space, replace(RECORD, space=space.record()), 12)  # type: ignore[arg-type]
    drawn = []
    while search.waiting:
        proposal = search.ask()
        drawn.append(dict(proposal.values))
        search.tell(proposal.number, Outcome(0.5 + 0.1 * (drawn[-1]["clip"] is None), 1.0))
    tuning = Tuning(tmp_path)
    found = {(option, choice): count for option, choice, count, *_ in tuning.choices().itertuples(index=False)}
    assert set(found) >= {("layers", 2), ("layers", 4), ("clip", None), ("clip", 0.5), ("clip", 1)}
    missing = object()
    assert found == {
        (name, choice): sum(values.get(name, missing) == choice for values in drawn) for name, choice in found
    }
    assert found["clip", None] > 0 < found["layers", 4]
    summary = tuning.summary().set_index("option")
    assert summary.loc["clip", ["best", "best quarter", "searched"]].tolist() == [None, "null", "null, 0.5, 1"]
    assert summary.loc["batch", "best quarter"] in ("1024 to 1024", "4096 to 4096", "1024 to 4096")
    text = "\n".join(map(markdown, tables(tuning)))
    assert "| clip | null |" in text
    assert "None" not in text
    assert set(tuning.trials["layers"].dropna().map(str)) <= {"2", "4"}


@pytest.mark.parametrize("unit", [1.0, 1e-7, 0.0])
def test_the_unit_of_a_metric_does_not_decide_what_mattered(tmp_path: Path, unit: float) -> None:
    space = SearchSpace((SearchOption("a", Choices((1, 2))), SearchOption("b", Choices((None, 0.5)))), {})
    search = Search(tmp_path, Recipe(), space, replace(RECORD, space=space.record()), 8)  # type: ignore[arg-type]
    while search.waiting:
        proposal = search.ask()
        search.tell(proposal.number, Outcome(unit * (5 + (proposal.values["a"] == 1)), 1.0))
    found = Tuning(tmp_path).importances()
    assert found.isna().all() if unit == 0 else found["a"] > 0.8 > found["b"]
