"""Describe a dataset; raw rows are read once, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.history_leaks import HistoryLeaks
from recmtl.data.columns.timestamps import as_times
from recmtl.data.columns.values import RowNumbers, as_lists, as_numbers, as_text, read_numbers
from recmtl.data.preparation.convert import convert, label_column, no_rows
from recmtl.data.preparation.part_work import Progress
from recmtl.data.profiling.description import NO_TASK, Description, describe_splits
from recmtl.data.profiling.leaks import category_codes
from recmtl.data.profiling.prepared import describe_prepared
from recmtl.data.profiling.sentinels import sentinel_warnings
from recmtl.data.profiling.tally import CategoryTally, LabelTally, SplitTally
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.base import Source
from recmtl.data.sources.open import Data, open_sources
from recmtl.data.store.format import MANIFEST
from recmtl.data.store.prepared import PreparedData
from recmtl.errors import BadValueError, DataError
from recmtl.io.csv_records import BadRows, skips
from recmtl.io.spellings import TICKS, digits_of
from recmtl.schema import Binned, Categorical, Feature, MultiCategorical, Numeric, Schema, Task, Timestamp
from recmtl.schema.column_reading import Reading
from recmtl.schema.features import KIND_NAMES
from recmtl.schema.readings import infer_columns, left_out_notes
from recmtl.schema.text_format import TextFormat, format_options

QUANTILE_LEVELS = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}
LEAK_ROWS = 10_000  # of the rows from which columns are inferred
ROW_WEIGHT = re.compile(r"(row|sample|survey|instance|case|example)?[ _.]?(weight|wgt)s?", re.IGNORECASE)
TOP_CATEGORIES = 5  # of each column


def describe(
    data: Data | PreparedData,
    schema: Schema | None = None,
    test: Data | None = None,
    labels: Sequence[Task | str] = (),
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
    **reading: Any,
) -> Description:
    """Describe a dataset: its columns, labels, drift, and the columns that give a label away.

    Rows, missing values, label rates, ranges and means are exact; distinct values are counted up to a bound; quantiles
    and the search for columns that give a label away use a sample of at most 200,000 rows.

    Args:
        data: Raw rows in any form that `prepare` takes, or a prepared dataset or its folder.
        schema: What the columns of raw rows mean; ``None`` infers it as `Schema.infer` does, and shows for each column
            how it is read and why.
        test: Other rows, compared with the first ones.
        labels: The label columns, or tasks, if no schema is given.
        progress: Called with what is being done and the number of rows just read.
        bad_rows: What to do with raw rows that do not parse, as in `prepare`.
        reading: ``kinds``, ``drop``, ``date_formats`` and the roles of `Schema.infer`, if no schema is given.

    Raises:
        DataError: A file is missing, empty or has a value that does not parse, or the arguments do not fit together.
        SchemaError: A column is missing.
    """
    if isinstance(data, PreparedData) or (isinstance(data, str | Path) and (Path(data) / MANIFEST).is_file()):
        if schema or test is not None or labels or reading:
            raise DataError("a prepared dataset brings its own card, labels and test rows")
        return describe_prepared(data if isinstance(data, PreparedData) else PreparedData.open(data))
    if schema and (labels or reading):
        named = ", ".join(f"`{name}`" for name in [*(["labels"] if labels else []), *reading])
        raise DataError(f"the card says what the columns are: give either a card or {named}")
    given = {"train": data} | ({} if test is None else {"test": test})
    text = schema.text_format if schema else TextFormat(**format_options(reading))
    sources = {name: open_sources(rows, name, text) for name, rows in given.items()}
    readings: tuple[Reading, ...] = ()
    if schema is None:
        roles = {k: v for k, v in reading.items() if k not in ("kinds", "drop", "date_formats")}
        said = (reading.get("kinds"), reading.get("drop", ()), roles, bad_rows, reading.get("date_formats"))
        columns = infer_columns(data, labels, *said)
        readings = columns.readings
        schema = Schema([r.feature for r in readings if r.feature], columns.tasks or [NO_TASK], **roles)
    optional = frozenset() if labels else schema.unfeatured
    for source in (s for split in sources.values() for s in split):
        columns_of_source = [*source.columns, *sorted(optional - set(source.columns))]
        schema = schema.resolve(columns_of_source, source.name, source.index)
    skipped = BadRowCounter() if skips(bad_rows) else None
    tallies = {name: _tally_sources(schema, split, progress, skipped) for name, split in sources.items()}
    unnamed = max(source.unnamed for split in sources.values() for source in split)
    return _describe_tallies(schema, tallies, readings, skipped.notes() if skipped else [], unnamed)


def leak_warnings(rows: pa.Table, schema: Schema) -> list[str]:
    """Return a sentence on each column that gives a label away in raw rows, of which at most 10,000 are looked at.

    Rows that do not parse are left out, as preparing the data reports them.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, LEAK_ROWS).astype(np.int64))  # spread over all
    columns = [name for name in rows.column_names if name in schema.columns]
    try:
        found = describe(rows.select(columns).take(pa.array(places)), schema, bad_rows="skip")
    except DataError:  # no row is left
        return []
    return [
        f"{warning} `--drop {column}` leaves it out"
        for warning, column in zip(found.warnings, found.leaks["column"], strict=False)  # leaks come first
    ]


