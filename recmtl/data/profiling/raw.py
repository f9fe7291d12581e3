"""What is in raw files: read once, in memory that rows do not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.timestamps import as_times
from recmtl.data.columns.values import Codes, Floats, as_lists, as_numbers, as_text
from recmtl.data.preparation.convert import RowNumbers, convert
from recmtl.data.preparation.fit import label_column
from recmtl.data.preparation.prepare import Progress
from recmtl.data.profiling.description import DRIFT, FILES, LABELS, VALUES, Description, frame, kind, sampled
from recmtl.data.profiling.leaks import Leak, codes_of, countable, find_leaks, groups_of, uncountable
from recmtl.data.profiling.prepared import describe_prepared
from recmtl.data.profiling.tally import CategoryTally, LabelTally, NumberTally, Sample
from recmtl.data.sources.bad_rows import BadRowCounter, BadRows, bad_row_counter
from recmtl.data.sources.base import Source, WrappedSource
from recmtl.data.sources.open import Data, open_sources
from recmtl.data.store.format import MANIFEST
from recmtl.data.store.prepared import PreparedData
from recmtl.errors import DataError
from recmtl.io.location import expand
from recmtl.schema import Binned, Categorical, Feature, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp
from recmtl.schema.infer import HEAD_ROWS

QUANTILES = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}
TOP = 5  # categories that are shown
NO_TASK = Task("(none)", "(none)")  # a schema needs one


def describe(
    data: Data | PreparedData,
    schema: Schema | None = None,
    test: Data | None = None,
    labels: Sequence[str] = (),
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
) -> Description:
    """Describe a dataset: its columns, labels, drift, and the columns that give a label away.

    Rows, missing values, label rates, ranges and means are counted exactly; values are counted up to a bound; quantiles
    and the search for columns that give a label away use a sample of at most 200,000 rows.

    Args:
        data: Raw rows in any form that `prepare` takes, or a prepared dataset or its folder.
        schema: What the columns of raw rows mean; ``None`` infers it from the first rows.
        test: Other rows, held against the first ones.
        labels: The binary label columns, where there is no schema.
        progress: Called with what is being done and the number of rows just read.
        bad_rows: What becomes of raw rows that do not parse, as in `prepare`.

    Raises:
        DataError: A file is missing, empty or has a value that does not parse, or the arguments do not fit together.
        SchemaError: A column is missing.
    """
    if isinstance(data, PreparedData) or (isinstance(data, str | Path) and (Path(data) / MANIFEST).is_file()):
        if schema or test is not None or labels:
            raise DataError("a prepared dataset brings its own card, labels and test rows")
        return describe_prepared(data if isinstance(data, PreparedData) else PreparedData.open(data))
    if schema and labels:
        raise DataError("the card says which columns are labels: give either a card or labels")
    given = {"train": data} | ({} if test is None else {"test": test})
    sources = {name: open_sources(rows, name, schema.separator if schema else None) for name, rows in given.items()}
    schema = schema or inferred(data, labels)
    optional = frozenset() if labels else schema.unfeatured
    for source in (s for split in sources.values() for s in split):
        schema = schema.resolve([*source.columns, *sorted(optional - set(source.columns))], source.name)
    skipped = bad_row_counter(bad_rows)
    tallies = {name: _read(schema, split, progress, skipped) for name, split in sources.items()}
    return _description(schema, tallies, skipped.notes() if skipped else [])


def inferred(data: Data, labels: Sequence[str]) -> Schema:
    """Infer a schema from the first rows of raw data.

    Raises:
        SchemaError: They cannot be read.
    """
    while not isinstance(data, str | Path | pd.DataFrame | pa.Table | Source):
        data = data[0]
    if isinstance(data, Source):
        raise SchemaError(f"a schema cannot be inferred from {data.name}: give one")
    if isinstance(data, pa.Table):
        data = data.slice(0, HEAD_ROWS).to_pandas()
    first = data if isinstance(data, pd.DataFrame) else expand(data)[0]
    return Schema.infer(first, [Task(name, name) for name in labels] or [NO_TASK])


class SplitTally:
    """All that is counted of the rows of one split.

    Args:
        schema: The resolved schema.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.features: dict[str, Feature] = {key: Categorical(key) for key in schema.carried}
        self.features |= {schema.weight: Numeric(schema.weight)} if schema.weight else {}
        self.features |= {f.name: f for f in schema.features}
        self.numbers = {name: NumberTally() for name, f in self.features.items() if isinstance(f, Numeric | Binned)}
        self.categories = {name: CategoryTally() for name in self.features if name not in self.numbers}
        self.labels = LabelTally(schema.reported_tasks)
        self.files: list[tuple[str, LabelTally]] = []
        self.sample = Sample()
        self.rows = 0

    def begin(self, file: str) -> None:
        """Count the labels of the batches that come now for a file."""
        self.files.append((file, LabelTally(self._schema.reported_tasks)))

    def add(self, batch: pa.RecordBatch, numbers: RowNumbers) -> int:
        """Count a batch, and say how many rows it has.

        Raises:
            BadValueError: A value does not parse.
        """
        rows, present = batch.num_rows, set(batch.schema.names)
        drawn, kept = self.sample.draw(rows), {}
        for name, feature in self.features.items():
            column = batch.column(name) if name in present else pa.nulls(rows, pa.string())
            if isinstance(feature, Numeric | Binned):
                values = as_numbers(column, name)
                self.numbers[name].add(values)
                kept[name] = pa.array(values[drawn])
            else:
                kept[name] = self._categories(column, feature).take(pa.array(drawn))
        missing = np.full(rows, np.nan)
        labels = {n: label_column(self._schema, batch, n) if n in present else missing for n in self._schema.labels}
        for tally in (self.labels, *(tally for _, tally in self.files[-1:])):
            tally.add(labels)
        self.sample.keep(kept | {name: pa.array(label[drawn]) for name, label in labels.items()})
        self.rows += rows
        return int(rows)

    def _categories(self, column: pa.Array, feature: Feature) -> pa.StringArray:
        """Count a column and give it as text, a list as a whole."""
        tally = self.categories[feature.name]
        if isinstance(feature, MultiCategorical):
            values, codes, lengths = as_lists(column, feature.separator, feature.name)
            tally.add(values, codes, len(lengths), int((lengths == 0).sum()))
            if pa.types.is_nested(column.type):
                column = pc.binary_join(column.cast(pa.list_(pa.string())), feature.separator)
            values, codes = as_text(column, feature.name)
        else:
            if isinstance(feature, Timestamp):
                as_times(column, feature)  # refuses what is no date
            values, codes = as_text(column, feature.name)
            tally.add(values, codes, len(codes), int((codes < 0).sum()))
        return values.take(pa.array(codes, mask=codes < 0))


