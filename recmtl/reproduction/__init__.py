"""Reproductions of published figures: their setting, trained over seeds, and one verdict."""

from recmtl.reproduction.published import find_preset
from recmtl.reproduction.result import Reproduction
from recmtl.reproduction.runner import reproduce

__all__ = ["Reproduction", "find_preset", "reproduce"]
