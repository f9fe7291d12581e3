"""RotateOnly: a rotation per head, turned so that the tasks' gradients agree in direction."""

import torch
from torch import Tensor

from recmtl.balance.representation.rotation import OrthogonalMap, RotationBalancer


class RotateOnly(RotationBalancer):
    r"""Lets head k read R_k·z, and turns the R_k so that the tasks' gradients h_k agree in direction at the views.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631,
    section 3.2. With ĝ_k the gradient at head k's input, h_k = R_kᵀ·ĝ_k reaches the view as it is, and R_k receives
    the gradient of the rotation loss

    $$
    \frac{1}{B} \sum_{b=1}^{B} \lVert R_k v_b - \hat{g}_{k,b} \rVert^2, \qquad
    v = \frac{1}{K} \sum_j \frac{\lVert \bar{h} \rVert}{\lVert h_j \rVert}\, h_j, \qquad
    \bar{h} = \frac{1}{K} \sum_j h_j
    $$

    where v is the mean of the h_j, each brought to the size of their plain mean. Gradients are stopped everywhere but
    in R_k; the towers' are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with a rate of
    their own, advised smaller than the model's. A task without a gradient takes no part, and its R_k gets the
    gradient 0.

    Note:
        With `batch_scale`, ĝ and v are first multiplied by the batch size B. Means over the batch make ĝ shrink as
        1/B: the rotation loss would be about 1/B² and its gradient below an Adam's ε.

        The authors' package (rotograd 0.1.6.0) adds the squares up over the batch instead of taking their mean:
        that is `batch_scale=False`. Its rotations start at random; set to the identity, they move as these do with
        `orthogonal_map="matrix_exp"`. Its `normalize_losses` takes L_k(0) anew at `burn_in_period`. It has no
        cooperative mode; that of its version 0.1.4 brings the whole gradients of the matrices to one size, `coop` only
        what turns them.

    Shape:
        - views: H tensors `[B, D]`, or one.
        - rotation(): `[H, size, size]`.

    Args:
        heads: The number of heads, H; with `features` it makes the rotations at once, for an optimizer in an own loop.
        features: The width of a view, D.
        rotation_size: How many leading features are rotated; all by default.
        batch_scale: Whether the rotation loss is freed of the batch size.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), the towers' included. L_k(0) is the task's first
            positive loss; until there is one, the loss is not divided.
        orthogonal_map: What turns parameters into rotations: `cayley`, or the slower `matrix_exp`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> balancer = RotateOnly(heads=2, features=2)
        >>> optimizer = torch.optim.Adam(balancer.parameters(), lr=0.01)
        >>> z = torch.ones(8, 2, requires_grad=True)
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     a, b = balancer.fork(z)
        ...     balancer.backward([a[:, 0].mean(), b[:, 1].mean()], shared=[z])
        ...     optimizer.step()
        >>> h = balancer.rotation()[[0, 1], [0, 1]]  # the two gradients in z, (1, 0) and (0, 1) at first
        >>> bool(h[0] @ h[1] > 0.9)
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
    ) -> None:
        super().__init__(rotation_size, batch_scale, normalize_losses, orthogonal_map)
        self._made_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """Ones `[H]`."""
        return None if self._sizes is None else torch.ones(self._sizes.heads, device=self.skipped.device)

    def _build_scaling(self, heads: int) -> None:
        pass

    def _factors(self, norms: Tensor) -> Tensor:
        return torch.ones_like(norms)