class RawTally(SplitTally):
    """Counts of the raw rows of one split."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.features: dict[str, Feature] = {key: Categorical(key) for key in schema.carried}
        self.features |= {name: Numeric(name) for name in schema.weights}
        self.features |= {f.name: f for f in schema.features}
        numbers = [name for name, f in self.features.items() if isinstance(f, Numeric | Binned)]
        super().__init__(numbers, schema)
        self.categories = {name: CategoryTally() for name in self.features if name not in self.numbers}
        self.files: list[tuple[str, LabelTally]] = []
        self.infinite: Counter[str] = Counter()  # rows of each column
        self.histories = HistoryLeaks(schema, "train")

    def begin(self, file: str) -> None:
        """Count the labels of the following batches for a file, too."""
        self.files.append((file, LabelTally(self._schema.reported_tasks, self.classes.numbered)))

    def add(self, batch: pa.RecordBatch, numbers: RowNumbers) -> int:
        """Count a batch; return its number of rows."""
        batch = self._finite(batch)
        rows, present = batch.num_rows, set(batch.schema.names)
        drawn, kept = self.sample.draw(rows), {}
        for name, feature in self.features.items():
            column = batch.column(name) if name in present else pa.nulls(rows, pa.string())
            if isinstance(feature, Numeric | Binned):
                values = as_numbers(column, name, self._schema.decimal)
                self.numbers[name].add(values)
                kept[name] = pa.array(values[drawn])
            else:
                kept[name] = self._add_categories(column, feature).take(pa.array(drawn))
        missing = np.full(rows, np.nan)
        labels = {n: self._label(batch, n) if n in present else missing for n in self._schema.labels}
        for tally in (self.labels, *(tally for _, tally in self.files[-1:])):
            tally.add(labels)
        self.histories.add_raw(batch, labels)
        self.sample.keep(kept | {name: pa.array(label[drawn]) for name, label in labels.items()})
        self.rows += rows
        return int(rows)

    def _label(self, batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
        if name in self._schema.class_labels:
            return self.classes.codes(batch.column(name), name)
        return label_column(self._schema, batch, name)

    def _finite(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count infinite numbers, at which preparing the data stops; return the rows without them."""
        times = [f for f in self._schema.features if isinstance(f, Timestamp)]
        numbers = {f.name for f in times if f.format in TICKS or digits_of(f.format)}
        labels = set(self._schema.labels) - self._schema.class_labels.keys()
        for name in {*self.numbers, *labels, *numbers} & set(batch.schema.names):
            try:
                values = read_numbers(batch.column(name), name, self._schema.decimal)
            except BadValueError:  # of which the column's own reader says more
                continue
            if infinite := int(np.isinf(values).sum()):
                self.infinite[name] += infinite
                finite = pc.if_else(pa.array(np.isinf(values)), None, batch.column(name))
                batch = batch.set_column(batch.schema.get_field_index(name), name, finite)
        return batch

    def _add_categories(self, column: pa.Array, feature: Feature) -> pa.Array:
        """Count the categories of a column; return its values as text."""
        tally = self.categories[feature.name]
        if isinstance(feature, MultiCategorical):
            values, codes, lengths = as_lists(
                column, feature.separator, feature.name, self._schema.text_format.null_words
            )
            tally.add(values, codes, len(lengths), int((lengths == 0).sum()))
            if pa.types.is_nested(column.type):
                column = pc.binary_join(column.cast(pa.list_(pa.string())), feature.separator)
            values, codes = as_text(column, feature.name)
        else:
            if isinstance(feature, Timestamp):
                as_times(column, feature)  # raises an error for a value that is not a date
            values, codes = as_text(column, feature.name, ids=not isinstance(feature, Timestamp))
            tally.add(values, codes, len(codes), int((codes < 0).sum()))
        return values.take(pa.array(codes, mask=codes < 0))

    def drift(self, train: RawTally) -> Iterator[tuple[str, float, float, float, float]]:
        """Yield each column and how it differs: see `Description.drift`."""
        sample = self.sample.table()
        for column in self.features:
            if column in self.numbers:
                number = self.numbers[column]
                trained = train.numbers[column]
                beyond = trained.beyond(sample[column].to_numpy())
                yield column, number.missing / number.rows, np.nan, beyond, number.shift(trained)
            else:
                category = self.categories[column]
                times = isinstance(self.features[column], Timestamp)  # read as days and hours, not as categories
                unseen = np.nan if times else category.unseen(train.categories[column])
                yield column, category.missing / category.rows, unseen, np.nan, np.nan


def _tally_sources(
    schema: Schema, sources: list[Source], progress: Progress, skipped: BadRowCounter | None
) -> RawTally:
    tally = RawTally(schema)
    for source in sources:
        tally.begin(source.name)
        for rows in convert(schema, [source], tally.add, skipped, allow_empty=True):
            progress("describe", rows)
    if tally.rows == 0:
        raise no_rows(sources, skipped)
    return tally


