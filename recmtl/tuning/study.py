"""A search on disk: its record, and its trials in a journal of Optuna."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from recmtl.errors import RunError, UsageError, counted
from recmtl.io.display import decimal
from recmtl.io.files import new_file
from recmtl.tuning.record import RECORD, Pruner, SearchRecord
from recmtl.tuning.space import SearchOption, SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

JOURNAL, STUDY = "study.journal", "recmtl"
SLOT, ERROR, KILLED, PRUNED, SECONDS = "number", "error", "killed", "pruned", "seconds"  # what is noted of a trial
FULL_TRIALS = 5  # that are trained to their end before any is pruned
FIRST_PRUNED = 2  # the first evaluation that prunes


@dataclass(frozen=True)
class Proposal:
    """A trial to be run.

    Args:
        number: Its number in the search, from 0; a trial that is run again keeps it.
        values: The values of the searched options by name.
        recipe: Its complete recipe; ``None`` if its options do not fit together.
        error: Why they do not.
    """

    number: int
    values: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        value: The best value of the monitored metric; ``None`` if it failed.
        seconds: How long it took.
        error: Why it failed; ``None`` if it did not.
        pruned: Whether it was pruned.
    """

    value: float | None
    seconds: float
    error: str | None = None
    pruned: bool = False


class Searched(Protocol):
    """What is searched: the recipes of its trials, and what trains them."""

    @property
    def runner(self) -> type[Any]:
        """The `TrialRunner` that trains its trials in a process of their own."""

    def of_trial(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return the recipe of a trial, without test rows, with options as command-line arguments."""

    def complete(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return the recipe to train with options, test rows included."""


def open_study(folder: Path, record: SearchRecord) -> optuna.Study:
    """Open the study in a folder, whose lock is held, and cut off a line that a killed process did not finish."""
    import optuna

    cut_unfinished_line(folder / JOURNAL)
    with quiet():
        return optuna.create_study(
            storage=journal(folder / JOURNAL),
            study_name=STUDY,
            direction="maximize" if record.higher_is_better else "minimize",
            load_if_exists=True,
        )


def journal(path: Path) -> optuna.storages.JournalStorage:
    """Open the journal of a study; the folder's lock is the only one that is needed."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = NoLock()
    return JournalStorage(JournalFileBackend(str(path), lock))


class NoLock:
    """A lock of a journal that does nothing, as Optuna's own remains when a process is killed."""

    def acquire(self) -> bool:
        """Acquire the lock."""
        return True

    def release(self) -> None:
        """Release the lock."""


def cut_unfinished_line(path: Path) -> None:
    """Cut off what follows the last end of a line."""
    content = path.read_bytes() if path.exists() else b""
    kept = content[: content.rfind(b"\n") + 1]
    if kept != content:
        with new_file(path) as file:
            file.write_bytes(kept)


def check_optuna() -> None:
    """Check that Optuna is installed; a `UsageError` names the extra that brings it."""
    if find_spec("optuna") is None:
        raise UsageError('a search needs Optuna: pip install "recmtl[tune]"')


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Optuna logs of itself within a block."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Search:
    """A search for the best options of one recipe; its folder is locked by the caller.

    A trial's values depend on the seed, its number and the trials that ended before it, whatever was killed.

    Args:
        folder: The folder.
        recipe: What is searched.
        space: What is searched.
        record: What belongs to the search.
        trials: How many trials shall end.

    Raises:
        RunError: The folder holds another search, or one with more trials.
    """

    def __init__(self, folder: Path, recipe: Searched, space: SearchSpace, record: SearchRecord, trials: int) -> None:
        self.folder, self.space, self.record, self.trials = folder, space, record, trials
        self._recipe = recipe
        if (folder / RECORD).exists():
            record.check_same(SearchRecord.read(folder), folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            record.write(folder)
        self._study = open_study(folder, record)
        self._study.pruner = make_pruner(record.pruner)
        self._running: dict[int, Trial] = {}
        self._abandon_killed()
        if len(self.ended()) > trials:
            found = counted(len(self.ended()), "trial")
            raise RunError(f"{str(folder)!r} holds {found}: give `--trials` of at least that, got {trials}")

    def _abandon_killed(self) -> None:
        """Mark the trials that ran when the process was killed: their numbers are free again."""
        from optuna.trial import Trial, TrialState

        for frozen in self._study.get_trials(states=(TrialState.RUNNING,)):
            trial = Trial(self._study, frozen._trial_id)
            trial.set_user_attr(KILLED, True)
            self._study.tell(trial, state=TrialState.FAIL)

    def ended(self) -> dict[int, FrozenTrial]:
        """Return the trials that ended by themselves, by number."""
        return ended_trials(self._study)

    @property
    def runner(self) -> type[Any]:
        """The `TrialRunner` that trains its trials."""
        return self._recipe.runner

    @property
    def waiting(self) -> int:
        """How many trials are still to be begun."""
        return self.trials - len(self.ended()) - len(self._running)

    @property
    def running(self) -> int:
        """How many trials run."""
        return len(self._running)

    def ask(self) -> Proposal:
        """Begin the next trial."""
        taken = {*self.ended(), *self._running}
        number = next(n for n in range(self.trials) if n not in taken)
        self._seed(number, "")
        trial = self._study.ask()
        trial.set_user_attr(SLOT, number)
        values = self.space.suggest(trial, lambda name: self._seed(number, name))
        self._running[number] = trial
        try:
            return Proposal(number, values, self._recipe.of_trial(self.space.arguments(values)))
        except ValueError as error:
            return Proposal(number, values, None, " ".join(str(error).split()))

    def _seed(self, number: int, name: str) -> None:
        """Seed a new sampler for each option, so that its draw does not depend on earlier ones."""
        from optuna.samplers import TPESampler

        seed = zlib.crc32(f"{self.record.seed} {number} {name}".encode())
        self._study.sampler = TPESampler(seed=seed, multivariate=False)

    def report(self, number: int, evaluation: int, value: float) -> bool:
        """Record the value of an evaluation, and return whether the trial is pruned."""
        trial = self._running[number]
        trial.report(value, evaluation)
        if not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED, self._reason(evaluation))
        return True

    def _reason(self, evaluation: int) -> str:
        """Return why a trial is pruned."""
        from optuna.trial import TrialState

        others = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [t.intermediate_values[evaluation] for t in others if evaluation in t.intermediate_values]
        middle = f"the median {decimal(median(values))} of {counted(len(values), 'trial')}"
        return f"after evaluation {evaluation}, worse than {middle}"

    def tell(self, number: int, outcome: Outcome) -> None:
        """End a trial."""
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        trial.set_user_attr(SECONDS, outcome.seconds)
        if outcome.error is not None or outcome.value is None:
            trial.set_user_attr(ERROR, outcome.error or f"{self.record.monitor} was never defined")
            self._study.tell(trial, state=TrialState.FAIL)
        elif outcome.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, outcome.value)

    def best_recipe(self) -> dict[str, Any] | None:
        """Return the complete recipe of the best trial, to train it; ``None`` if no trial was trained to its end."""
        best = best_trial(self.ended(), self.record.higher_is_better)
        if best is None:
            return None
        return self._recipe.complete(self.space.arguments(values_of(best, self.space.options)))


