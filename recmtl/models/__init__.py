"""Ranking models: from a batch to the logits of each task."""

from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.esmm import ESMM
from recmtl.models.mmoe import MMOE
from recmtl.models.shared_bottom import SharedBottom
from recmtl.models.single_task import SingleTask

__all__ = ["ESMM", "MMOE", "EncoderFactory", "RankingModel", "Shared", "SharedBottom", "SingleTask", "Tower"]
