"""The largest least gain within a ball: a second-order cone program in K unknowns, solved as those of `solver`."""

from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked, on_host
from recmtl.balance.solver import ENUMERATED, all_sets, factors_of_sets

_ITERATIONS = 30
_TOLERANCE = 1e-9  # of the interior point, which finds the active tasks


def largest_least_gain(matrix: Tensor, gains: Tensor, scales: Tensor) -> Tensor:
    """Return the v ≥ 0 with vᵀQv = 1 for which the least of (b + Qv)_k/a_k is largest.

    If b_k are the products of a direction with K gradients, and Q holds the products among these, v is the change of
    the direction, of norm 1, that does most for the worst task. The tasks with v_k > 0 share the least gain t, and
    given these, t is the root of a quadratic equation. Up to 8 unknowns all 2ᴷ − 1 sets are tried in one batch; for
    more an interior-point method finds the set. On a CPU it stops after 7 to 20 iterations; elsewhere it takes all 30.

    The conditions of the maximum, vᵀQv = 1 and b + Qv ≥ t·a, with equality for v_k > 0, hold within 1e-5 of 1 + the
    largest |b_k| if the least eigenvalue of Q is at least 1e-8 and the direction is twice as long as v, and nearly
    always within 1e-8; within 1e-3 if it is only a little longer than v.

    Args:
        matrix: Positive definite matrices Q with ones on the diagonal.
        gains: The numbers b.
        scales: The positive numbers a, the largest of which is 1.

    Shape:
        - matrix: float64 `[..., K, K]`.
        - gains: float64 `[..., K]`.
        - scales: float64 `[..., K]`.
        - output: float64 `[..., K]`.

    Example:
        >>> import torch
        >>> largest_least_gain(torch.eye(2).double(), torch.tensor([0.0, 0.2]).double(), torch.ones(2).double())
        tensor([0.8000, 0.6000], dtype=torch.float64)
    """
    tasks = gains.shape[-1]
    if tasks <= ENUMERATED:
        found, violation = _given_sets(matrix, gains, scales, all_sets(gains)[1:])
        best = violation.argmin(-1)[..., None, None].expand(*violation.shape[:-1], 1, tasks)
        return found.gather(-2, best).squeeze(-2).clamp(min=0.0)
    near, slack = _interior_point(matrix, gains, scales)
    found, violation = _given_sets(matrix, gains, scales, (near > slack).unsqueeze(-2))
    return torch.where(violation < 1e-6, found.squeeze(-2), near).clamp(min=0.0)


