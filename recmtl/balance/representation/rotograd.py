"""RotoGrad: the tasks' gradients aligned by learned rotations and scaled to one size."""

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.constructor_checks import check_integer
from recmtl.balance.orthogonal import OrthogonalMap
from recmtl.balance.representation.rotation import RotationBalancer


class RotoGrad(RotationBalancer):
    r"""Learned rotations of the views that align the tasks' gradients, which are scaled to one size.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631,
    section 3 and algorithm 1. The rotations are those of `RotateOnly`. With n_k = ‖h_k‖ the size of task k's gradient
    and c_k its convergence ratio, the view of head k receives

    $$
    \frac{h_k}{n_k} \sum_{j=1}^{K} a_j n_j, \qquad a_k = \frac{c_k}{\sum_j c_j}, \qquad c_k = \frac{n_k}{n_k(0)}
    $$

    so that all tasks pull equally hard, with a size closer to that of the tasks that have converged least. The towers'
    gradients are those of the plain sum.

    The rotations start at the identity. They are the balancer's parameters: give them to an optimizer with their own
    learning rate, smaller than the model's. A task without a gradient takes no part, and its state stays.

    Use it if the tasks' gradients differ in size and conflict in direction. In a step each rotation costs four products
    of the view with a D × D matrix, and a third of a product of two such matrices: at large D `rotation_size` bounds
    that, by rotating fewer features.

    Note:
        n_k(0) is the size at the task's first step and, as in the authors' package (rotograd 0.1.6.0) but not in the
        paper, again at its step `burn_in`, because sizes change fast at the start. Steps count from 0 for each task: a
        task that is absent at first is measured when it appears. `RotateOnly` lists the package's other departures.

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
        burn_in: The step at which n_k(0) is taken again.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> balancer = RotoGrad(heads=2, features=2)
        >>> z = torch.zeros(1, 2, requires_grad=True)
        >>> a, b = balancer.fork(z)
        >>> balancer.backward([a[0, 0], 3 * b[0, 1]], shared=[z])
        >>> z.grad  # both have the size ½·1 + ½·3
        tensor([[2., 2.]])
        >>> optimizer = torch.optim.Adam(balancer.parameters(), lr=1e-4)  # trains the rotations
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
        check_integer("burn_in", burn_in, least=0)
        self.burn_in = burn_in
        for name in ("factors", "initial_norms", "updates"):
            self.register_buffer(name, None)
        self._setup_for(heads, features)

    @property
    def weights(self) -> Tensor | None:
        """The factor of each h_k in the last step with its task, `[H]`; 1 before."""
        return None if self._sizes is None else self.factors.clone()

    def _build_scaling(self, heads: int) -> None:
        self.factors = torch.ones(heads)
        self.initial_norms = torch.zeros(heads)
        self.updates = torch.zeros(heads, dtype=torch.int64)

    def _factors(self, norms: Tensor) -> Tensor:
        present = norms > 0  # [H]
        measured = present & ((self.updates == 0) | (self.updates == self.burn_in))
        self.initial_norms.copy_(torch.where(measured, norms, self.initial_norms))
        self.updates += present
        ratios = masked(norms / self.initial_norms, present)  # c, [H]
        total = ratios.sum()
        size = masked((ratios * norms).sum() / total, total > 0)  # Σ a·n
        factors = masked(size / norms, present)
        self.factors.copy_(torch.where(present, factors, self.factors))
        return factors
