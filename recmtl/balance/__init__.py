"""Gradient balancing for multitask models of torch: K losses in, balanced gradients of the shared layers out.

A method works on the losses' weights, on the tasks' gradients of the shared tensors, or on the gradients where the
representation forks into heads.

To add a method, put it in a file of its own in the folder of its family, export it here, and add a test.
"""

from recmtl.balance.backward import zero_nonfinite_gradients
from recmtl.balance.base import Balancer
from recmtl.balance.distributed import ProcessGroup
from recmtl.balance.gradient_stats import GradientStats, gradient_stats
from recmtl.balance.module import BalancedModule
from recmtl.balance.representation.base import RepresentationBalancer
from recmtl.balance.representation.graddrop import GradDrop
from recmtl.balance.representation.normalized_splitter import NormalizedSplitter
from recmtl.balance.representation.rotate_only import RotateOnly
from recmtl.balance.representation.rotation import RotationBalancer
from recmtl.balance.representation.rotograd import RotoGrad
from recmtl.balance.representation.rotogradnorm import RotoGradNorm
from recmtl.balance.row_exchange import exchange_rows
from recmtl.balance.shared import SharedTensor, Sizes, shared_tensors
from recmtl.balance.task_gradients.aligned_mtl import AlignedMTL
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients
from recmtl.balance.task_gradients.cagrad import CAGrad
from recmtl.balance.task_gradients.db_mtl import DBMTL
from recmtl.balance.task_gradients.dual_proj import DualProj
from recmtl.balance.task_gradients.excess_mtl import ExcessMTL
from recmtl.balance.task_gradients.fairgrad import FairGrad
from recmtl.balance.task_gradients.gradcraft import GradCraft
from recmtl.balance.task_gradients.gradvac import GradVac
from recmtl.balance.task_gradients.gram import GramBalancer
from recmtl.balance.task_gradients.imtl_g import IMTLG
from recmtl.balance.task_gradients.metabalance import MetaBalance
from recmtl.balance.task_gradients.mgda import MGDA
from recmtl.balance.task_gradients.nash_mtl import NashMTL
from recmtl.balance.task_gradients.pcgrad import PCGrad
from recmtl.balance.task_gradients.ppcgrad import PPCGrad
from recmtl.balance.task_gradients.projection import ProjectionBalancer, project_conflicting
from recmtl.balance.task_gradients.upgrad import UPGrad
from recmtl.balance.weighting.base import LearnedWeightBalancer, LossValueBalancer, LossWeightBalancer
from recmtl.balance.weighting.dwa import DWA
from recmtl.balance.weighting.famo import FAMO
from recmtl.balance.weighting.fixed_weights import FixedWeights
from recmtl.balance.weighting.gls import GLS
from recmtl.balance.weighting.gradnorm import GradNorm, GradNormRule
from recmtl.balance.weighting.imtl_l import IMTLL
from recmtl.balance.weighting.rlw import RLW
from recmtl.balance.weighting.stch import STCH
from recmtl.balance.weighting.sum import Sum
from recmtl.balance.weighting.uncertainty_weighting import UncertaintyWeighting
from recmtl.errors import LostRankError

__all__ = [
    "DBMTL",
    "DWA",
    "FAMO",
    "GLS",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "BalancedModule",
    "Balancer",
    "CAGrad",
    "DualProj",
    "ExcessMTL",
    "FairGrad",
    "FixedWeights",
    "GradCraft",
    "GradDrop",
    "GradNorm",
    "GradNormRule",
    "GradVac",
    "GradientStats",
    "GramBalancer",
    "LearnedWeightBalancer",
    "LossValueBalancer",
    "LossWeightBalancer",
    "LostRankError",
    "MetaBalance",
    "NashMTL",
    "NormalizedSplitter",
    "PCGrad",
    "PPCGrad",
    "ProcessGroup",
    "ProjectionBalancer",
    "RepresentationBalancer",
    "RotateOnly",
    "RotationBalancer",
    "RotoGrad",
    "RotoGradNorm",
    "SharedTensor",
    "Sizes",
    "Sum",
    "TaskGradientBalancer",
    "TaskGradients",
    "UPGrad",
    "UncertaintyWeighting",
    "exchange_rows",
    "gradient_stats",
    "project_conflicting",
    "shared_tensors",
    "zero_nonfinite_gradients",
]
