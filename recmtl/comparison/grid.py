"""The grid of a comparison: its runs, and the complete recipe of each."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser

from recmtl.comparison.baselines import BASELINES
from recmtl.recipe.options import parse_recipe
from recmtl.recipe.recipe import complete_recipe

SINGLE, SUM = "SingleTask", "Sum"  # a model without shared parameters can only be trained with the plain sum
SUFFIXES = (".yaml", ".yml")

Entry = str | dict[str, Any]


class Variant(NamedTuple):
    """A combination of model, balancer and learning rate, or a baseline, trained once per seed."""

    model: str
    balancer: str  # empty for a baseline
    learning_rate: float | None = None  # the recipe's

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f" at {self.learning_rate:g}"
        return self.model if self.is_baseline else f"{self.model} with {self.balancer}{rate}"

    @property
    def name(self) -> str:
        """The beginning of the names of its folders."""
        rate = [] if self.learning_rate is None else [f"{self.learning_rate:g}"]
        parts = [self.model, *([self.balancer] if self.balancer else []), *rate]
        return "-".join(re.sub(r"[^\w.=+]+", "_", part).strip("_") for part in parts)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a model of another library, one per task."""
        return not self.balancer


@dataclass(frozen=True)
class GridRun:
    """One run of a comparison."""

    variant: Variant
    seed: int
    recipe: Mapping[str, Any]  # complete; empty if the comparison is only read

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{self.variant.name}-{self.seed}"


class GridEntry(NamedTuple):
    """A model, balancer or baseline of the grid."""

    name: str  # in the tables: the class with the options in parentheses, or the stem of the YAML file
    class_name: str
    option: str  # the value of the command's option

    @classmethod
    def parse(cls, entry: Entry) -> GridEntry:
        """Parse a name, a mapping with `class_path` and `init_args`, its text, or the path of a YAML file with one."""
        content, stem = entry, None
        if isinstance(entry, str):
            is_text = entry.lstrip().startswith("{")
            if not is_text and not entry.endswith(SUFFIXES):
                name = entry.rpartition(".")[2]
                return cls(name, name, entry)
            try:
                content = yaml.safe_load(entry if is_text else Path(entry).read_text(encoding="utf-8"))
                stem = None if is_text else Path(entry).stem
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ValueError(f"{entry} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict) or "class_path" not in content:
            raise ValueError(f"{entry} must have `class_path`, and optionally `init_args`")
        class_name = str(content["class_path"]).rpartition(".")[2]
        options = ", ".join(f"{key}={value}" for key, value in _dotted(content.get("init_args") or {}))
        return cls(stem or (f"{class_name}({options})" if options else class_name), class_name, json.dumps(content))


@dataclass(frozen=True)
class Grid:
    """All combinations of models, balancers, learning rates and seeds, and baselines; arguments as of `compare`."""

    models: Sequence[Entry]
    balancers: Sequence[Entry] = (SUM,)
    seeds: int | Sequence[int] = 5
    learning_rates: Sequence[float] = ()
    baselines: Sequence[Entry] = ()

    def __post_init__(self) -> None:
        """Check the lists."""
        lists: dict[str, list[Any]] = {
            "models": [GridEntry.parse(entry).name for entry in self.models],
            "balancers": [GridEntry.parse(entry).name for entry in self.balancers],
            "seeds": self._seeds,
            "learning_rates": [*self.learning_rates],
            "baselines": [GridEntry.parse(entry).name for entry in self.baselines],
        }
        for option, values in lists.items():
            if not values and option not in ("learning_rates", "baselines"):
                raise ValueError(f"`{option}` must not be empty")
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"`{option}` must not have duplicates, got {twice[0]} twice")
        if not all(0 <= seed < 1 << 32 for seed in self._seeds):
            raise ValueError(f"`seeds` must be in [0, 2³²), got {list(self._seeds)}")
        for entry in map(GridEntry.parse, self.baselines):
            if entry.class_name not in BASELINES:
                raise ValueError(f"`baselines` must be of {', '.join(BASELINES)}, got {entry.class_name!r}")
            BASELINES[entry.class_name].check_installed()

    @property
    def _seeds(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def runs(self, parser: ArgumentParser, arguments: Sequence[str]) -> list[GridRun]:
        """Return the runs: each equals `recmtl train` with the shared options `arguments` followed by its own."""
        runs = []
        for model, balancer, rate in self._combinations():
            options = ["--model", model.option, "--balancer", balancer.option]
            options += [] if rate is None else ["--trainer.optimization.optimizer.lr", repr(rate)]
            recipe = complete_recipe(parser, parse_recipe(parser, [*arguments, *options]))
            variant = Variant(model.name, balancer.name, rate)
            runs += [GridRun(variant, seed, with_seed(recipe, seed)) for seed in self._seeds]
        runs += self._baseline_runs(complete_recipe(parser, parse_recipe(parser, arguments)))
        for name, count in Counter(run.name for run in runs).items():
            if count > 1:
                raise ValueError(f"{count} runs would have the folder {name!r}: give their options in YAML files")
        return runs

    def _baseline_runs(self, shared: Mapping[str, Any]) -> Iterator[GridRun]:
        """Yield the runs of the baselines, which have the data of a recipe, its monitor, group and own metrics."""
        for entry in map(GridEntry.parse, self.baselines):
            named = json.loads(entry.option) if entry.option.startswith("{") else {"class_path": entry.option}
            variant, measured = Variant(entry.name, ""), shared["trainer"]["stopping"]
            measured = {key: measured[key] for key in ("monitor", "group", "metrics")}
            for seed in self._seeds:
                recipe = {"data": shared["data"], "baseline": named, "seed": seed} | measured
                yield GridRun(variant, seed, recipe)

    def _combinations(self) -> Iterator[tuple[GridEntry, GridEntry, float | None]]:
        rates: list[float | None] = [*self.learning_rates] or [None]
        for model in map(GridEntry.parse, self.models):
            balancers = [SUM] if model.class_name == SINGLE else self.balancers
            yield from itertools.product([model], map(GridEntry.parse, balancers), rates)


def _dotted(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", v) for inner, v in _dotted(value))
        else:
            yield key, value


def with_seed(recipe: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a recipe with another seed for the run, and for the balancer if it has one; or that of a baseline."""
    if "baseline" in recipe:
        return recipe | {"seed": seed}
    run, options = recipe["trainer"]["run"] | {"seed": seed}, recipe["balancer"].get("init_args") or {}
    balancer = recipe["balancer"] | ({"init_args": options | {"seed": seed}} if "seed" in options else {})
    return recipe | {"balancer": balancer, "trainer": recipe["trainer"] | {"run": run}}
