"""What is in a prepared dataset, as it is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.data.columns.categorical import PADDING
from recmtl.data.profiling.description import DRIFT, FILES, LABELS, VALUES, Description, frame, kind, sampled
from recmtl.data.profiling.leaks import Leak, countable, find_leaks, groups_of, uncountable
from recmtl.data.profiling.tally import LabelTally, NumberTally, Sample
from recmtl.data.store import format as layout
from recmtl.data.store.prepared import PreparedData, Rows
from recmtl.schema import Feature, FittedSchema
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

NAN = float("nan")


class EncodedTally:
    """All that is counted of the rows of one split.

    Args:
        schema: The fitted schema.
    """

    def __init__(self, schema: FittedSchema) -> None:
        self._schema = schema
        self.missing, self.unknown, self.elements = np.zeros((3, len(schema.id_blocks)), np.int64)
        self.numbers = {f.name: NumberTally() for f in schema.numeric}
        self.labels = LabelTally(schema.schema.reported_tasks)
        self.sample = Sample()
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        drawn, kept = self.sample.draw(batch.num_rows), {}
        for i, block in enumerate(self._schema.id_blocks):
            ids = _matrix(batch, layout.IDS)[:, block.start : block.start + block.length]
            self.missing[i] += (ids[:, 0] == MISSING).sum()
            self.unknown[i] += (ids == UNKNOWN).sum()
            self.elements[i] += ((ids != PADDING) & (ids != MISSING)).sum()
            whole = ids[drawn].astype(np.int64) @ np.random.default_rng(0).integers(1 << 62, size=block.length)
            kept[block.name] = pa.array(whole)  # equal lists are equal numbers
        for i, (name, tally) in enumerate(self.numbers.items()):
            numbers = _matrix(batch, layout.NUMERIC)[:, i].astype(np.float64)
            tally.add(numbers)
            kept[name] = pa.array(numbers[drawn])
        columns = _matrix(batch, layout.LABELS).astype(np.float64).T
        labels = dict(zip(self._schema.schema.labels, columns, strict=True))
        self.labels.add(labels)
        kept |= {name: pa.array(label[drawn]) for name, label in labels.items()}
        if self._schema.schema.group is not None:
            kept[self._schema.schema.group] = batch.column(layout.KEY_PREFIX + self._schema.schema.group).take(drawn)
        self.sample.keep(kept)
        self.rows += batch.num_rows

    def shares(self) -> dict[str, tuple[float, float]]:
        """Give for each block of ids the shares of missing rows, and of unknown ones among what is there."""
        names = [block.name for block in self._schema.id_blocks]
        unknown = self.unknown / np.maximum(self.elements, 1)
        return dict(zip(names, zip((self.missing / self.rows).tolist(), unknown.tolist(), strict=True), strict=True))


def describe_prepared(data: PreparedData) -> Description:
    """Describe a prepared dataset: what its columns and labels are in each split, and what differs between these."""
    schema = data.schema
    splits = {name: _read(rows) for name, rows in data.splits.items()}
    train, sample = splits["train"], splits["train"].sample.table()
    labels = {n: sample[n].to_numpy() for n in schema.schema.labels if n in schema.schema.binary_labels}
    groups = groups_of(sample, schema.schema.group)
    looked = {name: label for name, label in labels.items() if countable(label, groups)}
    features = {name: sample[name].to_numpy() for name in _inputs(schema)}
    encoded = [(f, train.numbers[f.name], schema.moments[f.name]) for f in schema.numeric]
    return Description(
        leaks=frame(find_leaks(features, looked, groups), Leak._fields),
        columns=_columns(schema, splits),
        values=frame([], VALUES),
        numbers=frame(
            [(f.name, f.transform, t.low, t.high, t.mean, t.deviation, *moments) for f, t, moments in encoded],
            ["column", "transform", "lowest", "highest", "mean", "deviation", "raw mean", "raw deviation"],
        ),
        labels=frame([row for name, split in splits.items() for row in split.labels.table(name)], LABELS),
        files=frame([], FILES),
        drift=frame([row for name in splits if name != "train" for row in _drift(name, splits[name], train)], DRIFT),
        notes=(
            *data.notes,
            *(uncountable(name) for name in labels if name not in looked),
            *sampled(sample.num_rows, train.rows),
        ),
    )


def _read(rows: Rows) -> EncodedTally:
    tally = EncodedTally(rows.schema)
    for batch in rows.table.to_batches():
        if batch.num_rows:
            tally.add(batch)
    return tally


def _matrix(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    column = batch.column(name)
    matrix: npt.NDArray[Any] = column.flatten().to_numpy().reshape(len(column), -1)
    return matrix


def _inputs(schema: FittedSchema) -> dict[str, Feature]:
    """What a model reads, by name, in the order of the schema: features, and of dates each part."""
    found: dict[str, Feature] = {}
    for feature in schema.schema.features:
        blocks = [block.name for block in schema.id_blocks if block.feature is feature]
        found |= dict.fromkeys(blocks or [feature.name], feature)
    return found


def _columns(schema: FittedSchema, splits: dict[str, EncodedTally]) -> pd.DataFrame:
    sizes = {block.name: block.size - FIRST for block in schema.id_blocks}
    shares = [split.shares() for split in splits.values()]
    names = [
        "column",
        "kind",
        "vocabulary",
        *(f"{what}, {split}" for split in splits for what in ("missing", "unknown")),
    ]
    rows = [
        (name, kind(feature), sizes.get(name, NAN), *(s for split in shares for s in split.get(name, (NAN, NAN))))
        for name, feature in _inputs(schema).items()
    ]
    return frame(rows, names).astype({"vocabulary": "Int64"})


def _drift(name: str, split: EncodedTally, train: EncodedTally) -> Iterator[tuple[str, str, float, float, float]]:
    for column, (missing, unknown) in split.shares().items():
        yield name, column, missing, unknown, NAN
    for column, tally in split.numbers.items():
        yield name, column, NAN, NAN, tally.shift(train.numbers[column])
