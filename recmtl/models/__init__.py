"""Ranking models: from a batch to the logits of each task."""

from recmtl.models.aitm import AITM
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.escm2 import ESCM2
from recmtl.models.esmm import ESMM
from recmtl.models.losses import Losses
from recmtl.models.mmoe import MMOE
from recmtl.models.omoe import OMoE
from recmtl.models.pepnet import PEPNet
from recmtl.models.ple import PLE
from recmtl.models.shared_bottom import SharedBottom
from recmtl.models.single_task import SingleTask
from recmtl.models.star import STAR
from recmtl.models.stem import STEM

__all__ = [
    "AITM",
    "ESCM2",
    "ESMM",
    "MMOE",
    "PLE",
    "STAR",
    "STEM",
    "EncoderFactory",
    "Losses",
    "OMoE",
    "PEPNet",
    "RankingModel",
    "Shared",
    "SharedBottom",
    "SingleTask",
    "Tower",
]
