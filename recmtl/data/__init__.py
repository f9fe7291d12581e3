"""Files to batches. Knows the schema; knows no model."""

from recmtl.data.describe import describe
from recmtl.data.description import Description
from recmtl.data.errors import DataError
from recmtl.data.loader import Batch, Loader, Share
from recmtl.data.prepare import encode_rows, prepare
from recmtl.data.prepared import PreparedData, Rows

__all__ = [
    "Batch",
    "DataError",
    "Description",
    "Loader",
    "PreparedData",
    "Rows",
    "Share",
    "describe",
    "encode_rows",
    "prepare",
]
