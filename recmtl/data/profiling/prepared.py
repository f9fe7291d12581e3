"""Describe a prepared dataset from its encoded rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recmtl.data.profiling.description import Description, describe_splits
from recmtl.data.profiling.tally import SplitTally
from recmtl.data.store.format import IDS, KEY_PREFIX, LABELS, LIST_PREFIX, NUMERIC, to_matrix
from recmtl.data.store.prepared import PreparedData, Rows
from recmtl.schema import Feature, FittedSchema
from recmtl.schema.features import KIND_NAMES
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN


class EncodedTally(SplitTally):
    """Counts of the encoded rows of one split."""

    def __init__(self, rows: Rows) -> None:
        schema = rows.schema
        super().__init__([f.name for f in schema.numeric], schema.schema)
        self._schema = schema
        self.missing, self.unknown, self.elements = np.zeros((3, len(schema.id_blocks)), np.int64)
        for batch in rows.table.to_batches():
            if batch.num_rows:
                self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        drawn, kept = self.sample.draw(batch.num_rows), {}
        matrices = {name: to_matrix(batch.column(name)) for name in (IDS, NUMERIC) if name in batch.schema.names}
        for i, block in enumerate(self._schema.id_blocks):
            column = batch.column(LIST_PREFIX + block.name) if block.listed else None
            ids = matrices[IDS][:, block.start] if column is None else column.flatten().to_numpy()
            self.missing[i] += (ids == MISSING).sum()  # of a list the only id
            self.unknown[i] += (ids == UNKNOWN).sum()
            self.elements[i] += (ids != MISSING).sum()
            kept[block.name] = pa.array(ids[drawn] if column is None else numbers_of_lists(column.take(drawn)))
        for i, (name, tally) in enumerate(self.numbers.items()):
            numbers = matrices[NUMERIC][:, i].astype(np.float64)
            tally.add(numbers)
            kept[name] = pa.array(numbers[drawn])
        columns = to_matrix(batch.column(LABELS)).astype(np.float64).T
        labels = dict(zip(self._schema.schema.labels, columns, strict=True))
        self.labels.add(labels)
        kept |= {name: pa.array(label[drawn]) for name, label in labels.items()}
        group = self._schema.schema.group
        if group is not None and group not in kept:  # a feature as well
            kept[group] = batch.column(KEY_PREFIX + group).take(drawn)
        self.sample.keep(kept)
        self.rows += batch.num_rows

    def shares(self) -> dict[str, tuple[float, float]]:
        """Return for each block of ids the shares of missing rows, and of unknown ones among the others."""
        names = [block.name for block in self._schema.id_blocks]
        unknown = self.unknown / np.maximum(self.elements, 1)
        return dict(zip(names, zip((self.missing / self.rows).tolist(), unknown.tolist(), strict=True), strict=True))

    def drift(self, train: EncodedTally) -> Iterator[tuple[str, float, float, float, float]]:
        """Yield each column and how it differs: see `Description.drift`."""
        for column, (missing, unknown) in self.shares().items():
            yield column, missing, unknown, np.nan, np.nan
        for column, tally in self.numbers.items():
            yield column, np.nan, np.nan, np.nan, tally.shift(train.numbers[column])


def numbers_of_lists(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """Return a number for each list: equal lists have equal ones, others hardly ever."""
    lengths = np.diff(column.offsets.to_numpy())
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    factors = np.random.default_rng(0).integers(1 << 62, size=int(lengths.max(initial=0)))
    products = (column.flatten().to_numpy().astype(np.int64) + 1) * factors[place]
    found: npt.NDArray[np.int64] = np.add.reduceat(products, starts)
    return found


def describe_prepared(data: PreparedData) -> Description:
    """Describe the columns and labels of a prepared dataset in each split, and how the splits differ."""
    schema = data.schema
    splits = {name: EncodedTally(rows) for name, rows in data.splits.items()}
    sample = splits["train"].sample.table()
    encoded = [(f, splits["train"].numbers[f.name], schema.moments[f.name]) for f in schema.numeric]
    numbers = [(f.name, f.transform, t.low, t.high, t.mean, t.deviation, *moments) for f, t, moments in encoded]
    named = ["column", "transform", "lowest", "highest", "mean", "deviation", "raw mean", "raw deviation"]
    return describe_splits(
        schema.schema,
        splits,
        features={name: sample[name].to_numpy() for name in _input_features(schema)},
        columns=_input_table(schema, splits),
        numbers=pd.DataFrame(numbers, columns=named),
        notes=data.notes,
    )


def _input_features(schema: FittedSchema) -> dict[str, Feature]:
    """Return the inputs of a model by name, in the order of the schema: features, and each part of a date."""
    blocks: dict[int, list[str]] = {}
    for block in schema.id_blocks:
        blocks.setdefault(id(block.feature), []).append(block.name)
    return {name: f for f in schema.schema.features for name in blocks.get(id(f), [f.name])}


def _input_table(schema: FittedSchema, splits: Mapping[str, EncodedTally]) -> pd.DataFrame:
    sizes = {block.name: block.size - FIRST for block in schema.id_blocks}
    shares = [split.shares() for split in splits.values()]
    names = [f"{what}, {split}" for split in splits for what in ("missing", "unknown")]
    rows = [
        (
            name,
            KIND_NAMES[type(f)],
            sizes.get(name, np.nan),
            *(s for split in shares for s in split.get(name, (np.nan,) * 2)),
        )
        for name, f in _input_features(schema).items()
    ]
    return pd.DataFrame(rows, columns=["column", "kind", "vocabulary", *names]).astype({"vocabulary": "Int64"})
