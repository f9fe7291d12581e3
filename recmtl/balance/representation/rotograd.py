"""RotoGrad: the tasks' gradients brought to one direction by rotations and to one size by their progress."""

import torch
from torch import Tensor

from recmtl.balance.representation.rotation import OrthogonalMap, RotationBalancer


class RotoGrad(RotationBalancer):
    r"""Turns the R_k so that the tasks' gradients h_k agree in direction at the views, and gives them one size.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631,
    section 3 and algorithm 1. The rotations are those of `RotateOnly`. With n_k = ‖h_k‖ and the
    convergence ratio c_k, the view of head k receives

    $$
    \frac{h_k}{n_k} \sum_j a_j n_j, \qquad a_k = \frac{c_k}{\sum_j c_j}, \qquad c_k = \frac{n_k}{n_k(0)}
    $$

    Every task pulls as strongly as the others, with a size that leans to those that have converged least. The towers'
    gradients are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with a rate of
    their own, advised smaller than the model's. A task without a gradient takes no part, and its state stays.

    Note:
        n_k(0) is the task's size at its first step and, as in the authors' package (rotograd 0.1.6.0) but not in
        their paper, taken anew at its step `burn_in`, as sizes change fast at the start. Steps count from 0, task by
        task: a task that is absent at first is measured when it appears. Where else the package departs,
        `RotateOnly` says.

    Shape:
        - views: H tensors `[B, D]`, or one.
        - rotation(): `[H, size, size]`.

    Args:
        heads: The number of heads, H; with `features` it makes the rotations at once, for an optimizer in an own loop.
        features: The width of a view, D.
        rotation_size: How many leading features are rotated; all by default.
        batch_scale: Whether the rotation loss is freed of the batch size; see `RotateOnly`.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), the towers' included. L_k(0) is the task's first
            positive loss; until there is one, the loss is not divided.
        orthogonal_map: What turns parameters into rotations: `cayley`, or the slower `matrix_exp`.
        burn_in: The step at which n_k(0) is taken anew.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> balancer = RotoGrad(heads=2, features=2)
        >>> z = torch.zeros(1, 2, requires_grad=True)
        >>> a, b = balancer.fork(z)
        >>> balancer.backward([a[0, 0], 3 * b[0, 1]], shared=[z])
        >>> z.grad  # both of the size ½·1 + ½·3
        tensor([[2., 2.]])
        >>> optimizer = torch.optim.Adam(balancer.parameters(), lr=1e-4)  # moves the rotations
    """

    factors: Tensor
    initial_norms: Tensor
    updates: Tensor

    def __init__(
        self,
        heads: int | None = None,
        features: int | None = None,
        rotation_size: int | None = None,
        batch_scale: bool = True,
        normalize_losses: bool = False,
        orthogonal_map: OrthogonalMap = "cayley",
        burn_in: int = 20,
    ) -> None:
        super().__init__(rotation_size, batch_scale, normalize_losses, orthogonal_map)
        if burn_in < 0:
            raise ValueError(f"`burn_in` must be at least 0, got {burn_in}")
        self.burn_in = burn_in
        self.register_buffer("factors", None)
        self.register_buffer("initial_norms", None)
        self.register_buffer("updates", None)
        self._made_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """What each h_k was multiplied by when its task was last present, `[H]`; 1 for one that never was."""
        return None if self._sizes is None else self.factors.clone()

    def _build_scaling(self, heads: int) -> None:
        self.factors = torch.ones(heads)
        self.initial_norms = torch.zeros(heads)
        self.updates = torch.zeros(heads, dtype=torch.int64)

    def _factors(self, norms: Tensor) -> Tensor:
        present = norms > 0  # [H]
        taken = present & ((self.updates == 0) | (self.updates == self.burn_in))
        self.initial_norms.copy_(torch.where(taken, norms, self.initial_norms))
        self.updates += present
        ratios = torch.where(present, norms / self.initial_norms, 0.0)  # c, [H]
        total = ratios.sum()
        size = torch.where(total > 0, (ratios * norms).sum() / total, 0.0)  # Σ a·n
        factors = torch.where(present, size / norms, 0.0)
        self.factors.copy_(torch.where(present, factors, self.factors))
        return factors