class Announced(WrappedSource):
    """A source that says when a reading begins.

    Args:
        source: The source.
        begin: Told its name.
    """

    def __init__(self, source: Source, begin: Callable[[str], None]) -> None:
        super().__init__(source)
        self._begin = begin

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows, as the source gives them."""
        self._begin(self.name)
        yield from self._source.batches(columns, numbers, malformed)
        self.notes = self._source.notes


def _read(schema: Schema, sources: list[Source], progress: Progress, skipped: BadRowCounter | None) -> SplitTally:
    tally = SplitTally(schema)
    for rows in convert(schema, [Announced(source, tally.begin) for source in sources], tally.add, skipped):
        progress("describe", rows)
    return tally


def _description(schema: Schema, splits: dict[str, SplitTally], left_out: Sequence[str]) -> Description:
    train, sample = splits["train"], splits["train"].sample.table()
    labels = {name: sample[name].to_numpy() for name in schema.labels if name in schema.binary_labels}
    groups = groups_of(sample, schema.group)
    looked = {name: label for name, label in labels.items() if countable(label, groups)}
    columns = {f.name: _comparable(sample[f.name]) for f in schema.features}
    tallies = train.numbers | train.categories
    kinds = {name: _kind(schema, name, feature) for name, feature in train.features.items()}
    quantiles = {name: _quantiles(sample[name].to_numpy()) for name in train.numbers}
    return Description(
        leaks=frame(find_leaks(columns, looked, groups), Leak._fields),
        columns=frame(
            [(n, kinds[n], t.missing / t.rows, t.distinct, t.more) for n in kinds for t in [tallies[n]]],
            ["column", "kind", "missing", "distinct", "more"],
        ),
        values=frame(_values(train), VALUES),
        numbers=frame(
            [(n, t.low, *quantiles[n], t.high, t.mean, t.deviation) for n, t in train.numbers.items()],
            ["column", "lowest", *QUANTILES, "highest", "mean", "deviation"],
        ).replace([np.inf, -np.inf], np.nan),
        labels=frame([row for name, split in splits.items() for row in split.labels.table(name)], LABELS),
        files=frame(_files(splits), FILES),
        drift=frame([row for name in splits if name != "train" for row in _drift(name, splits[name], train)], DRIFT),
        notes=(*left_out, *_notes(schema, train, sample.num_rows, [n for n in labels if n not in looked])),
    )


def _kind(schema: Schema, name: str, feature: Feature) -> str:
    if name in {f.name for f in schema.features}:
        return kind(feature)
    return {schema.group: "group", schema.weight: "weight"}.get(name, "key")


def _comparable(column: pa.ChunkedArray) -> Floats | Codes:
    """A column of the sample as `find_leaks` takes it; missing text is a category."""
    if pa.types.is_floating(column.type):
        numbers: Floats = column.to_numpy()
        return numbers
    return codes_of(column)


def _quantiles(values: Floats) -> Floats:
    present = values[~np.isnan(values)]
    return np.quantile(present, list(QUANTILES.values())) if len(present) else np.full(len(QUANTILES), np.nan)


def _files(splits: Mapping[str, SplitTally]) -> Iterator[tuple[str, str, str, int, float, float]]:
    """The labels of each file, where there is more to say of them than of the splits."""
    if all(len(split.files) == 1 for split in splits.values()):
        return
    for name, split in splits.items():
        for file, tally in split.files:
            yield from ((row[0], file, *row[1:]) for row in tally.table(name))


def _values(split: SplitTally) -> Iterator[tuple[str, str, int, float]]:
    for name, tally in split.categories.items():
        top = tally.counts().sort_by([("count", "descending"), ("category", "ascending")]).slice(0, TOP)
        found = zip(top["category"].to_pylist(), top["count"].to_pylist(), strict=True)
        yield from ((name, value, count, count / tally.rows) for value, count in found)


def _drift(name: str, split: SplitTally, train: SplitTally) -> Iterator[tuple[str, str, float, float, float]]:
    for column in split.features:
        if column in split.numbers:
            number = split.numbers[column]
            yield name, column, number.missing / number.rows, np.nan, number.shift(train.numbers[column])
        else:
            category = split.categories[column]
            yield name, column, category.missing / category.rows, category.unseen(train.categories[column]), np.nan


def _notes(schema: Schema, train: SplitTally, kept: int, uncounted: Sequence[str]) -> Iterator[str]:
    """Say what has no information and what was not looked at."""
    for name, tally in (train.numbers | train.categories).items():
        if tally.missing == tally.rows:
            yield f"column {name!r} is missing in every row"
        elif tally.distinct == 1 and (name in train.numbers or not tally.missing):
            yield f"column {name!r} is constant"
        elif name in train.categories and tally.more:
            yield (
                f"column {name!r} has more than {tally.distinct:,} categories: the counts of the frequent ones are too "
                "low by what was counted before they were, and unseen ones are not counted"
            )
    if schema.tasks == (NO_TASK,):
        yield "no label is named: columns that give one away were not looked for"
    else:
        yield from map(uncountable, uncounted)
    yield from sampled(kept, train.rows)
