"""Find the ids of categories in a vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.id_lists import Ids
from recmtl.data.columns.once import OncePerSchema
from recmtl.data.columns.values import Codes, find_integers, stable_hash
from recmtl.data.columns.vocabularies import SMALL_INTEGERS
from recmtl.schema.fitted import FIRST, UNKNOWN

HASH_CHUNK = 1 << 20  # categories hashed at a time, as Python text


class TextLookup:
    """Finds text in a vocabulary by sorted 64-bit hashes; text is compared, so collisions are harmless."""

    def __init__(
        self, vocabulary: pa.Array, hashed: Callable[[pa.Array], npt.NDArray[np.uint64]] = stable_hash
    ) -> None:
        self._vocabulary, self._hashed = vocabulary, hashed
        starts = range(0, len(vocabulary), HASH_CHUNK)
        chunks = [hashed(vocabulary.slice(start, HASH_CHUNK)) for start in starts]
        hashes = np.concatenate([np.empty(0, np.uint64), *chunks])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __call__(self, values: pa.StringArray) -> Ids:
        """Return the id of each value, `UNKNOWN` if it is not in the vocabulary ``[values]``."""
        hashes = self._hashed(values)
        order = np.argsort(hashes)  # searches for sorted values share the cache
        first, last = (np.searchsorted(self._hashes, hashes[order], side) for side in ("left", "right"))
        ids = np.full(len(values), UNKNOWN, np.int32)
        while len(order := order[first < last]):
            first, last = first[first < last], last[first < last]
            candidates = self._order[first]
            same = pc.equal(self._vocabulary.take(pa.array(candidates)), values.take(pa.array(order)))
            equal = same.fill_null(False).to_numpy(zero_copy_only=False)
            ids[order[equal]] = candidates[equal] + FIRST
            first = first + 1
        return ids


class IntegerLookup:
    """Finds integers among the canonical integers of a vocabulary of text."""

    def __init__(self, vocabulary: pa.Array) -> None:
        positions, integers = find_integers(vocabulary)
        ids = (positions + FIRST).astype(np.int32)
        small = (integers >= 0) & (integers < SMALL_INTEGERS)
        self._table = np.full(int(integers[small].max(initial=-1)) + 2, UNKNOWN, np.int32)
        self._table[integers[small]] = ids[small]
        self._large, self._ids = pd.Index(integers[~small]), np.append(ids[~small], np.int32(UNKNOWN))

    def __call__(self, integers: Codes) -> Ids:
        """Return the id of each integer, `UNKNOWN` if it is not in the vocabulary ``[integers]``."""
        others = len(self._table) - 1  # the place of all integers that are not in the table: unknown ones, or large
        places = np.minimum(integers.view(np.uint64), others).view(np.int64)  # a negative integer is a large one
        ids: Ids = self._table.take(places)
        if len(self._large):
            (left,) = np.nonzero(places == others)
            ids[left] = self._ids.take(self._large.get_indexer(pd.Index(integers[left])))
        return ids


text_lookup = OncePerSchema(lambda fitted, name: TextLookup(fitted.vocabularies[name]))
integer_lookup = OncePerSchema(lambda fitted, name: IntegerLookup(fitted.vocabularies[name]))
