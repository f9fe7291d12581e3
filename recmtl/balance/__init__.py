"""Gradient balancing for multitask models: K losses in, the shared layers' gradients balanced.

Any torch model can use it. A method works on the losses' weights, on the tasks' gradients of the shared tensors, or
on the gradients where the representation forks into heads.
"""

from recmtl.balance.base import Balancer
from recmtl.balance.diagnostics import Diagnosis, diagnose
from recmtl.balance.gradnorm import GradNorm, GradNormRule
from recmtl.balance.leaf import Leaf, Sizes
from recmtl.balance.loss_weights import LossWeightBalancer
from recmtl.balance.metabalance import MetaBalance
from recmtl.balance.module import BalancedModule, as_module
from recmtl.balance.nonfinite import zero_and_mark, zero_nonfinite_gradients
from recmtl.balance.normalized_splitter import NormalizedSplitter
from recmtl.balance.pcgrad import PCGrad
from recmtl.balance.ppcgrad import PPCGrad
from recmtl.balance.projection import ProjectionBalancer, project_conflicting
from recmtl.balance.ranks import LostRankError, Ranks
from recmtl.balance.representation import RepresentationBalancer
from recmtl.balance.rotate_only import RotateOnly
from recmtl.balance.rotation import RotationBalancer
from recmtl.balance.rotograd import RotoGrad
from recmtl.balance.rotogradnorm import RotoGradNorm
from recmtl.balance.sum import Sum
from recmtl.balance.task_gradients import TaskGradientBalancer, TaskGradients

__all__ = [
    "BalancedModule",
    "Balancer",
    "Diagnosis",
    "GradNorm",
    "GradNormRule",
    "Leaf",
    "LossWeightBalancer",
    "LostRankError",
    "MetaBalance",
    "NormalizedSplitter",
    "PCGrad",
    "PPCGrad",
    "ProjectionBalancer",
    "Ranks",
    "RepresentationBalancer",
    "RotateOnly",
    "RotationBalancer",
    "RotoGrad",
    "RotoGradNorm",
    "Sizes",
    "Sum",
    "TaskGradientBalancer",
    "TaskGradients",
    "as_module",
    "diagnose",
    "project_conflicting",
    "zero_and_mark",
    "zero_nonfinite_gradients",
]
