"""Categories found in a vocabulary, in a time that hardly depends on its size."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.integers import SMALL, integers_among
from recmtl.data.values import Codes, stable_hash
from recmtl.schema import Categorical, FittedSchema
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

HASHED_TOGETHER = 1 << 20  # categories, as Python text

Ids = npt.NDArray[np.int32]


class Lookup:
    """Finds text in a vocabulary.

    The vocabulary is sorted by its hashes once. Text is compared with every category of its hash, so that equal hashes
    of different text do no harm.

    Args:
        vocabulary: The categories, each of them once.
        hashed: Gives the 64-bit hash of text.
    """

    def __init__(
        self, vocabulary: pa.Array, hashed: Callable[[pa.Array], npt.NDArray[np.uint64]] = stable_hash
    ) -> None:
        self._vocabulary, self._hashed = vocabulary, hashed
        starts = range(0, len(vocabulary), HASHED_TOGETHER)
        parts = [hashed(vocabulary.slice(start, HASHED_TOGETHER)) for start in starts]
        hashes = np.concatenate([np.empty(0, np.uint64), *parts])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __call__(self, values: pa.StringArray) -> Codes:
        """Give the position of each value in the vocabulary, -1 where it is not in it ``[values]``."""
        hashes = self._hashed(values)
        order = np.argsort(hashes)  # neighbours are found side by side
        first, last = (np.searchsorted(self._hashes, hashes[order], side) for side in ("left", "right"))
        found = np.full(len(values), -1, np.int64)
        while len(order := order[first < last]):
            first, last = first[first < last], last[first < last]
            candidates = self._order[first]
            same = pc.equal(self._vocabulary.take(pa.array(candidates)), values.take(pa.array(order)))
            equal = same.fill_null(False).to_numpy(zero_copy_only=False)
            found[order[equal]] = candidates[equal]
            first = first + 1
        return found


class IntegerLookup:
    """Finds integers among the categories of a vocabulary that are written as integers are.

    Args:
        vocabulary: The categories, as text, each of them once.
    """

    def __init__(self, vocabulary: pa.Array) -> None:
        positions, integers = integers_among(vocabulary)
        small = (integers >= 0) & (integers < SMALL)
        self._table = np.full(int(integers[small].max(initial=-1)) + 2, -1, np.int64)  # the last is for all others
        self._table[integers[small]] = positions[small]
        self._large, self._positions = pd.Index(integers[~small]), np.append(positions[~small], -1)

    def __call__(self, integers: Codes) -> Codes:
        """Give the position of each integer in the vocabulary, -1 where it is not in it ``[integers]``."""
        others = len(self._table) - 1
        found = self._table[np.where(integers.view(np.uint64) < others, integers, others)]
        if len(self._large) == 0:
            return found
        return np.where(found < 0, self._positions[self._large.get_indexer(pd.Index(integers))], found)


_making = Lock()
_made: WeakKeyDictionary[FittedSchema, dict[tuple[str, type], Lookup | IntegerLookup]] = WeakKeyDictionary()


def lookup(fitted: FittedSchema, feature: Categorical, values: pa.StringArray) -> Codes:
    """Give the index of each value among those of a feature, `UNKNOWN` where it is no category of it ``[values]``."""
    owner = fitted.schema.owner(feature)
    if owner.hash_buckets:
        return (stable_hash(values) % np.uint64(owner.hash_buckets)).astype(np.int64) + FIRST
    return _indices(_of(fitted, owner, Lookup)(values))


def lookup_integers(fitted: FittedSchema, feature: Categorical, column: pa.Int64Array) -> Codes:
    """Give the index of each integer among the values of a feature that is not hashed ``[rows]``."""
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    indices = _indices(_of(fitted, fitted.schema.owner(feature), IntegerLookup)(numbers))
    if column.null_count:
        indices[column.is_null().to_numpy(zero_copy_only=False)] = MISSING
    return indices


def _indices(positions: Codes) -> Codes:
    return np.where(positions < 0, UNKNOWN, positions + FIRST)


def _of(fitted: FittedSchema, owner: Categorical, kind: type[Lookup] | type[IntegerLookup]) -> Callable[..., Codes]:
    """The lookup of a vocabulary, made once and used by every encoder."""
    with _making:
        made = _made.setdefault(fitted, {})
        if (owner.name, kind) not in made:
            made[owner.name, kind] = kind(fitted.vocabularies[owner.name])
        return made[owner.name, kind]
