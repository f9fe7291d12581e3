"""Orthogonal matrices from skew-symmetric ones: the Cayley map and the matrix exponential."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recmtl.balance.backward import float32_products, full_precision, on_host

OrthogonalMap = Literal["cayley", "matrix_exp"]
Factors = Sequence[Tensor]

LAPACK_ROWS = 32  # up to which LAPACK solves on a CPU; beyond, its triangular solves are much slower than products
INVERTED_ROWS = 128  # up to which a block is inverted on a CPU; of larger ones, the blocks of a triangular form are


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

    def factors(self) -> Factors:
        """Return what `rotated` and others take, tensors `[H, ·, ·]`; only the first of them has a gradient.

        It is either the rotations, or stands for the weights and is followed by the `_factors` of I − S.
        """
        if self.orthogonal_map == "matrix_exp":
            return (self(),)
        handle: Tensor = _Handle.apply(self.weight)  # type: ignore[no-untyped-call]
        return (handle, *_cayley_factors(self.weight.detach()))

    def forward(self) -> Tensor:
        """Return the rotations."""
        lower = self.weight.tril(-1)
        skew = lower - lower.mT
        if self.orthogonal_map == "cayley":
            return cayley(skew / 2)
        rotations: Tensor = _MatrixExp.apply(skew)  # type: ignore[no-untyped-call]
        return rotations


def rotated(rows: Tensor, factors: Factors) -> list[Tensor]:
    """Return R·x of each row x, H tensors `[rows, size]`, from `[H, rows, size]`."""
    if len(factors) == 1:
        return [x @ R.mT for x, R in zip(rows.unbind(), factors[0].unbind(), strict=True)]
    twice = _solved(rows, factors[1:]).mul_(2)
    return [solved - x for solved, x in zip(twice.unbind(), rows.unbind(), strict=True)]


def rotated_back(rows: Tensor, factors: Factors) -> Tensor:
    """Return Rᵀ·x of each row x, `[H, rows, size]`."""
    if len(factors) == 1:
        return rows @ factors[0]
    return _solved_transposed(rows, factors[1:]).mul_(2).sub_(rows)


def gradient_of_skew(skew: Tensor, factors: Factors) -> Tensor:
    """Return the gradient of the first factor for the gradient R·Q of R, with Q skew-symmetric, `[H, size, size]`.

    With X = (I − S)⁻¹ that of the weights is 2·X·Q·Xᵀ below the diagonal, as Xᵀ·R = X.
    """
    if len(factors) == 1:
        return factors[0] @ skew
    half = _solved(skew, factors[1:])  # Q·Xᵀ
    return _solved(half.mT, factors[1:]).mul_(-2).tril_(-1)


def gradient_of_pairs(h: Tensor, g: Tensor, v: Tensor, factors: Factors) -> Tensor:
    """Return `gradient_of_skew` for Q = Σ v·hᵀ − h·vᵀ over rows h = Rᵀ·g and v, all `[H, rows, size]`.

    As X·h = Xᵀ·g = (h + g)/2, it takes no product of square matrices; only beyond many rows are these cheaper.
    """
    rows, size = h.shape[1:]
    if len(factors) == 1 or rows > 2 * size:
        products = h.mT @ v
        return gradient_of_skew(products.mT - products, factors)
    a, b = h + g, _solved(v, factors[1:])  # 2·X·h and X·v
    return _minus_transposed(b.mT @ a).tril_(-1)


def _minus_transposed(matrix: Tensor) -> Tensor:
    """Put M − Mᵀ in the place of M below the diagonal, on a CPU by blocks that fit its caches."""
    if not _is_split(matrix):
        return matrix.sub_(matrix.mT.clone())
    n = matrix.shape[-1] // 2
    _minus_transposed(matrix[:, :n, :n])
    _minus_transposed(matrix[:, n:, n:])
    matrix[:, n:, :n].sub_(matrix[:, :n, n:].mT)
    return matrix


class _Handle(torch.autograd.Function):
    """Stands for the weights in a graph without their values, which an optimizer may change before the backward pass.

    Its gradient is that of the weights, with nothing above the diagonal.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.new_zeros(()).expand(weight.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _cayley_factors(weight: Tensor) -> list[Tensor]:
    """Return the `_factors` of I − S for the weights' S."""
    with float32_products(weight.device):
        if not _is_split(weight):
            return _factors(_without_half_skew(weight))
        n = weight.shape[-1] // 2
        first = _factors(_without_half_skew(weight[:, :n, :n]))
        across = weight[:, n:, :n] / 2
        return _joined(first, across, -across, _without_half_skew(weight[:, n:, n:]))


def _without_half_skew(weight: Tensor) -> Tensor:
    """Return I − S for S = (L − Lᵀ)/2, where L is the part of the weights below the diagonal."""
    lower = weight.tril(-1)
    result = (lower.mT - lower).mul_(0.5)
    result.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return result


def _is_split(matrix: Tensor) -> bool:
    return on_host(matrix) and matrix.shape[-1] > INVERTED_ROWS


def _factors(matrix: Tensor) -> list[Tensor]:
    """Return matrices that solve M·y = x in the order in which `_solved` takes them: M⁻¹, or those of two halves.

    The factors of a large matrix cost a third of its inverse, and solve for the same price. M + Mᵀ has no eigenvalue
    below 2, so that blocks need no pivots.
    """
    if not _is_split(matrix):
        return [_inverse(matrix)]
    n = matrix.shape[-1] // 2
    return _joined(_factors(matrix[:, :n, :n]), matrix[:, :n, n:].mT, matrix[:, n:, :n], matrix[:, n:, n:])


def _joined(first: Factors, above: Tensor, below: Tensor, rest: Tensor) -> list[Tensor]:
    """Return the factors of the matrix [M, Aᵀ; B, D] from those of M, A, B and D."""
    across = _solved(above, first)  # A·M⁻ᵀ
    return [*first, below, *_factors(torch.baddbmm(rest, below, across.mT, alpha=-1)), across]


def _solved(rows: Tensor, factors: Iterable[Tensor]) -> Tensor:
    """Return M⁻¹·x of each row x."""
    if not _is_split(rows):
        return rows @ next(iter(factors)).mT
    return _solve(rows.clone(memory_format=torch.contiguous_format), iter(factors))


def _solve(rows: Tensor, following: Iterator[Tensor]) -> Tensor:
    """Put M⁻¹·x in the place of each row x."""
    if not _is_split(rows):
        return rows.copy_(rows @ next(following).mT)
    n = rows.shape[-1] // 2
    x, y = rows[..., :n], rows[..., n:]
    _solve(x, following)
    _solve(y.baddbmm_(x, next(following).mT, alpha=-1), following)
    x.baddbmm_(y, next(following), alpha=-1)
    return rows


def _solved_transposed(rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Return M⁻ᵀ·x of each row x, by the factors in reverse order."""
    if not _is_split(rows):
        return rows @ factors[0]
    return _solve_transposed(rows.clone(memory_format=torch.contiguous_format), reversed(factors))


def _solve_transposed(rows: Tensor, following: Iterator[Tensor]) -> Tensor:
    if not _is_split(rows):
        return rows.copy_(rows @ next(following))
    n = rows.shape[-1] // 2
    x, y = rows[..., :n], rows[..., n:]
    _solve_transposed(y.baddbmm_(x, next(following).mT, alpha=-1), following)
    _solve_transposed(x.baddbmm_(y, next(following), alpha=-1), following)
    return rows


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverses of matrices as those of `_factors`."""
    if matrix.shape[-1] <= LAPACK_ROWS or not on_host(matrix):
        return _inverse_by_lapack(matrix)
    n = matrix.shape[-1] // 2
    above, below = matrix[:, :n, n:], matrix[:, n:, :n]
    of_first = _inverse(matrix[:, :n, :n])
    left, right = below @ of_first, of_first @ above
    of_second = _inverse(torch.baddbmm(matrix[:, n:, n:], below, right, alpha=-1))
    lower = of_second @ left
    result = torch.empty_like(matrix)
    result[:, :n, :n] = of_first.baddbmm_(right, lower)
    torch.neg(right @ of_second, out=result[:, :n, n:])
    torch.neg(lower, out=result[:, n:, :n])
    result[:, n:, n:] = of_second
    return result


def _inverse_by_lapack(matrix: Tensor) -> Tensor:
    # M is never singular, so the status of the inversion, which waits for the device, is not read.
    if on_host(matrix):
        inverse = torch.linalg.inv_ex(matrix)[0]
    else:
        inverse = torch.stack([torch.linalg.inv_ex(one)[0] for one in matrix.unbind()])
    return _without_rounding(inverse, matrix)


def _without_rounding(inverse: Tensor, matrix: Tensor) -> Tensor:
    """Take away the rounding errors of an inversion by a step of Newton's method, X + X(I − M·X)."""
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    rest = torch.baddbmm(unit - inverse, unit - matrix, inverse)
    return torch.baddbmm(inverse, inverse, rest)


def cayley(skew: Tensor) -> Tensor:
    r"""Return the Cayley transforms (I − S)⁻¹(I + S), which are rotations.

    With X = (I − S)⁻¹ the transform is 2X − I.

    Note:
        The matrices are inverted one by one. torch's solver for several matrices at once fails on a CPU with more than
        one thread from about 150 rows on ("Pivots given to lu_solve …"), and on a GPU it waits for the device. On a CPU
        large matrices are inverted by blocks, at the speed of products.

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
            matrix = unit - skew
            inverse = _without_rounding(_inverse(matrix), matrix)
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
