"""Ranking models: from a batch to the logits of each task."""

from recmtl.models.base import RankingModel, Shared
from recmtl.models.esmm import ESMM
from recmtl.models.mmoe import MMOE
from recmtl.models.shared_bottom import SharedBottom
from recmtl.models.single_task import SingleTask

__all__ = ["ESMM", "MMOE", "RankingModel", "Shared", "SharedBottom", "SingleTask"]
