"""RotateOnly: a learned rotation per head that aligns the tasks' gradients."""

import torch
from torch import Tensor

from recmtl.balance.orthogonal import OrthogonalMap
from recmtl.balance.representation.rotation import RotationBalancer


class RotateOnly(RotationBalancer):
    r"""A learned rotation of each head's view that aligns the tasks' gradients.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631,
    section 3.2. Head k reads R_k·z. With ĝ_k the gradient at its input, h_k = R_kᵀ·ĝ_k reaches the view unchanged, and
    R_k descends the rotation loss

    $$
    \frac{1}{B} \sum_{b=1}^{B} \lVert R_k v_b - \hat{g}_{k,b} \rVert^2, \qquad
    v = \frac{1}{K} \sum_{j=1}^{K} \frac{\lVert \bar{h} \rVert}{\lVert h_j \rVert}\, h_j, \qquad
    \bar{h} = \frac{1}{K} \sum_{j=1}^{K} h_j
    $$

    with v and ĝ_k held constant. The towers' gradients are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with their own
    learning rate, smaller than the model's. A task without a gradient takes no part, and its R_k gets the gradient 0.

    Use it if the tasks' gradients conflict in direction but not in size, and the heads are nonlinear enough that a
    rotation of their input costs them nothing.

    Note:
        With `batch_scale`, ĝ and v are first multiplied by the batch size B. Losses that are means make ĝ shrink as
        1/B; the rotation loss would be about 1/B², and its gradient below the ε of Adam.

        The authors' package (rotograd 0.1.6.0) sums the squares over the batch instead of averaging them:
        `batch_scale=False`. Its rotations start at random; set to the identity, they move as these do with
        `orthogonal_map="matrix_exp"`. Its `normalize_losses` takes L_k(0) again at `burn_in_period`. It has no
        cooperative mode; that of version 0.1.4 scales the whole gradients of the matrices, `coop` only their rotating
        part.

    Shape:
        - views: H tensors `[B, D]`, or one.
        - rotation(): `[H, size, size]`.

    Args:
        heads: The number of heads, H; with `features` the rotations exist at once, for an optimizer in your own loop.
        features: The width of a view, D.
        rotation_size: The number of leading features that are rotated; all by default.
        batch_scale: Whether the rotation loss is independent of the batch size.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), the towers' included. L_k(0) is the task's first
            positive loss; before that, the loss is not divided.
        orthogonal_map: The map from parameters to rotations: `cayley`, or the slower `matrix_exp`, which waits for the
            GPU in each step.

    Raises:
        ValueError: If an argument is out of range.

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
        >>> h = balancer.rotation()[[0, 1], [0, 1]]  # the two gradients in z, at first (1, 0) and (0, 1)
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
        self._setup_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """Ones, `[H]`."""
        return None if self._sizes is None else torch.ones(self._sizes.heads, device=self.skipped.device)

    def _build_scaling(self, heads: int) -> None:
        pass

    def _factors(self, norms: Tensor) -> Tensor:
        return torch.ones_like(norms)
