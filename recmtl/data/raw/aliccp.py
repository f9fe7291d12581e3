"""Ali-CCP: impressions whose features stand in one field, joined with the features that impressions share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import cast_integer_columns, decode_bytes
from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import Mask, lenient_numbers
from recmtl.data.raw.raw_source import Join, RawSource
from recmtl.data.sources.base import DerivedSource, Source
from recmtl.errors import BadValueError
from recmtl.schema import SplitName
from recmtl.schema.text_format import TextFormat

# Between the features of a row, between the field and the id of a feature, and before its value, which is not read.
NEXT, ID, VALUE = "\x01", "\x02", "\x03"
SAMPLE = ("sample_id", "click", "buy", "common_id", "feature_count", "features")
COMMON = ("common_id", "feature_count", "features")
COMMON_FIELDS = ("101", "109_14", "110_14", "127_14", "150_14", "121", "122", "124", "125", "126", "127", "128", "129")
SAMPLE_FIELDS = ("205", "206", "207", "210", "216", "301", "508", "509", "702", "853")
SEVERAL = frozenset({"109_14", "110_14", "127_14", "150_14", "210", "853"})  # fields with any number of ids
FORM = "features such as 205\\x02ID\\x03VALUE with \\x01 between them"


class AliCcp(RawReader):
    """Impressions in recommendations of Taobao; the features of users are in a separate file.

    A field of several ids is text with ``|`` between them. The values of features are not read.
    """

    name = "aliccp"
    title = "Ali-CCP"
    cards = ("aliccp",)
    site = "https://tianchi.aliyun.com/dataset/408"
    license = "not confirmed: read the terms of the site"
    files = (
        "sample_skeleton_train.csv, common_features_train.csv, sample_skeleton_test.csv and common_features_test.csv "
        "(unpack the .tar.gz first)"
    )
    split = "the site's training and test files; validation rows are held out of the first"
    memory = (
        "the fields read of common_features, about 0.73 million rows in training: 0.2 GB for the nine fields of the "
        "card, several GB with the histories 109_14, 110_14, 127_14 and 150_14"
    )

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        splits: tuple[SplitName, ...] = ("train", "test")
        return {split: join_common(*_open_split(files, split)) for split in splits}


def _open_split(files: RawFiles, split: str) -> tuple[Source, Source]:
    sample, common = f"sample_skeleton_{split}.csv", f"common_features_{split}.csv"
    rows = files.csv(sample.replace(".", r"\."), sample, TextFormat(",", SAMPLE))
    table = files.csv(common.replace(".", r"\."), common, TextFormat(",", COMMON))
    return FeatureSource(rows, SAMPLE_FIELDS), FeatureSource(table, COMMON_FIELDS)


def join_common(samples: Source, common: Source) -> RawSource:
    """Return impressions with the features that they share; a purchase without a click is left out."""
    return RawSource(samples, [Join(common, "common_id", required=True)], chosen=Consistent())


@dataclass(frozen=True)
class Consistent:
    """Impressions that were clicked if they were bought; others contradict the site's own description."""

    columns: Sequence[str] = ("click", "buy")

    def mask(self, batch: pa.RecordBatch) -> Mask:
        """Return whether a row is one ``[rows]``; one that does not parse is, so that it is reported."""
        click, buy = (lenient_numbers(batch.column(name), name)[0] for name in self.columns)
        mask: Mask = ~((buy == 1) & (click == 0))
        return mask


class FeatureSource(DerivedSource):
    """A file whose last column holds the features of a row, as a column for each field.

    Args:
        source: The file.
        fields: The fields.
    """

    parses = True

    def __init__(self, source: Source, fields: Sequence[str]) -> None:
        super().__init__(source)
        self._fields = tuple(fields)
        self._own = tuple(name for name in source.columns if name != "features")
        self.columns = (*self._own, *fields)
        self._shortened: dict[str, int] = {}  # rows with several ids of a field that has one

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows: fields as integers or text."""
        fields = [name for name in columns if name not in self._own]
        own = [name for name in columns if name in self._own]
        self._shortened, row = dict.fromkeys(fields, 0), 0

        def parsed() -> Iterator[pa.RecordBatch]:
            nonlocal row
            read = [*own, *(["features"] if fields else [])] or [self._own[0]]
            for batch in self._source.batches(read, numbers, malformed):
                found = self._read_fields(batch.column("features"), fields, row) if fields else {}
                row += batch.num_rows
                arrays = [found[name] if name in found else batch.column(name) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

        yield from cast_integer_columns(parsed())
        shortened = (
            f"{n:,} rows of {self.name} have several ids of {f}: the first is read" for f, n in self._several()
        )
        self.notes = (*self._source.notes, *shortened)

    def _several(self) -> list[tuple[str, int]]:
        return [(field, count) for field, count in self._shortened.items() if count]

    def _read_fields(self, features: pa.Array, fields: Sequence[str], before: int) -> Mapping[str, pa.Array]:
        """Return the ids of each field ``[rows]``, given the features of rows."""
        text = decode_bytes(features, "features").cast(pa.string())
        lists = pc.split_pattern(text, NEXT)
        rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        tokens = pc.list_flatten(lists)
        filled = pc.not_equal(tokens, "").to_numpy(zero_copy_only=False)
        rows, tokens = rows[filled], tokens.filter(pa.array(filled))
        parts = pc.split_pattern(tokens, ID, max_splits=1)
        whole = pc.equal(pc.list_value_length(parts), 2).to_numpy(zero_copy_only=False)
        if not whole.all():
            row = int(rows[int((~whole).argmax())])
            raise self._source.fault(BadValueError(before + row, "features", text[row].as_py()[:80], FORM))
        names, ids = pc.list_element(parts, 0), pc.list_element(parts, 1)
        return {field: self._ids_of(field, names, ids, rows, len(text)) for field in fields}

    def _ids_of(self, field: str, names: pa.Array, ids: pa.Array, rows: np.ndarray, count: int) -> pa.Array:
        """Return the id of a field in each row ``[rows]``, missing where it has none; of several fields all of them."""
        mine = np.flatnonzero(pc.equal(names, field).to_numpy(zero_copy_only=False))
        place = rows[mine]
        values = pc.list_element(pc.split_pattern(ids.take(pa.array(mine)), VALUE, max_splits=1), 0)
        if field in SEVERAL:
            lengths = np.bincount(place, minlength=count)
            joined = pc.binary_join(
                pa.ListArray.from_arrays(pa.array(np.append(0, lengths.cumsum()), pa.int32()), values), "|"
            )
            return pc.if_else(pa.array(lengths > 0), joined, None)
        first, at = np.unique(place, return_index=True)
        self._shortened[field] += int((np.bincount(place, minlength=1) > 1).sum())
        position = np.full(count, -1)
        position[first] = at
        return values.take(pa.array(position, mask=position < 0))
