"""The result of a search: its trials, its best recipe, and what mattered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from recmtl.errors import RunError
from recmtl.io.display import as_written
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.tuning.record import SearchRecord
from recmtl.tuning.space import Range, SearchOption
from recmtl.tuning.study import (
    ERROR,
    JOURNAL,
    PRUNED,
    SECONDS,
    STUDY,
    best_trial,
    check_optuna,
    ended_trials,
    journal,
    quiet,
    values_of,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

BEST = "best.yaml"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
COLUMNS = ("trial", "state", "value", "evaluations", "seconds", "reason")
FEWEST = 4  # finished trials from which importances are estimated


class Tuning:
    """A search, finished or not.

    Args:
        folder: Its folder.

    Raises:
        RunError: The folder holds no search.

    Attributes:
        record: What belongs to the search: recipe, space, data, metric, seed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.record = SearchRecord.read(self.folder)
        self._options = [SearchOption.of_record(entry) for entry in self.record.space]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the search in a folder."""
        return cls(folder)

    @cached_property
    def study(self) -> optuna.Study:
        """Optuna's study, for its plots and the like.

        Raises:
            RunError: It is missing or damaged.
        """
        check_optuna()
        import optuna

        path = self.folder / JOURNAL
        if not path.is_file():
            raise RunError(f"{str(self.folder)!r} has no {JOURNAL}: no trial has begun")
        try:
            with quiet():
                return optuna.load_study(storage=journal(path), study_name=STUDY)
        except (ValueError, KeyError) as error:
            raise RunError(f"{path} is damaged: {' '.join(str(error).split())}") from error

    @cached_property
    def options(self) -> list[str]:
        """The names of the options that are searched."""
        return [option.name for option in self._options]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial: number, state, best value, evaluations, seconds, why it failed or was pruned, its options.

        An option that the trial's classes do not have is missing.
        """
        rows = []
        for number, trial in ended_trials(self.study).items():
            state, seen = STATES[trial.state.name], list(trial.intermediate_values.values())
            best = max(seen, default=None) if self.record.higher_is_better else min(seen, default=None)
            value = trial.value if state == "finished" else best if state == "pruned" else None
            reason = trial.user_attrs.get(ERROR if state == "failed" else PRUNED)
            seconds = trial.user_attrs.get(SECONDS)
            fixed = dict(zip(COLUMNS, (number, state, value, len(seen), seconds, reason), strict=True))
            rows.append(fixed | {name: trial.params.get(name) for name in self.options})
        frame = pd.DataFrame(rows, columns=[*COLUMNS, *self.options], dtype=object)  # a choice of 4 is not 4.0
        ranges = {option.name: option.values for option in self._options if isinstance(option.values, Range)}
        numbers = {name: "Int64" if values.integer else "float64" for name, values in ranges.items()}
        fixed_types = {"trial": "int64", "value": "float64", "evaluations": "int64", "seconds": "float64"}
        return frame.astype(fixed_types | numbers)

    @property
    def best_value(self) -> float | None:
        """The best value of the monitored metric; ``None`` if no trial was trained to its end."""
        best = best_trial(ended_trials(self.study), self.record.higher_is_better)
        return None if best is None else best.value

    @property
    def best_options(self) -> dict[str, Any]:
        """The options of the best trial by name; empty if there is none."""
        best = best_trial(ended_trials(self.study), self.record.higher_is_better)
        return {} if best is None else values_of(best, self._options)

    @property
    def best_recipe(self) -> dict[str, Any]:
        """The complete recipe of the best trial, which is in `best.yaml`.

        Raises:
            RunError: No trial was trained to its end.
        """
        try:
            content: dict[str, Any] = from_yaml(read_text(self.folder / BEST))
        except (OSError, ValueError) as error:
            raise RunError(f"{str(self.folder)!r} has no best recipe: no trial was trained to its end") from error
        return content

    def importances(self) -> pd.Series:
        """The share of each option in the variance of the finished trials' values, by functional ANOVA.

        Options of a class that is searched have their share among the trials of that class. It is NaN for an option
        with fewer than four finished trials, that was the same in all of them, or that alone was not.
        """
        found = {name: float("nan") for name in self.options}
        for names in self._groups():
            found |= self._importances_among(names)
        return pd.Series(found, name="importance", dtype=float)

    def _groups(self) -> list[list[str]]:
        """Return the options without a condition, and those of each class."""
        by_condition: dict[Any, list[str]] = {}
        for option in self._options:
            by_condition.setdefault(option.when, []).append(option.name)
        return list(by_condition.values())

    def _importances_among(self, names: list[str]) -> Mapping[str, float]:
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        whole = [t for t in ended_trials(self.study).values() if t.state.name == "COMPLETE"]
        having = [t for t in whole if all(name in t.params for name in names)]
        varied = [name for name in names if len({t.params[name] for t in having}) > 1]
        values = np.array([t.value for t in having], float)
        if len(having) < FEWEST or len(varied) < 2 or np.ptp(values) <= np.finfo(float).eps * np.abs(values).max():
            return {}

        def standardized(trial: FrozenTrial) -> float:  # trees take tiny variances for none
            return (float(trial.value or 0.0) - float(values.mean())) / float(np.ptp(values))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = get_param_importances(
                    self.study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied, target=standardized
                )
            except RuntimeError:  # bootstrap samples of few trials in which no value varies
                return {}
        return {name: float(share) for name, share in found.items()}

    def summary(self) -> pd.DataFrame:
        """A row per option: its importance, its value in the best trial, and the values in the best quarter.

        The best quarter is that of the finished trials which have the option.
        """
        frame, shares, best = self.trials, self.importances(), self.best_options
        finished = frame[frame["state"] == "finished"].sort_values("value", ascending=not self.record.higher_is_better)
        rows = []
        for option in self._options:
            taken = self._taken(option.name)
            having = [taken[number] for number in finished["trial"] if number in taken]
            quarter = having[: max(1, round(len(having) / 4))]
            of_best = best.get(option.name, float("nan"))
            rows.append((option.name, shares[option.name], of_best, spread(quarter), str(option.values)))
        columns = ["option", "importance", "best", "best quarter", "searched"]
        return pd.DataFrame(rows, columns=columns, dtype=object).astype({"importance": float})

    def choices(self) -> pd.DataFrame:
        """A row per choice of each option that has choices: its trials, its best value, and their median.

        A pruned trial counts with its best value until then.
        """
        rows = []
        pick = "max" if self.record.higher_is_better else "min"
        for option in self._options:
            taken = self._taken(option.name)
            for label in option.values.labels:
                numbers = [number for number, value in taken.items() if str(value) == str(label)]
                of_choice = self.trials[self.trials["trial"].isin(numbers)]
                counts = [int((of_choice["state"] == state).sum()) for state in STATES.values()]
                values = of_choice["value"]
                rows.append((option.name, label, *counts, values.agg(pick), values.median()))
        frame = pd.DataFrame(rows, columns=["option", "choice", *STATES.values(), "best", "median"], dtype=object)
        return frame.astype(dict.fromkeys(STATES.values(), int) | {"best": float, "median": float})

    def _taken(self, name: str) -> dict[int, Any]:
        """Return the value of an option, which may be ``None``, by the numbers of the trials that have it."""
        ended = ended_trials(self.study).items()
        return {number: trial.params[name] for number, trial in ended if name in trial.params}


def spread(values: Sequence[Any]) -> str:
    """Return the range of numbers, or the values that are no numbers."""
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        ends = min(values), max(values)
        return " to ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in ends)
    return ", ".join(dict.fromkeys(map(as_written, values)))
