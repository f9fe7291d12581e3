"""Find numbers that stand for missing values, such as -999: frequent, alone at an end, and far from all others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from recmtl.data.columns.classes import ClassReader
from recmtl.data.columns.values import Floats
from recmtl.schema import Binned, Numeric, Schema

FREQUENT, ROWS = 0.01, 10  # the share of present values that are the same, and how many of them at least
LABELS = 0, 1  # which cannot be read as missing, as labels are so written
LARGEST = 2**63  # below which a number is a word for a missing value
FEW = 10  # distinct others: a flag or a rating has fewer


def sentinel_warnings(sample: pa.Table, schema: Schema, classes: ClassReader) -> Iterator[str]:
    """Yield a sentence on each number that may stand for missing values in the numeric columns of a sample."""
    labels = _label_words(sample, schema, classes)
    for name in (f.name for f in schema.features if isinstance(f, Numeric | Binned)):
        values = sample[name].to_numpy()
        for number, share, low, high in sentinels(values[~np.isnan(values)]):
            word = str(int(number)) if abs(number) < LARGEST else f"{number:g}"
            remedy = "leave it empty"
            if number not in LABELS and abs(number) < LARGEST and word not in labels:
                remedy = (
                    f"`--null {word}` (on a card `nulls: ['{word}']`) reads it so in every column; say each other "
                    "word for a missing value as well"
                )
            yield (
                f"column {name!r}: {share:.1%} of the numbers are {word}, unlike all others ({low:g} to {high:g}): if "
                f"it stands for a missing value, {remedy}"
            )


def _label_words(sample: pa.Table, schema: Schema, classes: ClassReader) -> set[str]:
    """Return what labels hold, as text: whole numbers and the names of classes."""
    named = schema.class_labels.keys()
    numbers = np.concatenate([np.empty(0), *(np.unique(sample[name].to_numpy()) for name in {*schema.labels} - named)])
    words = {str(int(number)) for number in numbers[np.isfinite(numbers)] if number % 1 == 0}
    return words | {word for name in named for word in classes.numbered(name)}


def sentinels(values: Floats) -> Iterator[tuple[float, float, float, float]]:
    """Yield the lowest and the highest of some numbers ``[rows]`` that may stand for missing values.

    Such a number is whole, and as far from the others as these are from each other, or the only one below zero.

    Yields:
        The number, its share of the values, and the lowest and the highest of the others.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEW:
        return
    for number, count, others in (
        (distinct[0], counts[0], distinct[1:]),
        (distinct[-1], counts[-1], distinct[:-1]),
    ):
        low, high = float(others[0]), float(others[-1])
        far = max(low - number, number - high) >= high - low or (number == -1 and low >= 0)
        if count >= max(ROWS, FREQUENT * len(values)) and number % 1 == 0 and far:
            yield float(number), float(count / len(values)), low, high
