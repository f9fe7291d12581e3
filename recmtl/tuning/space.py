"""The space of a search: which keys of a recipe are tried, and with which values."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from recmtl.errors import UsageError
from recmtl.io.display import as_written
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.classes import find_class
from recmtl.recipe.option_errors import accepts, option_type
from recmtl.recipe.option_types import accepted, mapped_type, named_class

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGE = ("low", "high", "log", "step")
FIXED = {  # what is the same in all trials
    "data": "all trials see the same rows",
    "trainer.stopping": "trials are compared by it",
    "trainer.run": "it has no effect on what a model learns, or is chance",
    "trainer.init_from": "all trials start alike",
}
EACH = "*"  # in place of a task's name: each but the first
Names = Mapping[str, str]  # the classes that are named, by key


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        low: The lowest.
        high: The highest.
        log: Whether their logarithms are drawn evenly.
        step: The distance between neighbours; ``None`` has none.
        integer: Whether they are integers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial takes."""
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    @property
    def labels(self) -> list[Any]:
        """Nothing: numbers of a range have no labels."""
        return []

    @property
    def extremes(self) -> list[Any]:
        """Both ends."""
        return [int(end) if self.integer else end for end in (self.low, self.high)]

    def value(self, found: Any) -> Any:
        """Return the option value that a value in a study encodes."""
        return found

    def __str__(self) -> str:
        words = f"{self.low:g} to {self.high:g}"
        return words + (", log" if self.log else "") + (f", step {self.step:g}" if self.step is not None else "")


@dataclass(frozen=True)
class Choices:
    """A few values of any type."""

    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """The values as a study holds them: a list or mapping as JSON."""
        return [json.dumps(value) if isinstance(value, list | dict) else value for value in self.values]

    @property
    def extremes(self) -> list[Any]:
        """All values."""
        return [*self.values]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial takes."""
        return self.value(trial.suggest_categorical(name, self.labels))

    def value(self, found: Any) -> Any:
        """Return the option value that a value in a study encodes."""
        return self.values[self.labels.index(found)]

    def __str__(self) -> str:
        return ", ".join(map(as_written, self.values))


@dataclass(frozen=True)
class SearchOption:
    """A key that is searched.

    Args:
        key: The dotted key, as on the command line.
        values: What it can be.
        when: The classes that must be chosen for it, with the keys that name them.
        mapping: The key of the mapping that this one is an entry of; ``None`` if it is an option by itself.
    """

    key: str
    values: Range | Choices
    when: tuple[tuple[str, str], ...] = ()
    mapping: str | None = None

    @classmethod
    def of_record(cls, entry: Mapping[str, Any]) -> SearchOption:
        """Return the option that `SearchSpace.record` wrote."""
        content = entry["values"]
        values = Choices(tuple(content["values"])) if "values" in content else Range(**content)
        return cls(entry["key"], values, tuple((place, name) for place, name in entry["when"]), entry["mapping"])

    @property
    def name(self) -> str:
        """The name in the study: the key, with the class that it is an option of: `balancer.GradNorm.alpha`."""
        owner = next(((place, cls) for place, cls in reversed(self.when) if self.key.startswith(f"{place}.")), None)
        return self.key if owner is None else f"{owner[0]}.{owner[1]}{self.key[len(owner[0]) :]}"

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the classes that it needs are among the chosen values by key."""
        return all(chosen.get(place) == cls for place, cls in self.when)