def _describe_tallies(
    schema: Schema,
    splits: Mapping[str, RawTally],
    readings: Sequence[Reading],
    bad_row_notes: Sequence[str],
    unnamed: int,
) -> Description:
    train, sample = splits["train"], splits["train"].sample.table()
    tallies = train.numbers | train.categories
    kinds = dict.fromkeys(schema.keys, "key") | {schema.group: "group"} | dict.fromkeys(schema.weights, "weight")
    kinds |= {f.name: KIND_NAMES[type(f)] for f in schema.features}
    kinds |= {r.column: r.kind for r in readings}
    columns = [
        (name, kinds[name], t.missing / t.rows, t.distinct, t.more)
        for name, t in ((name, tallies[name]) for name in train.features)
    ]
    numbers = [
        (name, t.low, *sample[name].to_pandas().quantile(list(QUANTILE_LEVELS.values())), t.high, t.mean, t.deviation)
        for name, t in train.numbers.items()
    ]
    named = ["column", "lowest", *QUANTILE_LEVELS, "highest", "mean", "deviation"]
    return describe_splits(
        schema,
        splits,
        features={
            f.name: sample[f.name].to_numpy() if f.name in train.numbers else category_codes(sample[f.name])
            for f in schema.features
        },
        columns=_with_reasons(
            pd.DataFrame(columns, columns=["column", "kind", "missing", "distinct", "more"]), readings
        ),
        numbers=pd.DataFrame(numbers, columns=named).replace([np.inf, -np.inf], np.nan),
        values=_top_categories(train),
        files=_file_labels(splits),
        warnings=(
            *_reading_warnings(readings),
            *_infinite_warnings(splits),
            *_unnamed_warnings(unnamed),
            *sentinel_warnings(sample, schema, train.classes),
        ),
        notes=(
            *bad_row_notes,
            *left_out_notes(readings),
            *_column_notes(train, {r.column for r in readings if not r.used}),
            *train.histories.notes(),
        ),
    )


def _with_reasons(columns: pd.DataFrame, readings: Sequence[Reading]) -> pd.DataFrame:
    """Return the table of columns; if they were inferred, with the reason of each reading after its kind."""
    if readings:
        reasons = {r.column: r.reason for r in readings}
        columns.insert(2, "reason", [reasons.get(name, "") for name in columns["column"]])
    return columns


def _reading_warnings(readings: Sequence[Reading]) -> Iterator[str]:
    """Yield what the user must say about columns for data to be prepared, and features named like weights."""
    for reading in readings:
        if reading.question:
            yield reading.question
        elif reading.used and isinstance(reading.feature, Numeric) and ROW_WEIGHT.fullmatch(reading.column):
            yield (
                f"column {reading.column!r} is read as a feature: if it says how much a row counts, say "
                f"`--weight {reading.column}`, or `--drop {reading.column}`"
            )


def _unnamed_warnings(unnamed: int) -> Iterator[str]:
    """Yield that columns have no name."""
    if unnamed:
        what = "a column has no name and is" if unnamed == 1 else f"{unnamed} columns have no name and are"
        yield f"{what} left out: give a feature a name in the header"


def _file_labels(splits: Mapping[str, RawTally]) -> Iterator[tuple[Any, ...]]:
    """Yield the labels of each file, unless every split has a single file."""
    if all(len(split.files) == 1 for split in splits.values()):
        return
    for name, split in splits.items():
        for file, tally in split.files:
            yield from ((row[0], file, *row[1:]) for row in tally.table(name))


def _top_categories(split: RawTally) -> Iterator[tuple[str, str, int, float]]:
    for name, tally in split.categories.items():
        top = tally.counts().sort_by([("count", "descending"), ("category", "ascending")]).slice(0, TOP_CATEGORIES)
        yield from ((name, row["category"], row["count"], row["count"] / tally.rows) for row in top.to_pylist())


def _infinite_warnings(splits: Mapping[str, RawTally]) -> Iterator[str]:
    """Yield a warning about each column with infinite values, at which preparing the data stops."""
    for split, tally in splits.items():
        for name, infinite in tally.infinite.items():
            yield (
                f"column {name!r} has an infinite value in {infinite:,} of {tally.rows:,} {split} rows, counted as "
                "missing here: an error when data is prepared; leave out such rows (`--bad_rows skip`) or the "
                "column"
            )


def _column_notes(train: RawTally, left_out: Collection[str]) -> Iterator[str]:
    """Yield a note on each column without information or with more categories than are counted, if not left out."""
    for name, tally in (train.numbers | train.categories).items():
        if name in left_out:
            continue
        if tally.missing == tally.rows:
            yield f"column {name!r} is missing in every row"
        elif tally.distinct == 1 and (name in train.numbers or not tally.missing):
            yield f"column {name!r} is constant"
        elif name in train.categories and tally.more:
            yield (
                f"column {name!r} has more than {tally.distinct:,} categories: the counts of the frequent ones are too "
                "low by what was counted before they were, and unseen ones are not counted"
            )
