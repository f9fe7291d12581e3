"""Orthogonal matrices from skew-symmetric ones: the Cayley map and the matrix exponential."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from recmtl.balance.backward import float32_products, full_precision

OrthogonalMap = Literal["cayley", "matrix_exp"]


class RotationMatrices(nn.Module):
    """H learned rotations that start at the identity.

    Shape:
        - weight: `[H, size, size]`, of which the part below the diagonal counts.
        - output: `[H, size, size]`.

    Args:
        heads: The number of rotations, H.
        size: The number of their rows.
        orthogonal_map: The map from parameters to rotations: `cayley`, or the slower `matrix_exp`, which waits for the
            GPU in each step.

    Example:
        >>> rotations = RotationMatrices(heads=1, size=2, orthogonal_map="cayley")
        >>> with torch.no_grad():
        ...     rotations.weight[0, 1, 0] = 2.0
        >>> rotations().detach().round()  # a quarter turn
        tensor([[[ 0., -1.],
                 [ 1.,  0.]]])
    """

    def __init__(self, heads: int, size: int, orthogonal_map: OrthogonalMap) -> None:
        super().__init__()
        self.orthogonal_map = orthogonal_map
        # Under the map's name, so that another map cannot load its state.
        self.register_parameter(orthogonal_map, nn.Parameter(torch.zeros(heads, size, size)))

    @property
    def weight(self) -> nn.Parameter:
        """The parameters."""
        return self.get_parameter(self.orthogonal_map)

    def forward(self) -> Tensor:
        """Return the rotations."""
        lower = self.weight.tril(-1)
        skew = lower - lower.mT
        if self.orthogonal_map == "cayley":
            return cayley(skew / 2)
        rotations: Tensor = _MatrixExp.apply(skew)  # type: ignore[no-untyped-call]
        return rotations


def cayley(skew: Tensor) -> Tensor:
    r"""Return the Cayley transforms (I − S)⁻¹(I + S), which are rotations.

    Note:
        The matrices are inverted one by one. torch's solver for several matrices at once fails on a CPU with more than
        one thread from about 150 rows on ("Pivots given to lu_solve …"), and on a GPU it waits for the device.

    Args:
        skew: Skew-symmetric matrices S.

    Shape:
        - skew: `[H, size, size]`.
        - output: `[H, size, size]`.
    """
    rotations: Tensor = _Cayley.apply(skew)  # type: ignore[no-untyped-call]
    return rotations


class _Cayley(torch.autograd.Function):
    """With X = (I − S)⁻¹ the transform is 2X − I, and dX = X·dS·X."""

    @staticmethod
    def forward(ctx: Any, skew: Tensor) -> Tensor:
        unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        with float32_products(skew.device):
            # I − S is never singular, so the status of the inversion, which waits for the device, is not read.
            inverse = torch.stack([torch.linalg.inv_ex(matrix)[0] for matrix in (unit - skew).unbind()])
            # One step of Newton's method, X + X(I − (I − S)X), takes away the rounding errors of the inversion.
            inverse = inverse + inverse @ (unit - inverse + skew @ inverse)
        ctx.save_for_backward(inverse)
        return 2 * inverse - unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        with float32_products(gradient.device):
            of_skew: Tensor = inverse.mT @ (2 * gradient) @ inverse.mT
        return of_skew


class _MatrixExp(torch.autograd.Function):
    """The differential of exp at Sᵀ in the direction of the gradient is a block of exp of the matrix [Sᵀ G; 0 Sᵀ]."""

    @staticmethod
    def forward(ctx: Any, skew: Tensor) -> Tensor:
        ctx.save_for_backward(skew)
        with float32_products(skew.device):
            return torch.linalg.matrix_exp(skew)  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (skew,) = ctx.saved_tensors
        upper = torch.cat([skew.mT, gradient], -1)  # [H, size, 2·size]
        lower = torch.cat([torch.zeros_like(gradient), skew.mT], -1)
        with full_precision(gradient.device):
            whole = torch.linalg.matrix_exp(torch.cat([upper, lower], -2))  # [H, 2·size, 2·size]
        return whole[..., : skew.shape[-1], skew.shape[-1] :]  # type: ignore[no-any-return]
