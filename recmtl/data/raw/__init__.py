"""Datasets as their sites hand them out, in the columns of their cards: one reader per file."""

from recmtl.data.raw.opening import READERS, find_reader, open_raw

__all__ = ["READERS", "find_reader", "open_raw"]
