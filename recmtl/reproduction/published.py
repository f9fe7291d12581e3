"""Published figures: datasets, settings and sources, as `published.yaml` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import DataError

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Dataset:
    """A dataset that figures were published for.

    Args:
        layout: The layout of its raw files.
        card: Its card.
        part: The part of the raw files, if there are several.
        least_test_rows: Fewer test rows than this are not the published ones.
    """

    layout: str
    card: str
    part: str | None = None
    least_test_rows: int = 0


@dataclass(frozen=True)
class Source:
    """Where figures were published, and what is known of them.

    Args:
        title: Its title.
        url: Its address.
        setting: The name of the setting that is trained here.
        runs: How many runs a figure is the mean of.
        known: What is known of how the figures were measured.
        differences: In what the training here differs.
        figures: The AUC of each task, by dataset and model.
    """

    title: str
    url: str
    setting: str
    runs: int
    known: str
    differences: str
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Preset:
    """A published figure, and the setting to train.

    Attributes:
        name: The name of the dataset.
        model: The name of the model.
        source_name: The name of the source.
        dataset: The dataset.
        source: The source.
        entry: The model with its options, as `compare` takes it.
        trainer: The options of the training, as in a recipe.
    """

    name: str
    model: str
    source_name: str
    dataset: Dataset
    source: Source
    entry: Mapping[str, Any]
    trainer: Mapping[str, Any]

    @property
    def figures(self) -> Mapping[str, float]:
        """The published AUC of each task."""
        return self.source.figures[self.name][self.model]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the setting, without its rows."""
        return {"model": dict(self.entry), "balancer": "Sum", "trainer": dict(self.trainer)}


@cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def datasets() -> dict[str, Dataset]:
    """Return the datasets with published figures, by name."""
    return {name: Dataset(**options) for name, options in _content()["datasets"].items()}


def sources() -> dict[str, Source]:
    """Return the sources of figures, by name, the preferred one first."""
    return {name: Source(**options) for name, options in _content()["sources"].items()}


def find_preset(name: str, model: str, source: str | None = None) -> Preset:
    """Return a published figure and its setting.

    Args:
        name: The dataset, such as ``aliexpress-nl``.
        model: The model, such as ``mmoe``.
        source: The name of the source; ``None`` takes the first that has the figure.

    Raises:
        DataError: There is no such figure.
    """
    known, allowed = sources(), datasets()
    if name not in allowed:
        raise DataError(_unknown("published figures of", name, allowed))
    if source is not None and source not in known:
        raise DataError(_unknown("source", source, known))
    having = {key: found for key, found in known.items() if model in found.figures.get(name, {})}
    if not having:
        models = dict.fromkeys(m for found in known.values() for m in found.figures.get(name, {}))
        raise DataError(_unknown(f"published figure of {name} for the model", model, models))
    if source is not None and source not in having:
        raise DataError(f"{source} has no figure of {model} on {name}: leave out `source`, or give {', '.join(having)}")
    chosen = source or next(iter(having))
    setting = _content()["settings"][known[chosen].setting]
    return Preset(name, model, chosen, allowed[name], known[chosen], setting["models"][model], setting["trainer"])


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    choices = f": expected one of {', '.join(known)}"
    return f"there is no {what} {name!r}{did_you_mean(name, known) or choices}"