def make_pruner(name: Pruner) -> optuna.pruners.BasePruner:
    """Return the pruner of a name.

    What a pruner decides must rest on the trials that ended, and compare equal evaluations: a study that was
    interrupted is the same then, and no pruned trial was ahead of the best one. Successive halving, such as Hyperband,
    does neither.
    """
    from optuna.pruners import MedianPruner, NopPruner

    if name == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=FULL_TRIALS, n_warmup_steps=FIRST_PRUNED)


def ended_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the trials of a study that ended by themselves, by number."""
    found = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and KILLED not in t.user_attrs]
    return {t.user_attrs[SLOT]: t for t in sorted(found, key=lambda trial: trial.user_attrs[SLOT])}


def best_trial(trials: Mapping[int, FrozenTrial], higher_is_better: bool) -> FrozenTrial | None:
    """Return the best of the trials that were trained to their end, the first of equal ones."""
    whole = [trial for trial in trials.values() if trial.state.name == "COMPLETE"]
    sign = 1 if higher_is_better else -1
    return max(whole, key=lambda trial: sign * (trial.value or 0.0), default=None)


def values_of(trial: FrozenTrial, options: Iterable[SearchOption]) -> dict[str, Any]:
    """Return the values of a trial by name, of choices those that the labels in the study stand for."""
    return {
        option.name: option.values.value(trial.params[option.name]) for option in options if option.name in trial.params
    }
