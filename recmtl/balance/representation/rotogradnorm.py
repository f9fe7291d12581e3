"""RotoGradNorm: the tasks' gradients aligned by learned rotations and weighted by GradNorm."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.constructor_checks import check_integer
from recmtl.balance.orthogonal import OrthogonalMap
from recmtl.balance.representation.rotation import RotationBalancer
from recmtl.balance.weighting.gradnorm import GradNormRule, check_gradnorm_options


class RotoGradNorm(RotationBalancer):
    r"""Learned rotations of the views that align the tasks' gradients, which are weighted by GradNorm.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631, combined
    with Chen et al., "GradNorm", ICML 2018, arXiv:1711.02257. The rotations are those of `RotateOnly`. The view of head
    k receives w_k·h_k, with the weights of `GradNorm` measured at the views: they descend

    $$
    \sum_{k=1}^{K} \left| w_k n_k - T_k \right|, \qquad T_k = r_k^{\alpha}\, \frac{1}{K} \sum_{j=1}^{K} w_j n_j, \qquad
    n_k = \lVert h_k \rVert
    $$

    with r_k as in `GradNorm`. The towers' gradients are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with their own
    learning rate, smaller than the model's. A task without a gradient takes no part, and its state stays.

    Use it in place of `RotoGrad` if sizes should follow how much each task has learned by its loss; it needs one
    positive loss per head.

    Note:
        The weights compare the losses of the heads, so gradients must come from the balancer's `backward`; a plain
        `loss.backward()` does not show it the losses. L_k(0) is the loss at the task's first step, and again at its
        step `burn_in`, counted from 0.

        In the authors' package (rotograd 0.1.6.0) the sizes w_k·n_k aim at the norm of the mean gradient,
        ‖Σ_j w_j·h_j‖/K, where GradNorm takes the mean of the norms; the two agree only for gradients of one direction.
        Its weights are parameters for an optimizer of yours. `RotateOnly` lists its other departures.

    Shape:
        - views: H tensors `[B, D]`, or one.
        - weights: `[H]`.
        - rotation(): `[H, size, size]`.

    Args:
        heads: The number of heads, H; with `features` the rotations exist at once, for an optimizer in your own loop.
        features: The width of a view, D.
        rotation_size: The number of leading features that are rotated; all by default.
        batch_scale: Whether the rotation loss is independent of the batch size; see `RotateOnly`.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), the towers' included. L_k(0) is the task's first
            positive loss; before that, the loss is not divided.
        orthogonal_map: The map from parameters to rotations: `cayley`, or the slower `matrix_exp`, which waits for the
            GPU in each step.
        burn_in: The step at which the L_k(0) of the weights are taken again.
        alpha: How strongly tasks that have learned less are favoured, α.
        lr: The learning rate of the weights' own Adam.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> balancer = RotoGradNorm(heads=2, features=2)
        >>> z = torch.ones(1, 2, requires_grad=True)
        >>> a, b = balancer.fork(z)
        >>> balancer.backward([a[0, 0], 3 * b[0, 1]], shared=[z])
        >>> z.grad  # both weights were still 1
        tensor([[1., 3.]])
        >>> bool(balancer.weights[0] > balancer.weights[1])
        True
    """

    search_space: ClassVar[Mapping[str, Any]] = {
        "alpha": {"low": 0.1, "high": 3.0},
        "lr": {"low": 0.0025, "high": 0.25, "log": True},
    }

    def __init__(
        self,
        heads: int | None = None,
        features: int | None = None,
        rotation_size: int | None = None,
        batch_scale: bool = True,
        normalize_losses: bool = False,
        orthogonal_map: OrthogonalMap = "cayley",
        burn_in: int = 20,
        alpha: float = 1.0,
        lr: float = 0.025,
    ) -> None:
        super().__init__(rotation_size, batch_scale, normalize_losses, orthogonal_map)
        check_integer("burn_in", burn_in, least=0)
        check_gradnorm_options(alpha, lr)
        self.burn_in = burn_in
        self.alpha = alpha
        self.lr = lr
        self.rule: GradNormRule | None = None
        self._setup_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """The weights `[H]` of the views' gradients in the next step."""
        return None if self.rule is None else self.rule.weights

    def _build_scaling(self, heads: int) -> None:
        self.rule = GradNormRule(heads, self.alpha, self.lr)

    def _weigh(self, losses: Sequence[Tensor], values: Tensor) -> Tensor:
        self._check_pairs(len(losses))
        return super()._weigh(losses, values)

    def _check_pairing(self, reached: Sequence[Set[int]]) -> None:
        if self.names is None and all(head in heads for head, heads in enumerate(reached) if heads):
            return  # a list, which may be in the heads' order
        raise ValueError(
            f"RotoGradNorm cannot tell which loss belongs to which head: they depend on the heads "
            f"{[sorted(heads) for heads in reached]}; name the heads by `setup`, or pass losses in the heads' order"
        )

    def _factors(self, norms: Tensor) -> Tensor:
        losses = self._values  # [K]
        if losses is None:
            raise RuntimeError("RotoGradNorm compares the losses: call `balancer.backward(losses, ...)`")
        assert self.rule is not None
        losses = losses.to(norms.dtype)
        weights = self.rule.weights
        present = losses.isfinite() & (losses > 0) & (norms > 0)  # [H]
        again = present & (self.rule.adam.updates == self.burn_in)
        self.rule.initial.copy_(torch.where(again, losses, self.rule.initial))
        self.rule.step(losses, norms)
        return weights
