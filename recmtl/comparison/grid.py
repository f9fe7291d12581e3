"""The grid of a comparison: which runs there are, and the complete recipe of each."""

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

from recmtl.recipe.recipe import complete_recipe, parse_recipe

SINGLE, SUM = "SingleTask", "Sum"  # a model without shared tensors, which only the plain sum can balance
SUFFIXES = (".yaml", ".yml")

Entry = str | dict[str, Any]


class Row(NamedTuple):
    """What the runs of one row of the table have in common: all but the seed.

    Args:
        model: The model's name in the table.
        balancer: The balancer's.
        learning_rate: The model's learning rate; ``None`` where the comparison leaves it to the recipe.
    """

    model: str
    balancer: str
    learning_rate: float | None = None

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f" at {self.learning_rate:g}"
        return f"{self.model} with {self.balancer}{rate}"


@dataclass(frozen=True)
class GridRun:
    """One run of a comparison.

    Args:
        row: The row of the table that it counts for.
        seed: Its seed.
        recipe: Its complete recipe; empty where only its results are asked for.
    """

    row: Row
    seed: int
    recipe: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its run folder."""
        model, balancer, rate = self.row
        parts = [model, balancer, *([] if rate is None else [f"{rate:g}"]), str(self.seed)]
        return "-".join(re.sub(r"[^\w.=+]+", "_", part).strip("_") for part in parts)


@dataclass(frozen=True)
class Grid:
    """What is combined with what.

    Args:
        models: Names of models; or mappings with `class_path` and `init_args`, or YAML files of such, for options that
            are not the recipe's.
        balancers: Likewise. A model that shares nothing, `SingleTask`, is trained with `Sum` alone.
        seeds: How many, from 0, or a list of them. A seed decides first weights, shuffling and dropout, and what
            a balancer draws.
        learning_rates: Of the optimizer; without any it is the recipe's.

    Raises:
        ValueError: Nothing is named, or something twice, or a file cannot be read.
    """

    models: Sequence[Entry]
    balancers: Sequence[Entry] = (SUM,)
    seeds: int | Sequence[int] = 5
    learning_rates: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Check what is named."""
        named: dict[str, list[Any]] = {"models": [*_named(self.models)], "balancers": [*_named(self.balancers)]}
        named |= {"seeds": self._seeds, "learning_rates": [*self.learning_rates]}
        for option, values in named.items():
            if not values and option != "learning_rates":
                raise ValueError(f"`{option}` must name at least one")
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"`{option}` must name each once, got {twice[0]} twice")
        if not all(0 <= seed < 1 << 32 for seed in self._seeds):
            raise ValueError(f"`seeds` must be in [0, 2³²), got {list(self._seeds)}")

    @property
    def _seeds(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def cells(self, parser: ArgumentParser, arguments: Sequence[str]) -> list[GridRun]:
        """Give every run: it is the one that `recmtl train` makes when its options are followed by those of the cell.

        So what the recipe says of its own model holds for another one where that has an argument of the same name.

        Args:
            parser: Of `recipe_parser`.
            arguments: What it parses: the options that all runs share.

        Raises:
            ArgumentError: There is no such option, model or balancer.
            ValueError: Two runs have the same name.
        """
        cells = []
        for model, balancer, rate in self._combinations():
            options = ["--model", _option(model), "--balancer", _option(balancer)]
            options += [] if rate is None else ["--trainer.optimization.optimizer.lr", repr(rate)]
            config = parse_recipe(parser, [*arguments, *options])
            row = Row(_name(model), _name(balancer), rate)
            cells += [GridRun(row, seed, _seeded(complete_recipe(parser, config), seed)) for seed in self._seeds]
        for name, count in Counter(cell.name for cell in cells).items():
            if count > 1:
                raise ValueError(f"{count} runs would lie in the folder {name!r}: name their options in files")
        return cells

    def _combinations(self) -> Iterator[tuple[Entry, Entry, float | None]]:
        rates: list[float | None] = [*self.learning_rates] or [None]
        for model in self.models:
            balancers = [SUM] if class_name(_read(model)) == SINGLE else self.balancers
            yield from itertools.product([model], balancers, rates)


def class_name(entry: Entry) -> str:
    """Give the bare name of the class that an entry names."""
    path = entry if isinstance(entry, str) else str(entry.get("class_path"))
    return path.rpartition(".")[2]


def _read(entry: Entry) -> Entry:
    """Give an entry as it is, a file's as what it holds."""
    if not isinstance(entry, str) or not entry.endswith(SUFFIXES):
        return entry
    try:
        content = yaml.safe_load(Path(entry).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{entry} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "class_path" not in content:
        raise ValueError(f"{entry} must hold `class_path`, and `init_args` where there are any")
    return content


def _option(entry: Entry) -> str:
    entry = _read(entry)
    return entry if isinstance(entry, str) else json.dumps(entry)


def _name(entry: Entry) -> str:
    """Name an entry in the table: its class, with the options given; a file's its stem."""
    if isinstance(entry, str):
        return Path(entry).stem if entry.endswith(SUFFIXES) else class_name(entry)
    options = ", ".join(f"{key}={value}" for key, value in _flat(entry.get("init_args") or {}))
    return f"{class_name(entry)}({options})" if options else class_name(entry)


def _named(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        content = _read(entry)
        if isinstance(content, dict) and "class_path" not in content:
            raise ValueError(f"{content} must have `class_path`, and `init_args` where there are any")
        yield _name(entry)


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", v) for inner, v in _flat(value))
        else:
            yield key, value


def _seeded(recipe: dict[str, Any], seed: int) -> dict[str, Any]:
    """Give a recipe with another seed, of the run and of a balancer that draws."""
    run, drawn = recipe["trainer"]["run"] | {"seed": seed}, recipe["balancer"].get("init_args") or {}
    balancer = recipe["balancer"] | ({"init_args": drawn | {"seed": seed}} if "seed" in drawn else {})
    return recipe | {"balancer": balancer, "trainer": recipe["trainer"] | {"run": run}}