@dataclass(frozen=True)
class SearchSpace:
    """The keys that are searched, classes before their options.

    Args:
        options: The keys.
        base: The entries of mappings that the recipe has itself, by dotted key; the search replaces some of them.
    """

    options: tuple[SearchOption, ...]
    base: Mapping[str, Any]

    @classmethod
    def parse(
        cls, content: Any, parser: ArgumentParser, named: Names, tasks: Sequence[str], base: Mapping[str, Any]
    ) -> SearchSpace:
        """Check a space, and return it.

        Args:
            content: Dotted or nested keys with ranges, lists of choices, or mappings of classes.
            parser: The parser that has the options.
            named: The classes that the recipe names, by key.
            tasks: The names of the objectives, for the entry `*` of a mapping by task.
            base: The recipe's own options by dotted key.

        Raises:
            UsageError: A key is unknown or cannot be searched, a range is empty, or a value has the wrong type.
        """
        if not isinstance(content, dict) or not content:
            raise UsageError("the search space is empty: expected keys of the recipe with ranges or lists of choices")
        reader = _Reader(parser, tasks)
        options = tuple(reader.read(content, "", dict(named), ()))
        for name, count in Counter(option.name for option in options).items():
            if count > 1:
                raise UsageError(f"`{name}` is in the search space {count} times")
        for option in options:
            for place in reader.classes:
                if option.key.startswith(f"{place}.") and place not in dict(option.when):
                    raise UsageError(f"`{option.key}` must stand under the class that it belongs to, below `{place}`")
        mappings = {option.mapping for option in options if option.mapping}
        own = {key: v for key, v in base.items() if any(key.startswith(f"{mapping}.") for mapping in mappings)}
        return cls(options, own)

    def suggest(self, trial: Trial, before: Callable[[str], None]) -> dict[str, Any]:
        """Return the values that a trial takes by name; `before` is called with each name first."""
        chosen: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for option in self.options:
            if option.applies(chosen):
                before(option.name)
                found[option.name] = chosen[option.key] = option.values.suggest(trial, option.name)
        return found

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the options of a command that set values by name."""
        given, mappings = list[str](), dict[str, dict[str, Any]]()
        for option in self.options:
            if option.name not in values:
                continue
            value = values[option.name]
            if option.mapping is None:
                given.append(f"--{option.key}={value if isinstance(value, str) else json.dumps(value)}")
                continue
            entries = mappings.setdefault(option.mapping, {} if option.when else self._entries(option.mapping))
            entries[option.key[len(option.mapping) + 1 :]] = value
        return given + [f"--{key}={json.dumps(entries)}" for key, entries in mappings.items()]

    def _entries(self, mapping: str) -> dict[str, Any]:
        """Return the recipe's own entries of a mapping."""
        return {key[len(mapping) + 1 :]: v for key, v in self.base.items() if key.startswith(f"{mapping}.")}

    def record(self) -> list[dict[str, Any]]:
        """Return the space as plain data."""
        content: list[dict[str, Any]] = json.loads(json.dumps([asdict(option) for option in self.options]))
        return content


class _Reader:
    """Reads the keys of a space, and remembers which name classes that are searched."""

    def __init__(self, parser: ArgumentParser, tasks: Sequence[str]) -> None:
        self._parser, self._tasks = parser, tasks
        self.classes: list[str] = []

    def read(
        self, content: Mapping[Any, Any], above: str, named: dict[str, str], when: tuple[tuple[str, str], ...]
    ) -> Iterator[SearchOption]:
        for name, value in content.items():
            key = f"{above}.{name}".lstrip(".")
            if key.endswith(f".{EACH}") and isinstance(value, dict | list):
                entries = {key[:-1] + task: value for task in self._tasks[1:]}
                if not entries:
                    raise UsageError(f"`{key}` is the weight of each task but the first, and there is one task")
                yield from self.read(entries, "", named, when)
                continue
            for place, reason in FIXED.items():
                if f"{key}.".startswith(f"{place}."):
                    raise UsageError(f"`{key}` cannot be searched: {reason}")
            kind = option_type(self._parser, key, dict(named), "")
            is_range = isinstance(value, dict) and ("low" in value or "high" in value)
            if named_class(kind) and isinstance(value, dict | list) and not is_range and names_classes(value):
                yield from self._read_classes(key, kind, value, named, when)
            elif isinstance(value, dict) and not is_range:
                yield from self.read(value, key, named, when)
            elif isinstance(value, dict):
                yield SearchOption(key, read_range(key, value, kind), when, self._mapping(key, named))
            elif isinstance(value, list):
                yield SearchOption(key, read_choices(key, value, kind), when, self._mapping(key, named))
            else:
                raise UsageError(f"`{key}` must be a range such as {{low: 0.1, high: 1.0}}, or a list, got {value!r}")

    def _read_classes(
        self,
        key: str,
        kind: Any,
        content: dict[Any, Any] | list[Any],
        named: dict[str, str],
        when: tuple[tuple[str, str], ...],
    ) -> Iterator[SearchOption]:
        """Read a choice of classes, with what is searched of each."""
        spaces = content if isinstance(content, dict) else dict.fromkeys(map(str, content))
        if isinstance(content, list) and len(spaces) < len(content):
            raise UsageError(f"`{key}` must have different choices, got {content}")
        for name in spaces:
            find_class(str(name), key, kind)
        self.classes.append(key)
        yield SearchOption(key, Choices(tuple(map(str, spaces))), when)
        for name, inner in spaces.items():
            if not isinstance(inner, dict | None):
                raise UsageError(f"`{key}.{name}` must be a mapping of the options of {name}, got {inner!r}")
            below = {k: v for k, v in named.items() if not k.startswith(f"{key}.")} | {key: str(name)}
            yield from self.read(inner or {}, key, below, (*when, (key, str(name))))

    def _mapping(self, key: str, named: Names) -> str | None:
        """Return the key of the mapping that a key is an entry of, such as that of weights by task."""
        parent = key.rpartition(".")[0]
        kind = option_type(self._parser, parent, dict(named), "") if parent else None
        return parent if mapped_type(kind) and not named_class(kind) else None


