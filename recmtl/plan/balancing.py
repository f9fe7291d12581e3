"""What a balancer adds to the sizes of a training: passes, messages and state."""

from __future__ import annotations

from dataclasses import replace

from recmtl.balance import (
    Balancer,
    GradDrop,
    GradNorm,
    NormalizedSplitter,
    RotationBalancer,
    TaskGradientBalancer,
)
from recmtl.models import RankingModel
from recmtl.plan.formulas import NUMBER, Workload
from recmtl.train.setup import install_balancer

WIDE = 8  # bytes of a float64
TRAINED = 4  # numbers for each that is trained: a weight, a gradient, two of Adam


def balanced_by(sizes: Workload, method: type[Balancer]) -> Workload:
    """Return the sizes of a training by a class of balancers, as far as they do not depend on the model."""
    again = bool(method.needs_losses_after_step)
    sizes = replace(sizes, forwards=1 + again, balancer_sent=sizes.balancer_sent + again * 2 * NUMBER * sizes.tasks)
    if not issubclass(method, TaskGradientBalancer):
        return sizes
    return replace(sizes, passes=sizes.tasks, measured=sizes.tasks + sizes.tasks**2 * method.uses_products)


def sizes_of_balancer(model: RankingModel, balancer: Balancer) -> dict[str, int]:
    """Install a balancer in a model, and return the bytes that it sends in a step and holds, which depend on both."""
    install_balancer(model, balancer)
    trained = sum(parameter.numel() for parameter in balancer.parameters())
    held = NUMBER * TRAINED * trained + sum(buffer.nbytes for buffer in balancer.buffers())
    return {"balancer_sent": _sent(model, balancer), "balancer_held": held}


def _sent(model: RankingModel, balancer: Balancer) -> int:
    """Return the bytes of the numbers that `docs/howto/several_processes.md` lists, most of them sums in float64."""
    objectives, heads = len(model.task_losses.names), len(model.heads)
    if isinstance(balancer, GradNorm):
        return NUMBER * (objectives - 1) * sum(tensor.numel() for tensor in model.shared().last)
    if isinstance(balancer, NormalizedSplitter):
        return WIDE * heads * (5 if balancer.projection == "before" else 4)
    if isinstance(balancer, GradDrop):
        return WIDE * heads * (model.view_features + 2)
    if isinstance(balancer, RotationBalancer):
        rotations = balancer.rotation().numel() * (1 + balancer.cooperative)
        return WIDE * (heads + 1) + NUMBER * (heads + 1 + rotations + objectives * balancer.normalize_losses)
    return 0
