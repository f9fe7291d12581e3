"""What the rows of a model's parameters start as if its schema extends that of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recmtl.schema import Binned, FittedSchema
from recmtl.schema.extend import unchanged_ids
from recmtl.schema.fitted import FIRST, MISSING, UNKNOWN

DRAWN = -1  # the origin of a row that stays what it is drawn as


class TrainedRows(Protocol):
    """The rows of a trained parameter, by their numbers."""

    def __getitem__(self, numbers: Tensor, /) -> Tensor:
        """Return rows, ``[n]`` to ``[n, …]``."""


class RowOrigins(NamedTuple):
    """Where the rows of a parameter come from, int64 and bool ``[rows]``.

    Attributes:
        source: The row of the trained parameter that each one starts as, or `DRAWN`.
        kept: Whether it is that row, and keeps its optimizer state, too.
        beside: A second row of the trained parameter; ``None`` takes one row alone.
        share: The share of the second row in the mixture of both that each row starts as, float ``[rows]``.
    """

    source: Tensor
    kept: Tensor
    beside: Tensor | None = None
    share: Tensor | None = None

    def of(self, rows: Tensor) -> RowOrigins:
        """Return the origins of some of the rows."""
        beside, share = (None if values is None else values[rows] for values in (self.beside, self.share))
        return RowOrigins(self.source[rows], self.kept[rows], beside, share)

    def grown(self, trained: TrainedRows, drawn: Tensor) -> Tensor:
        """Return the rows of a parameter, given the trained ones and those that were drawn."""
        found, taken = drawn.detach().clone(), self.source >= 0
        found[taken] = trained[self.source[taken]].to(found)
        if self.beside is not None and self.share is not None:
            mixed = self.share > 0  # others stay bit for bit
            found[mixed] = torch.lerp(
                found[mixed], trained[self.beside[mixed]].to(found), self.share[mixed, None].to(found)
            )
        return found

    def moved(self, state: TrainedRows, initial: Tensor) -> Tensor:
        """Return the optimizer state of the rows, given that of the trained ones and that of a new row."""
        found = initial.detach().clone()
        found[self.kept] = state[self.source[self.kept]].to(found)
        return found


def table_origins(owners: Sequence[tuple[str, str | None]], old: FittedSchema, new: FittedSchema) -> RowOrigins:
    """Return the origins of the rows of an embedding table, given the features with rows in it, in their order.

    A new category starts as "unknown" did, which is how its rows were read before, and "missing" does so where no
    training row had lacked the feature. Likewise a feature that had one value starts with that value's row in all of
    its rows. So the model predicts what it did.
    """
    before = {block.owner: block.size for block in old.id_blocks}
    after = {block.owner: block.size for block in new.id_blocks}
    source, kept, start = [], [], 0
    for owner in owners:
        own, same = _owner_origins(owner, old, new, after[owner])
        source.append(own + start)
        kept.append(same)
        start += before[owner]
    return RowOrigins(torch.from_numpy(np.concatenate(source)), torch.from_numpy(np.concatenate(kept)))


def _owner_origins(
    owner: tuple[str, str | None], old: FittedSchema, new: FittedSchema, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the origins of one feature's rows, counted from its first row."""
    kept = unchanged_ids(old, new, owner[0] if owner[1] is None else "", size)
    source = np.where(kept, np.arange(size), UNKNOWN)
    blocks = [block for block in old.id_blocks if block.owner == owner]
    if isinstance(blocks[0].feature, Binned) and old.quantiles[owner[0]] != new.quantiles[owner[0]]:
        source, kept = _bin_origins(*(np.array(fitted.quantiles[owner[0]]) for fitted in (old, new)))
    constant = old.constants.get(blocks[0].name, ())
    if len(blocks) == 1 and len(constant) == 1 and blocks[0].name not in new.constants:
        source[:] = constant[0]
        kept = np.arange(size) == constant[0]
    elif all(old.missing[b.feature.name] == 0 for b in blocks) and any(new.missing[b.feature.name] for b in blocks):
        source[MISSING], kept[MISSING] = UNKNOWN, False
    return source, kept


def _bin_origins(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the origins of the rows of bins, given their old and new edges: the old bin that holds the upper edge."""
    upper, ends = np.append(after, np.inf), np.append(before, np.inf)
    bins = np.searchsorted(before, upper)
    same = (ends[bins] == upper) & (np.append(-np.inf, after) == np.append(-np.inf, before)[bins])
    reserved = np.arange(FIRST)
    return np.append(reserved, FIRST + bins), np.append(reserved >= 0, same)


def knot_origins(old: FittedSchema, new: FittedSchema) -> RowOrigins:
    """Return the origins of the rows of splines: at each knot of a number, the old spline's value there."""
    source, beside, share, kept, start = [], [], [], [], 0
    for feature in (f for f in new.numeric if f.transform == "knots"):
        before, after = (np.array(fitted.quantiles[feature.name]) for fitted in (old, new))
        place = np.interp(after, before, np.arange(len(before)))
        first = np.minimum(place.astype(np.int64), max(0, len(before) - 2))
        exact = place == np.round(place)
        first = np.where(exact, np.round(place).astype(np.int64), first)
        source.append(start + first)
        beside.append(start + np.minimum(first + 1, len(before) - 1))
        share.append(np.where(exact, 0.0, place - first))
        kept.append(np.isin(after, before))
        start += len(before)
    if not source:
        return RowOrigins(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    places, others, shares, same = (torch.from_numpy(np.concatenate(p)) for p in (source, beside, share, kept))
    return RowOrigins(places, same, others, shares.float())


def domain_origins(before: int, after: int) -> RowOrigins:
    """Return the origins of what a model has once per domain: later domains are as drawn."""
    source = torch.arange(after)
    return RowOrigins(source.where(source < before, torch.tensor(DRAWN)), source < before)


def model_origins(model: nn.Module, old: FittedSchema, new: FittedSchema) -> Mapping[str, RowOrigins]:
    """Return the origins of the rows of all parameters that grow with the schema, by name.

    They are those that a module's `row_origins` returns by the names of its parameters.
    """
    found: dict[str, RowOrigins] = {}
    for name, module in model.named_modules():
        if hasattr(module, "row_origins"):
            own = module.row_origins(old, new)
            found |= {f"{name}.{parameter}".lstrip("."): origins for parameter, origins in own.items()}
    return found