def _given_sets(matrix: Tensor, gains: Tensor, scales: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Return v `[..., S, K]` if exactly the tasks of a set have v_k > 0, and by how much v then fails, `[..., S]`."""
    factor, failed = factors_of_sets(matrix, sets)
    sides = masked(torch.stack([scales, gains], -1).unsqueeze(-3), sets.unsqueeze(-1))  # [..., S, K, 2]
    solved = torch.cholesky_solve(sides, factor)  # v = t·Q⁻¹a − Q⁻¹b
    products = sides.mT @ solved
    aa, ab, bb = products[..., 0, 0], products[..., 0, 1], products[..., 1, 1]
    t = ((ab + (ab * ab - aa * (bb - 1)).sqrt()) / aa).unsqueeze(-1)  # so that vᵀQv = 1
    found = t * solved[..., 0] - solved[..., 1]
    slack = found @ matrix + gains.unsqueeze(-2) - t * scales.unsqueeze(-2)
    violation = -torch.where(sets, found, slack).amin(-1)
    return found, masked(violation, is_finite(violation) & (failed == 0), torch.inf)


def _interior_point(matrix: Tensor, gains: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return v and the slack b + Qv − t·a, `[..., K]` each, near the optimum.

    Maximizes t subject to b + Ly − t·a ≥ 0 and ‖y‖ ≤ 1, where Q = LLᵀ and y = Lᵀv, with the scaling of Nesterov and
    Todd and Mehrotra's predictor, as in Vandenberghe, "The CVXOPT linear and quadratic cone program solvers" (2010).
    Every iterate satisfies all equations, primal and dual.
    """
    b, a = gains.unsqueeze(-1), scales.unsqueeze(-1)  # columns from here on, [..., K, 1]
    root = torch.linalg.cholesky_ex(matrix)[0]
    t, y = (b / a).amin(-2, keepdim=True) - 1, torch.zeros_like(b)
    z = 1 / (len(matrix[0]) * a)
    top = 1.5 * (root.mT @ z).square().sum(-2, keepdim=True).sqrt()  # the first number of the cone's dual
    for _ in range(_ITERATIONS):
        at = _Iterate(root, a, b + root @ y - t * a, z, y, torch.cat([top, -(root.mT @ z)], -2))
        gap = (at.slack * z).sum(-2, keepdim=True) + (at.primal * at.dual).sum(-2, keepdim=True)
        open_ = gap > _TOLERANCE * (1 + top)
        if on_host(y) and not bool(open_.any()):
            break
        (dt, dy, dz, dtop), failed = _step(at, gap)
        moves = open_ & is_finite(dt) & (failed == 0)[..., None, None]
        t, y, z, top = (
            torch.where(moves, value + change, value) for value, change in ((t, dt), (y, dy), (z, dz), (top, dtop))
        )
    v = z / top
    return v.squeeze(-1), (b + matrix @ v - t * a).squeeze(-1)


class _Iterate(NamedTuple):
    """A point between the cones, with s = b + Ly − t·a and z their duals; columns `[..., K, 1]`."""

    root: Tensor
    scales: Tensor
    slack: Tensor
    z: Tensor
    y: Tensor
    dual: Tensor  # of the ball, [..., K + 1, 1]

    @property
    def primal(self) -> Tensor:
        return torch.cat([torch.ones_like(self.y[..., :1, :]), self.y], -2)


def _step(at: _Iterate, gap: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the changes of t, y, z and the dual's first number, and where the matrix was not positive definite."""
    root, a, s, z = at.root, at.scales, at.slack, at.z
    tasks = s.shape[-2]
    sign = torch.ones(tasks + 1, 1, dtype=s.dtype, device=s.device)
    sign[1:].neg_()  # J of the cone
    size, dual_size = _length(at.primal), _length(at.dual)
    x, x_dual = at.primal / size, at.dual / dual_size
    half = ((1 + (x * x_dual).sum(-2, keepdim=True)) / 2).sqrt()
    w, eta = (x + sign * x_dual) / (2 * half), (size / dual_size).sqrt()
    first = torch.zeros_like(sign)
    first[:1] = 1
    u, flip = w + first, torch.diag_embed(sign.squeeze(-1))
    scaling = eta * (u @ u.mT / u[..., :1, :] - flip)  # W
    inverse = (sign * u @ (sign * u).mT / u[..., :1, :] - flip) / eta
    squared = 2 * (sign * w) @ (sign * w).mT - flip  # η²·W⁻²
    squared = squared / eta.square()
    point = scaling @ at.dual  # λ = W·dual = W⁻¹·primal
    ratio = z / s
    cross = -(root.mT @ (ratio * a))
    upper = torch.cat([root.mT @ (ratio * root) + squared[..., 1:, 1:], cross], -1)
    lower = torch.cat([cross.mT, (ratio * a * a).sum(-2, keepdim=True)], -1)
    factor, failed = torch.linalg.cholesky_ex(torch.cat([upper, lower], -2))

    def direction(linear: Tensor, conic: Tensor) -> tuple[Tensor, ...]:
        """Solve z·ds + s·dz = linear and W·dual' + W⁻¹·primal' = conic along the equations."""
        part, ball = linear / s, inverse @ conic
        right = torch.cat([root.mT @ part + ball[..., 1:, :], -(a * part).sum(-2, keepdim=True)], -2)
        solved = torch.cholesky_solve(right, factor)
        dy, dt = solved[..., :tasks, :], solved[..., tasks:, :]
        ds = root @ dy - a * dt
        dz = part - ratio * ds
        dtop = ball[..., :1, :] - squared[..., :1, 1:] @ dy
        primal, dual = inverse[..., 1:] @ dy, scaling @ torch.cat([dtop, -(root.mT @ dz)], -2)
        worst = torch.maximum(-ds / s, -dz / z).amax(-2, keepdim=True)
        worst = worst.maximum(_leaving(primal, point)).maximum(_leaving(dual, point))
        return dt, dy, ds, dz, dtop, primal, dual, 1 / worst.clamp(min=1.0)

    _, _, ds, dz, _, primal, dual, reach = direction(-s * z, -point)
    centre = (1 - reach) ** 3 * gap / (tasks + 1)
    second = torch.cat(
        [
            (primal * dual).sum(-2, keepdim=True),
            primal[..., :1, :] * dual[..., 1:, :] + dual[..., :1, :] * primal[..., 1:, :],
        ],
        -2,
    )
    wanted = first * centre - second
    dt, dy, _, dz, dtop, _, _, reach = direction(centre - s * z - ds * dz, _divided(wanted, point) - point)
    return (0.99 * reach * dt, 0.99 * reach * dy, 0.99 * reach * dz, 0.99 * reach * dtop), failed


def _length(x: Tensor) -> Tensor:
    """Return √(x_0² − ‖x_1…‖²)."""
    return (x[..., :1, :].square() - x[..., 1:, :].square().sum(-2, keepdim=True)).clamp(min=1e-300).sqrt()


def _divided(x: Tensor, point: Tensor) -> Tensor:
    """Return the q whose product with the point in the cone's algebra is x."""
    first, rest = point[..., :1, :], point[..., 1:, :]
    top = (first * x[..., :1, :] - (rest * x[..., 1:, :]).sum(-2, keepdim=True)) / _length(point).square()
    return torch.cat([top, (x[..., 1:, :] - top * rest) / first], -2)


def _leaving(change: Tensor, point: Tensor) -> Tensor:
    """Return the inverse of the largest step along a change that stays in the cone; not positive for no limit."""
    length = _length(point)
    unit = point / length
    first, rest = unit[..., :1, :], unit[..., 1:, :]
    along = first * change[..., :1, :] - (rest * change[..., 1:, :]).sum(-2, keepdim=True)
    across = change[..., 1:, :] - (change[..., :1, :] + along) / (first + 1) * rest
    return (across.square().sum(-2, keepdim=True).sqrt() - along) / length
