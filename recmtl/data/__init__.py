"""From raw files to batches, by a schema."""

from typing import TYPE_CHECKING

import lazy_loader

from recmtl.data.preparation.encode_rows import encode_rows
from recmtl.data.preparation.on_ray import ray_map
from recmtl.data.preparation.prepare import prepare
from recmtl.data.profiling.description import Description
from recmtl.data.profiling.raw import describe
from recmtl.data.store.prepared import PreparedData, Rows
from recmtl.errors import DataError
from recmtl.io.partitions import Partitions

if TYPE_CHECKING:  # loaded when first used: they need torch, which takes a second, and preparing rows does not
    from recmtl.data.batch import Batch, Share
    from recmtl.data.loader import Loader
    from recmtl.data.store.lists import IdLists

__getattr__, _, _ = lazy_loader.attach(
    __name__, submod_attrs={"batch": ["Batch", "Share"], "loader": ["Loader"], "store.lists": ["IdLists"]}
)

__all__ = [
    "Batch",
    "DataError",
    "Description",
    "IdLists",
    "Loader",
    "Partitions",
    "PreparedData",
    "Rows",
    "Share",
    "describe",
    "encode_rows",
    "prepare",
    "ray_map",
]
