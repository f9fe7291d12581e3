"""Learned rotations between trunk and heads: the base of RotateOnly, RotoGrad and RotoGradNorm."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recmtl.balance.backward import masked, zeros_if_none
from recmtl.balance.constructor_checks import check_integer
from recmtl.balance.orthogonal import (
    Factors,
    OrthogonalMap,
    RotationMatrices,
    gradient_of_pairs,
    gradient_of_skew,
    rotated,
    rotated_back,
)
from recmtl.balance.representation.base import RepresentationBalancer
from recmtl.balance.shared import Sizes


class RotationBalancer(RepresentationBalancer, ABC):
    r"""The base class of methods in which head k reads a rotated view R_k·z_k.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631. The
    rotations descend the rotation loss of `RotateOnly` (equation 9). Only the skew part of R_kᵀ·∂/∂R_k reaches a
    rotation, so that its gradient needs no second backward pass. In the notation of `RotateOnly` it is

    $$
    c\, R_k \left( A_k^\top - A_k \right), \qquad
    A_k = \sum_{j \ne k} \frac{\lVert \bar{h} \rVert}{K \lVert h_j \rVert}\, h_k^\top h_j
    $$

    with c = B under `batch_scale`, else 1. K counts the tasks that are present.

    The views receive f_k·h_k. A method implements the factors f_k in `_factors` and its state in `_build_scaling`, and
    calls `_setup_for` at the end of its constructor.

    Args:
        rotation_size: The number of leading features that are rotated; all by default.
        batch_scale: Whether ĝ and v are first multiplied by the batch size.
        normalize_losses: Whether every gradient is that of L_k/L_k(0), private ones included.
        orthogonal_map: The map from parameters to rotations: `cayley`, or the slower `matrix_exp`, which waits for the
            GPU in each step.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> class Halved(RotationBalancer):
        ...     weights = None
        ...     def _build_scaling(self, heads):
        ...         pass
        ...     def _factors(self, norms):
        ...         return torch.full_like(norms, 0.5)
        >>> z = torch.ones(1, 2, requires_grad=True)
        >>> sum(view.sum() for view in Halved().fork([z, z])).backward()
        >>> z.grad
        tensor([[1., 1.]])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("heads", "features")
    initial_losses: Tensor

    def __init__(
        self,
        rotation_size: int | None = None,
        batch_scale: bool = True,
        normalize_losses: bool = False,
        orthogonal_map: OrthogonalMap = "cayley",
    ) -> None:
        super().__init__()
        if rotation_size is not None:
            check_integer("rotation_size", rotation_size, least=1)
        if orthogonal_map not in ("cayley", "matrix_exp"):
            raise ValueError(f"`orthogonal_map` must be 'cayley' or 'matrix_exp', got {orthogonal_map!r}")
        self.rotation_size = rotation_size
        self.batch_scale = batch_scale
        self.normalize_losses = normalize_losses
        self.orthogonal_map = orthogonal_map
        self.cooperative = False
        self.rotations: RotationMatrices | None = None
        self.register_buffer("initial_losses", None)
        self._caching = False
        self._cached_factors: Factors | None = None

    def rotation(self) -> Tensor:
        """Return the current rotations, detached, `[H, size, size]`.

        Raises:
            ValueError: If they do not exist yet: before `setup` or the first step.
        """
        if self.rotations is None:
            raise ValueError("there are no rotations before `setup` or the first step: pass `heads` and `features`")
        with torch.no_grad():
            return self.rotations()  # type: ignore[no-any-return]

    def coop(self, mode: bool = True) -> Self:
        """Set the cooperative mode, in which the rotations also descend the task losses; a mode like `train`.

        The gradients of rotation loss and task loss are each scaled to the size of their mean and added; sizes and
        directions are those of the rotation itself, independent of its parametrization.

        Returns:
            The balancer.
        """
        self.cooperative = mode
        return self

    @contextmanager
    def cached(self) -> Iterator[None]:
        """Compute the rotations once for all forks in the block: those of one backward pass, or of an evaluation."""
        outer, self._caching = self._caching, True
        try:
            yield
        finally:
            self._caching = outer
            if not outer:
                self._cached_factors = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies hold: not the factors cached for one pass, which are part of its graph."""
        return super().__getstate__() | {"_caching": False, "_cached_factors": None}

    def _setup_for(self, heads: int | None, features: int | None) -> None:
        if (heads is None) != (features is None):
            raise ValueError(f"`heads` and `features` must be passed together, got {heads} and {features}")
        if heads is not None and features is not None:
            if heads < 1 or features < 1:
                raise ValueError(f"`heads` and `features` must be at least 1, got {heads} and {features}")
            self._ensure_state(Sizes(heads=heads, features=features))

    def _warn_if_late(self) -> None:
        warnings.warn(
            "the rotations are made by this first fork: an optimizer that was built before does not move them; pass "
            "`heads` and `features`, or call `setup`",
            stacklevel=5,
        )

    def _build(self, sizes: Sizes) -> None:
        size = self.rotation_size or sizes.features
        if size > sizes.features:
            raise ValueError(f"`rotation_size` must be at most the views' {sizes.features} features, got {size}")
        self.rotations = RotationMatrices(sizes.heads, size, self.orthogonal_map)
        self.initial_losses = torch.zeros(sizes.heads)
        self._build_scaling(sizes.heads)

    def _moving_buffers(self) -> dict[str, Tensor]:
        return {name: buffer for name, buffer in super()._moving_buffers().items() if "rotations." not in name}

    @abstractmethod
    def _build_scaling(self, heads: int) -> None:
        """Register the state that `_factors` needs."""

    @abstractmethod
    def _factors(self, norms: Tensor) -> Tensor:
        """Return the factors f_k `[H]` from the norms ‖h_k‖; a norm of 0 is an absent task's, whose state stays."""

    def _weigh(self, losses: Sequence[Tensor], values: Tensor) -> Tensor:
        if not self.normalize_losses or self._sizes is None:
            return torch.ones_like(values)
        self._check_pairs(len(losses))
        pairs = zip(losses, torch.ones_like(values).unbind(), strict=True)
        (reached,) = self.processes.sum(torch.stack([one if loss.requires_grad else 0 * one for loss, one in pairs]))
        values = masked(values, reached > 0)
        new = values.isfinite() & (values > 0) & (self.initial_losses == 0)
        self.initial_losses.copy_(torch.where(new, values, self.initial_losses))
        return masked(1 / self.initial_losses, self.initial_losses > 0, 1.0).to(values.dtype)

    def _check_pairs(self, losses: int) -> None:
        if self._sizes is not None and losses != self._sizes.heads:
            raise ValueError(
                f"{type(self).__name__} needs one loss per head, got {losses} losses and {self._sizes.heads} heads"
            )

    def _check_views(self, views: Sequence[Tensor]) -> None:
        super()._check_views(views)
        for index, view in enumerate(views):
            if view.dim() != 2:
                raise ValueError(
                    f"{type(self).__name__} rotates views of shape [B, D], got {list(view.shape)} for view {index}: "
                    "flatten or pool the other dimensions before the fork"
                )
        if any(view.shape != views[0].shape for view in views):
            raise ValueError(f"views must share one shape [B, D], got {[list(view.shape) for view in views]}")

    def _fork_parameters(self) -> Factors:
        assert self.rotations is not None
        cached = self._cached_factors
        if self._caching and cached is not None and cached[0].requires_grad >= torch.is_grad_enabled():
            return cached
        factors = self.rotations.factors()
        self._cached_factors = factors if self._caching else None
        return factors

    def _saved_views(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        return views if self.cooperative else ()

    def _forward_views(self, views: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
        factors, _ = _apart(parameters)
        size, dtype = factors[0].shape[1], factors[0].dtype
        turned = rotated(torch.stack([view[:, :size] for view in views]).to(dtype), factors)
        pairs = [(head.to(view.dtype), view[:, size:]) for head, view in zip(turned, views, strict=True)]
        return [torch.cat(pair, -1) if pair[1].shape[1] else pair[0] for pair in pairs]

    def _backward_views(
        self, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        if self.normalize_losses and self._values is None:
            raise RuntimeError("`normalize_losses` compares the losses: call `balancer.backward(losses, ...)`")
        factors, views = _apart(saved)
        stacked = torch.stack(zeros_if_none(gradients)).to(factors[0].dtype)  # [H, B, D]
        nonfinite = ~torch.linalg.vector_norm(stacked, dim=(1, 2)).isfinite()  # [H]
        nonfinite, rows = self.processes.sum(nonfinite, torch.full((), stacked.shape[1], device=stacked.device))
        finite = nonfinite == 0  # [H]; rows: B
        self.skipped += ~finite
        g = masked(stacked, finite[:, None, None])
        h = _turned_back(g, factors)  # R_kᵀĝ_k, row by row, [H, B, D]
        total = torch.linalg.vector_norm(h.sum(0)).unsqueeze(0)
        sizes = self.processes.norm(torch.cat([torch.linalg.vector_norm(h, dim=(1, 2)), total]))
        norms, total = sizes[:-1], sizes[-1]  # [H], []
        size = factors[0].shape[1]
        g, leading = g[..., :size], h[..., :size]
        v = _rotation_loss_direction(leading, norms, total, rows if self.batch_scale else 1)
        if views:
            of_rotation_loss = _skew(leading.mT @ v)
            of_task_losses = -_skew(leading.mT @ torch.stack(views)[..., :size].to(h.dtype)) / 2
            of_R = _combined_at_mean_size(*self.processes.sum(of_rotation_loss, of_task_losses))
            gradient = gradient_of_skew(of_R, factors)
        else:
            (gradient,) = self.processes.sum(gradient_of_pairs(leading, g, v, factors))
        received = h * self._factors(norms)[:, None, None]
        pairs = zip(received.unbind(), gradients, strict=True)
        of_factors = [gradient, *[None] * (len(factors) - 1)]
        return [None if given is None else part for part, given in pairs], of_factors


def _apart(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the factors of the rotations, `[H, ·, ·]`, and the views, `[B, D]`, that a fork has saved together."""
    return [tensor for tensor in tensors if tensor.dim() == 3], [tensor for tensor in tensors if tensor.dim() == 2]


def _turned_back(x: Tensor, factors: Factors) -> Tensor:
    """Return rows `[H, B, D]` whose leading features are rotated back."""
    size = factors[0].shape[1]
    if size == x.shape[-1]:
        return rotated_back(x, factors)
    return torch.cat([rotated_back(x[..., :size], factors), x[..., size:]], -1)


def _rotation_loss_direction(h: Tensor, norms: Tensor, total: Tensor, scale: Tensor | int) -> Tensor:
    """Return c·v without the own h_k, `[H, B, size]`, with which the rotation loss has the gradient R·(v·hᵀ − h·vᵀ).

    `total` is ‖Σ_k h_k‖, and `scale` is c.
    """
    present = norms > 0  # [H]
    count = present.sum().clamp(min=1)
    mean = total / count  # ‖h̄‖
    shares = masked(mean / (count * norms), present) * scale  # [H]
    others = shares * (1 - torch.eye(len(norms), dtype=h.dtype, device=h.device))  # [H, H], 0 for the task itself
    direction: Tensor = torch.tensordot(others, h, 1)
    return direction


def _skew(products: Tensor) -> Tensor:
    return products.mT - products


def _combined_at_mean_size(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of two skew parts Rᵀ·∂/∂R of each rotation, each scaled to the size of their mean."""
    norm_a, norm_b, size = (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) for x in (a, b, (a + b) / 2))
    unit_a = masked(a / norm_a, norm_a > 0)
    unit_b = masked(b / norm_b, (norm_b > 0) & norm_b.isfinite())
    return (unit_a + unit_b) * torch.where(size.isfinite(), size, norm_a)
