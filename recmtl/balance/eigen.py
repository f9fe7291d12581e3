"""Eigenvalues of small symmetric matrices, found on any device without waiting for it."""

import torch
from torch import Tensor

from recmtl.balance.backward import masked, on_host

_SWEEPS = 10


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix; the values are in no order.

    On a CPU by `torch.linalg.eigh`, which on a GPU waits for the device; there by ten sweeps of Jacobi rotations, K/2
    of them at once (Golub and Van Loan, "Matrix Computations", section 8.5).

    Shape:
        - matrix: float64 `[K, K]`.
        - output: `[K]`, and `[K, K]` with one eigenvector per column.

    Example:
        >>> import torch
        >>> eigen(torch.diag(torch.tensor([1.0, 4.0]).double()))[0]
        tensor([1., 4.], dtype=torch.float64)
    """
    if on_host(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    return jacobi(matrix)


def jacobi(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix `[K, K]` by a fixed number of rotations."""
    tasks = len(matrix)
    size = tasks + tasks % 2  # with a row of zeros, should K be odd
    turned = torch.nn.functional.pad(matrix, (0, size - tasks, 0, size - tasks))
    vectors = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    for round_ in range(_SWEEPS * (size - 1) if size > 2 else 1):
        rotation = _rotations(turned, *_pairs(round_, size, matrix.device))
        turned = rotation.mT @ turned @ rotation
        vectors = vectors @ rotation
    return turned.diagonal()[:tasks], vectors[:tasks, :tasks]


def _pairs(round_: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the partners of a round, in which everyone has one; after `size − 1` rounds each had every other."""
    others = (torch.arange(size - 1, device=device) + round_) % (size - 1) + 1
    circle = torch.nn.functional.pad(others, (1, 0))
    return circle[: size // 2], circle.flip(0)[: size // 2]


def _rotations(matrix: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the rotation `[K, K]` that makes the matrix's elements between all pairs 0."""
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    one, other = unit.index_select(0, first), unit.index_select(0, second)  # [K/2, K]
    off = ((one @ matrix) * other).sum(1)
    ratio = ((other - one) @ matrix.diagonal()) / (2 * off)
    tangent = torch.ones_like(ratio).copysign(ratio) / (ratio.abs() + (1 + ratio.square()).sqrt())
    tangent = masked(tangent, off != 0)
    cosine = (1 + tangent.square()).rsqrt()
    sine = cosine * tangent
    return one.mT @ (cosine[:, None] * one + sine[:, None] * other) + other.mT @ (
        cosine[:, None] * other - sine[:, None] * one
    )
