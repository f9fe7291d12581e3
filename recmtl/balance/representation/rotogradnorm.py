"""RotoGradNorm: rotations for the directions of the tasks' gradients, GradNorm at the views for their sizes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.representation.rotation import OrthogonalMap, RotationBalancer
from recmtl.balance.weighting.gradnorm import GradNormRule, check_rates


class RotoGradNorm(RotationBalancer):
    r"""Turns the R_k so that the tasks' gradients h_k agree in direction at the views, and weighs them by GradNorm.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631, joined
    with Chen et al., "GradNorm", ICML 2018, arXiv:1711.02257. The rotations are those of `RotateOnly`. The view of head
    k receives w_k·h_k, with the weights of `GradNorm` measured at the views: they descend

    $$
    \sum_{k=1}^{K} \left| w_k n_k - T_k \right|, \qquad T_k = r_k^{\alpha}\, \frac{1}{K} \sum_j w_j n_j, \qquad
    n_k = \lVert h_k \rVert
    $$

    with r_k as there. The towers' gradients are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with a rate of
    their own, advised smaller than the model's. A task without a gradient takes no part, and its state stays.

    Note:
        The weights compare the losses of the heads: there must be one loss per head, and the gradients must come by
        the balancer's `backward`, as a plain `loss.backward()` does not show the losses. L_k(0) is the loss at the
        task's first step, and taken anew at its step `burn_in`, counted from 0.

        In the authors' package (rotograd 0.1.6.0) the sizes w_k·n_k aim at the norm of the mean gradient,
        ‖Σ_j w_j·h_j‖/K, where GradNorm takes the mean of the norms; the two agree only for gradients of one direction.
        Its weights are parameters for an optimizer of yours. Where else it departs, `RotateOnly` says.

    Shape:
        - views: H tensors `[B, D]`, or one.
        - weights: `[H]`.
        - rotation(): `[H, size, size]`.

    Args:
        heads: The number of heads, H; with `features` it makes the rotations at once, for an optimizer in an own loop.
        features: The width of a view, D.
        rotation_size: How many leading features are rotated; all by default.
        batch_scale: Whether the rotation loss is freed of the batch size; see `RotateOnly`.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), the towers' included. L_k(0) is the task's first
            positive loss; until there is one, the loss is not divided.
        orthogonal_map: What turns parameters into rotations: `cayley`, or the slower `matrix_exp`.
        burn_in: The step at which the L_k(0) of the weights is taken anew.
        alpha: How strongly a task that has learned less is favoured, α.
        lr: The rate at which the weights move, by an Adam of their own.

    Raises:
        ValueError: If an argument is out of its range.

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
        if burn_in < 0:
            raise ValueError(f"`burn_in` must be at least 0, got {burn_in}")
        check_rates(alpha, lr)
        self.burn_in = burn_in
        self.alpha = alpha
        self.lr = lr
        self.rule: GradNormRule | None = None
        self._made_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """The weights `[H]` of the views' gradients at the next step."""
        return None if self.rule is None else self.rule.weights

    def _build_scaling(self, heads: int) -> None:
        self.rule = GradNormRule(heads, self.alpha, self.lr)

    def _weigh(self, losses: Sequence[Tensor], values: Tensor) -> Tensor:
        self._check_pairs(len(losses))
        return super()._weigh(losses, values)

    def _factors(self, norms: Tensor) -> Tensor:
        losses = self._values  # [K]
        if losses is None:
            raise RuntimeError("RotoGradNorm compares the losses: call `balancer.backward(losses, ...)`")
        assert self.rule is not None
        losses = losses.to(norms.dtype)
        weights = self.rule.weights
        present = losses.isfinite() & (losses > 0) & (norms > 0)  # [H]
        anew = present & (self.rule.updates == self.burn_in)
        self.rule.initial.copy_(torch.where(anew, losses, self.rule.initial))
        self.rule.step(losses, norms)
        return weights
