"""Backward passes, their precision, the scale of their losses, and the gradients that they leave."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from recmtl.balance.loss_scale import LossScale

SMALL_GRADIENT = 1 << 20  # elements up to which a copy costs a GPU less than a launch


def backward_weighted(
    losses: Sequence[Tensor],
    weights: Tensor | Sequence[Tensor],
    through: Sequence[Tensor] = (),
    without: Sequence[Tensor] = (),
    retain_graph: bool = False,
) -> None:
    """Run one backward pass of the weighted sum of the losses that have a graph.

    A weight of exactly 0 starts a task's pass from a zero gradient, even if its loss is not finite. The pass goes
    `through` these tensors even if no loss depends on them. The leaves in `without` get no gradient.
    """
    pairs = zip(losses, weights, strict=True)
    reached = [(loss, weight.to(loss.dtype)) for loss, weight in pairs if loss.requires_grad]
    if not (reached := reached + [(tensor, zero_like(tensor)) for tensor in through]):
        return
    inputs = None
    if without:
        excluded = {id(tensor) for tensor in without}
        inputs = [leaf for leaf in leaves_of([loss for loss, _ in reached]) if id(leaf) not in excluded]
        if not inputs:
            return
    roots, starts = zip(*reached, strict=True)
    torch.autograd.backward(roots, starts, retain_graph, inputs=inputs)


def zero_like(tensor: Tensor) -> Tensor:
    """Return zeros of the shape of a tensor that take no memory."""
    return _scalar(0.0, tensor.dtype, tensor.device).expand_as(tensor)


def without_nonfinite(losses: Sequence[Tensor], finite: Tensor) -> Sequence[Tensor]:
    """Return the losses, those that are not `finite`, bool `[K]`, without their graphs.

    The leaves of these get a gradient of 0. A pass that starts from 0 would still multiply by the NaNs within such a
    graph. Only on a CPU is it known without waiting which losses these are; on other devices all keep their graph.
    """
    if not on_host(finite):
        return losses
    kept = finite.tolist()
    for leaf in leaves_of([loss for loss, good in zip(losses, kept, strict=True) if not good]):
        if leaf.requires_grad and leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
    return [loss if good else loss.detach() for loss, good in zip(losses, kept, strict=True)]


def loss_values(losses: Sequence[Tensor]) -> Tensor:
    """Return the values of losses, `[K]` of at least float32, detached."""
    values = torch.stack([loss.detach() for loss in losses])
    return values.to(torch.promote_types(values.dtype, torch.float32))


def on_host(tensor: Tensor) -> bool:
    """Return whether the values of a tensor are known without waiting for a device."""
    return tensor.device.type == "cpu"


def is_finite(tensor: Tensor) -> Tensor:
    """Return what `tensor.isfinite()` does for real numbers, by two launches in place of four."""
    return tensor.abs() < math.inf


def masked(tensor: Tensor, kept: Tensor, other: float = 0.0) -> Tensor:
    """Return what `torch.where(kept, tensor, other)` does, without a launch to put the number on the device."""
    return torch.where(kept, tensor, _scalar(other, tensor.dtype, tensor.device))


@lru_cache(maxsize=64)
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it may serve a training later
        return torch.full((), value, dtype=dtype, device=device)


def has_hooks(leaf: Tensor) -> bool:
    """Return whether a hook acts as soon as a leaf has received its gradient, such as the step of an optimizer."""
    return bool(getattr(leaf, "_post_accumulate_grad_hooks", None)) or hasattr(leaf, "_in_backward_optimizers")


def zeros_if_none(gradients: Sequence[Tensor | None], tensors: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return the gradients with zeros for None, shaped like the tensors or else like the first gradient."""
    if tensors is None:
        tensors = [next(gradient for gradient in gradients if gradient is not None)] * len(gradients)
    pairs = zip(gradients, tensors, strict=True)
    return [torch.zeros_like(tensor) if gradient is None else gradient for gradient, tensor in pairs]


def as_real(tensor: Tensor) -> Tensor:
    """Return a view of a complex tensor with its real and imaginary parts in a last dimension of their own."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products in full precision within the block: without autocast, TF32 and bfloat16."""
    backend = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
    matmul = getattr(backend, "matmul", None)
    name, value = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if hasattr(matmul, name):
            stack.callback(setattr, matmul, name, getattr(matmul, name))
            setattr(matmul, name, value)
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute without autocast within the block, and without TF32 on a GPU; a CPU keeps its library."""
    with torch.autocast("cpu", enabled=False) if device.type == "cpu" else float32_products(device):
        yield


def pop_gradients(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the `.grad` of each tensor and set it to None."""
    gradients = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return gradients


