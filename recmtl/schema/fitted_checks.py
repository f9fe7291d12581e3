"""Checks of a fitted schema that was read from a file: whole, its parts may still not belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from recmtl.schema.checks import is_number
from recmtl.schema.features import Binned, Categorical, MultiCategorical, Numeric

if TYPE_CHECKING:
    from recmtl.schema.fitted import FittedSchema

MOST_COLUMNS = 1 << 20  # of ids


def check_fitted(fitted: FittedSchema) -> None:
    """Check that all that the features need is there, of the kind and in the range that fitting gives.

    Raises:
        ValueError: Something is not.
    """
    for feature in fitted.schema.features:
        if isinstance(feature, Categorical):
            owner = fitted.schema.owner(feature)
            if not owner.hash_buckets:
                _check_vocabulary(owner.name, fitted.vocabularies.get(owner.name))
        if isinstance(feature, MultiCategorical):
            length = fitted.lengths.get(feature.name)
            if type(length) is not int or not 1 <= length <= MOST_COLUMNS:
                raise ValueError(f"the longest list of {feature.name!r} is {length!r}, expected 1 to {MOST_COLUMNS:,}")
        if isinstance(feature, Numeric) and not (
            feature.name in fitted.moments and all(map(is_number, fitted.moments[feature.name]))
        ):
            raise ValueError(f"{feature.name!r} has no mean and deviation that are numbers")
        if isinstance(feature, Numeric | Binned):
            _check_quantiles(feature.name, fitted.quantiles.get(feature.name))
    if fitted.id_columns > MOST_COLUMNS:
        raise ValueError(f"its features take {fitted.id_columns:,} columns of ids, expected at most {MOST_COLUMNS:,}")
    for task in fitted.schema.tasks:
        rate = fitted.rates.get((task.label, task.given))
        if rate is None or type(rate.rows) is not int or rate.rows < 0 or not is_number(rate.mean):
            raise ValueError(f"task {task.name!r} has no label rate")
        if task.kind == "binary" and not 0 <= rate.mean <= 1:
            raise ValueError(f"task {task.name!r} has the label rate {rate.mean}, expected a share")


def _check_vocabulary(name: str, categories: pa.Array | None) -> None:
    if categories is None:
        raise ValueError(f"{name!r} has no vocabulary")
    categories.validate(full=True)
    if categories.null_count:
        raise ValueError(f"the vocabulary of {name!r} has gaps")


def _check_quantiles(name: str, quantiles: tuple[float, ...] | None) -> None:
    if quantiles is None or not all(map(is_number, quantiles)) or list(quantiles) != sorted(quantiles):
        raise ValueError(f"{name!r} has no quantiles that are numbers and rise")
