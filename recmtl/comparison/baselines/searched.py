"""Searches for the options of a baseline: the recipes of its trials, and what fits them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from recmtl.comparison.baselines import BASELINES
from recmtl.comparison.baselines.run import fit_baseline, monitor_of_baseline, monitored
from recmtl.evaluate import own_metrics
from recmtl.tuning.recipes import forget_test_rows
from recmtl.tuning.space import SearchOption, SearchSpace
from recmtl.tuning.trials import TrialRunner

KEY = "baseline."  # of its options in a search


class BaselineTrials(TrialRunner):
    """Fits the trials of baselines, a model of each task with the options of the trial."""

    def train(self, recipe: Mapping[str, Any], trial: Any) -> tuple[float | None, bool]:
        """Fit the models of a recipe, and return the value of the nets' metric on the validation rows."""
        data = self.data(self.parse({"data": recipe["data"]}))
        held_out = replace(data, splits={name: rows for name, rows in data.splits.items() if name != "test"})
        baseline, threads = recipe["baseline"], torch.get_num_threads()
        fitted = baseline["class_path"], baseline.get("init_args") or {}, recipe["seed"], threads, recipe["group"]
        predicted = fit_baseline(held_out, *fitted)[0]["valid"]
        monitor = monitor_of_baseline(recipe, data.schema.schema)
        return monitored(monitor, replace(predicted, own=own_metrics(recipe["metrics"]))), False


@dataclass(frozen=True)
class SearchedBaseline:
    """A baseline whose options are searched: those that it was not given.

    Args:
        recipe: Its recipe, as of `run_baseline`.
    """

    recipe: Mapping[str, Any]
    runner: ClassVar[type[BaselineTrials]] = BaselineTrials

    @property
    def space(self) -> SearchSpace:
        """What is searched; nothing if all of it was given."""
        baseline = self.recipe["baseline"]
        values, given = BASELINES[baseline["class_path"]].search_space, baseline.get("init_args") or {}
        return SearchSpace(tuple(SearchOption(KEY + name, values[name]) for name in values if name not in given), {})

    def complete(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return the recipe with options, such as ``--baseline.learning_rate=0.1``."""
        texts = dict(option.removeprefix(f"--{KEY}").split("=", 1) for option in options)
        baseline, values = self.recipe["baseline"], {name: json.loads(text) for name, text in texts.items()}
        return {**self.recipe, "baseline": baseline | {"init_args": (baseline.get("init_args") or {}) | values}}

    def of_trial(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return the recipe of a trial, which names no test rows."""
        data = dict(self.recipe["data"])
        forget_test_rows(data)
        return self.complete(options) | {"data": data}