def leaves_of(losses: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaves of the losses' graphs."""
    found = (node.variable for node in nodes_of(losses) if node.name() == "torch::autograd::AccumulateGrad")
    return [*(loss for loss in losses if loss.grad_fn is None), *found]


def nodes_of(losses: Sequence[Tensor]) -> Iterator[Any]:
    """Yield the nodes of the losses' graphs, each once."""
    seen: set[Any] = set()
    nodes: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            yield node
            nodes += [following for following, _ in node.next_functions if following is not None]


@torch.no_grad()
def zero_nonfinite_gradients(tensors: Iterable[Tensor]) -> Tensor:
    """Set the NaN and infinite entries of gradients to zero, in place and without waiting for the device.

    A balancer leaves a task whose shared gradient is not finite out of the shared gradients. The gradients of private
    tensors, such as a tower's, are the plain sum: call this on them before the optimizer's step.

    Args:
        tensors: Tensors on one device with dense gradients in `.grad`; those without a gradient are skipped.

    Returns:
        Whether each tensor's gradient had such entries, bool `[tensors]`, on their device.

    Example:
        >>> import torch
        >>> x = torch.zeros(3, requires_grad=True)
        >>> x.grad = torch.tensor([1.0, float("nan"), float("-inf")])
        >>> zero_nonfinite_gradients([x])
        tensor([True])
        >>> x.grad
        tensor([1., 0., 0.])
    """
    return nonfinite_and_zero(tensors)[0]


@torch.no_grad()
def nonfinite_and_zero(tensors: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Do what `zero_nonfinite_gradients` does, and return as well whether each gradient is missing or all zeros."""
    tensors = list(tensors)
    gradients = [t.grad if t.grad is not None and t.grad.numel() else None for t in tensors]
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        none_found = torch.zeros(len(tensors), dtype=torch.bool, device=tensors[0].device if tensors else None)
        return none_found, ~none_found
    if not on_host(present[0]):
        return _zero_nonfinite_together(gradients)
    none = (torch.zeros((), device=present[0].device),) * 2
    # Minimum and maximum are not finite if any entry is not, and cost a fraction of a norm.
    ends = [end.float() for g in gradients for end in (none if g is None else torch.aminmax(as_real(g)))]
    both = torch.stack(ends).view(-1, 2)  # [tensors, 2]
    found = ~both.isfinite().all(1)
    for gradient, nonfinite in zip(gradients, found.tolist(), strict=True):
        if gradient is not None and nonfinite:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
    return found, (both == 0).all(1)


def _zero_nonfinite_together(gradients: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Do what `nonfinite_and_zero` does with few launches: small gradients go through one buffer per type."""
    present = [as_real(gradient) for gradient in gradients if gradient is not None]
    largest = iter(torch._foreach_norm(present, math.inf))
    norms = [_scalar(0.0, present[0].dtype, present[0].device) if g is None else next(largest) for g in gradients]
    stacked = torch.stack(norms)  # [tensors]
    found = ~(stacked < math.inf)
    large = [gradient for gradient in present if gradient.numel() > SMALL_GRADIENT]
    for gradient in large:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
    for dtype in {gradient.dtype: None for gradient in present}:
        small = [g for g in present if g.dtype == dtype and g.numel() <= SMALL_GRADIENT]
        if small:
            flat = torch.cat([gradient.flatten() for gradient in small]).nan_to_num_(0.0, 0.0, 0.0)
            parts = torch.split(flat, [gradient.numel() for gradient in small])
            torch._foreach_copy_(small, [part.view_as(g) for part, g in zip(parts, small, strict=True)])
    return found, stacked == 0


class ScaledLosses(nn.Module):
    """A module that takes scaled losses, and whose buffers do not move in a step that a `GradScaler` skips.

    With losses c·L_k the gradients become c times those of L_k, and the state moves as for L_k. Buffers are not cast
    down to half precision.
    """

    _loss_scale: LossScale | None = None
    _warned_of_scale = False

    @property
    def scaler(self) -> GradScaler | None:
        """The `torch.amp.GradScaler` that scales the losses; None, the default, if there is none.

        With an enabled scaler no task is left out: what is not finite reaches `.grad`, so that the scaler sees it, and
        the state is that before the step if the scaler skips it. A copy has the same scaler, an unpickled one none.
        """
        return None if self._loss_scale is None else self._loss_scale.scaler

    @scaler.setter
    def scaler(self, scaler: GradScaler | None) -> None:
        if scaler is not None and not isinstance(scaler, GradScaler):
            raise ValueError(f"`scaler` must be a `torch.amp.GradScaler`, got {scaler!r}")
        if scaler is not self.scaler:
            self._loss_scale = LossScale(scaler, self.loss_scale)

    @property
    def loss_scale(self) -> float:
        """The other factor in the losses, 1 by default: 1/4 for losses that are divided by 4 micro-batches."""
        return 1.0 if self._loss_scale is None else self._loss_scale.number

    @loss_scale.setter
    def loss_scale(self, number: float) -> None:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"`loss_scale` must be a positive number, got {number!r}; a `GradScaler` is the `scaler`")
        self._loss_scale = self._loss_scale or LossScale()
        self._loss_scale.number = float(number)

    @property
    def _guarded(self) -> bool:
        """Whether a scaler looks for gradients that are not finite."""
        return self._loss_scale is not None and self._loss_scale.guarded

    def _scale_on(self, device: torch.device) -> Tensor | None:
        """Return the factor in the losses, float32 `[]`; None if it is 1."""
        return None if self._loss_scale is None else self._loss_scale.on(device)

    def _keep_state(self) -> bool:
        """Put back the state if the last step was skipped, and keep it as it is before a step; see `LossScale.keep`."""
        return self._loss_scale is not None and self._loss_scale.keep(self._moving_buffers())

    def _put_back_state(self, broken: Tensor) -> None:
        """Put back the state if a gradient of this step is `broken`, bool `[]`, and the scaler will skip the step."""
        if self._loss_scale is not None:
            self._loss_scale.put_back(self._moving_buffers(), broken)

    def _moving_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that steps move."""
        return dict(self.named_buffers())

    def _save_to_state_dict(self, *arguments: Any) -> None:
        if self._loss_scale is not None and self._loss_scale.begun:
            self._keep_state()
        super()._save_to_state_dict(*arguments)

    def _warn_of_scaled(self, losses: Sequence[Tensor]) -> None:
        """Warn once of losses that a `GradScaler` seems to have scaled, without being the balancer's `scaler`."""
        if not self._warned_of_scale and self.scaler is None and _scaled_by_one_tensor(losses):
            self._warn_of_scale("these losses are scaled")

    def _warn_of_half(self, view: Tensor) -> None:
        """Warn once of gradients in fp16, which only a scaled loss makes large enough, without a `scaler`."""
        kind = view.device.type
        if self._warned_of_scale or self.scaler is not None or not torch.amp.is_autocast_available(kind):
            return
        half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        if half or view.dtype == torch.float16:
            self._warn_of_scale("fp16 needs scaled losses")

    def _warn_of_scale(self, found: str) -> None:
        self._warned_of_scale = True
        warnings.warn(
            f"{found}, but the balancer does not know the scale: set `balancer.scaler` to the `GradScaler`, so that "
            "gradients are exact and the scaler sees an overflow",
            stacklevel=5,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_precision(state: Tensor) -> Tensor:
            moved = fn(state)
            return state.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]
        return self


def _scaled_by_one_tensor(losses: Sequence[Tensor]) -> bool:
    """Return whether the last operation of every loss is a product with one and the same power of two above 1.

    The value is looked at only if all losses were multiplied by the same tensor, as `GradScaler.scale` does.
    """
    factors = [_last_operand(loss, "MulBackward0") for loss in losses if loss.requires_grad]
    first = factors[0] if factors else None
    if first is None or any(factor is None or factor.data_ptr() != first.data_ptr() for factor in factors):
        return False
    value = float(first)
    return first.dtype == torch.float32 and value > 1 and math.frexp(value)[0] == 0.5


def _last_operand(loss: Tensor, operation: str) -> Tensor | None:
    """Return the scalar without gradient in the operation that made a loss; None if another operation made it."""
    node = loss.grad_fn
    return constant_factor(node) if node is not None and node.name() == operation else None


def constant_factor(node: Any) -> Tensor | None:
    """Return the scalar without gradient of a product or quotient; None for other operations."""
    if node.name() not in ("MulBackward0", "DivBackward0"):
        return None
    found = [getattr(node, name, None) for name in ("_saved_other", "_saved_self")]
    scalars = [x for x in found if isinstance(x, Tensor) and x.dim() == 0 and not x.requires_grad]
    return scalars[0] if len(scalars) == 1 else None
