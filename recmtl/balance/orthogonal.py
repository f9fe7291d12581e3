"""Orthogonal matrices from skew-symmetric ones: the Cayley map and the matrix exponential."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

OrthogonalMap = Literal["cayley", "matrix_exp"]


class RotationMatrices(nn.Module):
    """H learned rotations that start at the identity.

    Shape:
        - weight: `[H, size, size]`, of which the part below the diagonal counts.
        - output: `[H, size, size]`.

    Args:
        heads: The number of rotations, H.
        size: The number of their rows.
        orthogonal_map: The map from parameters to rotations: `cayley`, or the slower `matrix_exp`.

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
        with float32_products(skew.device):
            return torch.linalg.matrix_exp(skew)  # type: ignore[no-any-return]


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


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products in full precision within the block: without autocast, TF32 and bfloat16."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = getattr(backend, "matmul", None)
    name, value = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if hasattr(matmul, name):
            stack.callback(setattr, matmul, name, getattr(matmul, name))
            setattr(matmul, name, value)
        yield