def names_classes(content: dict[Any, Any] | list[Any]) -> bool:
    """Return whether the keys of a mapping, or a list, name classes rather than options, which begin in lower case."""
    return all(str(name).rpartition(".")[2][:1].isupper() for name in content)


def read_range(key: str, content: Mapping[str, Any], kind: Any) -> Range:
    """Read a range of numbers; a `UsageError` says what is wrong with it."""
    if unknown := [name for name in content if name not in RANGE]:
        raise UsageError(f"`{key}`: a range has {', '.join(RANGE)}, got {unknown[0]!r}")
    if missing := [name for name in ("low", "high") if name not in content]:
        raise UsageError(f"`{key}`: a range needs `{missing[0]}`")
    log = content.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"`{key}`: `log` must be true or false, got {log!r}")
    numbers = {name: _number(key, name, content[name]) for name in RANGE if name != "log" and name in content}
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    for value in numbers.values():
        if not accepts(kind, value):
            raise UsageError(f"`{key}` must be {accepted(kind)}: it has no range with {value!r}")
    if low >= high:
        raise UsageError(f"`{key}`: the range is empty: `low` must be below `high`, got {low:g} and {high:g}")
    if log and low <= 0:
        raise UsageError(f"`{key}`: with `log`, `low` must be above 0, got {low:g}")
    if step is not None and (log or not 0 < step <= high - low):
        reason = "a logarithmic range has no step" if log else f"it must be above 0 and at most {high - low:g}"
        raise UsageError(f"`{key}`: the `step` cannot be {step:g}: {reason}")
    if step is not None:
        high = low + math.floor((high - low) / step * (1 + 1e-12)) * step
    integer = not accepts(kind, 0.5) or (not accepts(float, low) and all(isinstance(v, int) for v in numbers.values()))
    return Range(low, high, log, step, integer)


def _number(key: str, name: str, value: Any) -> float:
    """Return a number; YAML takes `1e-4`, which has no point, for text."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
        raise UsageError(f"`{key}`: `{name}` must be a number, got {value!r}")
    return number


def read_choices(key: str, values: Sequence[Any], kind: Any) -> Choices:
    """Read a list of choices; a `UsageError` says what is wrong with it."""
    if not values:
        raise UsageError(f"`{key}` must have a choice: the list is empty")
    for value in values:
        if not accepts(kind, value):
            raise UsageError(f"`{key}` must be {accepted(kind)}, got {value!r}")
    if len({json.dumps(value) for value in values}) < len(values):
        raise UsageError(f"`{key}` must have different choices, got {list(values)}")
    return Choices(tuple(values))


def read_space(place: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a file that holds a search space, or a space that is given as such.

    Raises:
        UsageError: The file is missing or no mapping.
    """
    if isinstance(place, Mapping):
        return place
    try:
        content = from_yaml(read_text(Path(place)))
    except (OSError, ValueError) as error:
        raise UsageError(f"the search space {str(place)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{place} is no search space: expected keys of the recipe with ranges or lists of choices")
    return content
