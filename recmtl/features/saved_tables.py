"""Tables in checkpoints: those that are spread over processes are kept in parts, beside the small rest of a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recmtl.features import EmbeddingTable
from recmtl.features.embedding_table import PLACES
from recmtl.features.row_places import RowPlaces
from recmtl.runs.checkpoint_file import TABLES

if TYPE_CHECKING:
    from recmtl.runs.table_parts import TableParts


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model without the tables that are spread over processes."""
    spread = {name for name, table in table_weights(model) if table.sharded}
    spread |= {name.removesuffix("weight") + PLACES for name in spread}
    return {name: value for name, value in model.state_dict().items() if name not in spread}


def spread_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the tables of a model by name that are spread over processes, each process its part of them."""
    return {name: table.as_dtensor(table.weight.detach()) for name, table in table_weights(model) if table.sharded}


def saved_weights(parts: TableParts | None, model: nn.Module) -> dict[str, SavedRows]:
    """Return those tables of a model by name that a checkpoint has in parts."""
    return {name: SavedRows(parts, name) for name, _ in table_weights(model) if parts and name in parts.forms}


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint, tables as its processes had them into those that this process has.

    Raises:
        RuntimeError, ValueError: They are those of another model.
    """
    weights, parts = dict(state["model"]), state.get(TABLES)
    for name, table in table_weights(model):
        if name in weights:
            weights[name] = own_part(table, weights[name])
        elif parts is not None:
            weights[name] = table.weight.detach()
            read_rows(parts, name, table, weights[name])
    model.load_state_dict(weights)


def spread_elements(name: str, table: EmbeddingTable, elements: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what an optimizer keeps of each row of a table, by name, if it is spread over processes."""
    return {f"{name}/{key}": table.as_dtensor(own) for key, own in elements.items()} if table.sharded else {}


def saved_elements(name: str, parts: TableParts | None) -> dict[str, SavedRows]:
    """Return what `spread_elements` returned, from a checkpoint, by the names that the optimizer gives it."""
    if parts is None:
        return {}
    return {key.removeprefix(f"{name}/"): SavedRows(parts, key) for key in parts.forms if key.startswith(f"{name}/")}


def own_elements(
    table: EmbeddingTable, whole: Mapping[str, Tensor], saved: Mapping[str, SavedRows]
) -> dict[str, Tensor]:
    """Return what an optimizer keeps of the rows that this process has, of a state that is kept whole or in parts."""
    elements = {name: own_part(table, rows) for name, rows in whole.items()}
    for name, rows in saved.items():
        form = rows.parts.forms[rows.name]
        elements[name] = form.new_empty((len(table.weight), *form.shape[1:]), device=table.weight.device)
        read_rows(rows.parts, rows.name, table, elements[name])
    return elements


@dataclass(frozen=True)
class SavedRows:
    """The rows of a table in the parts of a checkpoint, by their ids.

    Args:
        parts: The tables of the checkpoint.
        name: The name of the table.
    """

    parts: TableParts
    name: str

    @property
    def shape(self) -> torch.Size:
        """The shape of the whole table."""
        return self.parts.forms[self.name].shape

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Return rows of ids, ``[n]`` to ``[n, …]``."""
        return self.parts.rows(self.name, RowPlaces(self.shape[0], 1, 0).places_of(ids))


def read_rows(parts: TableParts, name: str, table: EmbeddingTable, own: Tensor) -> None:
    """Fill a tensor with a row for each of the weight that this process has of a table; the parts have them by place.

    Raises:
        ValueError: The parts have no such table of this size and type.
    """
    if table.sharded:
        parts.load({name: table.as_dtensor(own)})
        return
    parts.check_forms({name: own})
    for start, rows in parts.blocks(name):
        own.index_copy_(0, table.ids_at(start, start + len(rows)).to(own.device), rows.to(own.device))


def own_part(table: EmbeddingTable, whole: Tensor) -> Tensor:
    """Return those rows of a whole table, in the order of their ids, that this process has."""
    if not table.sharded:
        return whole
    if len(whole) != table.rows:
        raise ValueError(f"the table has {len(whole):,} rows, expected {table.rows:,}")
    return whole.index_select(0, table.own_ids)


def table_weights(model: nn.Module) -> Iterator[tuple[str, EmbeddingTable]]:
    """Yield the names of the weights of all tables; a table in two places of the model has two."""
    tables = {id(module.weight): module for module in model.modules() if isinstance(module, EmbeddingTable)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in tables:
            yield name, tables[id(parameter)]
