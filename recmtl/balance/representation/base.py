"""The family that works on the gradients at the views, where the trunk forks into heads."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import (
    backward_weighted,
    constant_factor,
    full_precision,
    masked,
    without_nonfinite,
    zeros_if_none,
)
from recmtl.balance.base import Balancer
from recmtl.balance.bypass import forks_are_bypassed
from recmtl.balance.distributed import exchanges, to_sum
from recmtl.balance.pairing import heads_reached, loss_of_head, paired_by_name
from recmtl.balance.penalty import add_penalty
from recmtl.balance.shared import BackwardInputs, Sizes, validated_views


class RepresentationBalancer(Balancer, ABC):
    """The base class of methods that change the heads' gradients on their way back to the trunk.

    `fork` is one autograd function over all H views, so its backward pass gets the H gradients at once. The method acts
    under any backward pass through the fork, a plain `loss.backward()` too; `backward` sums the losses. Everything
    after the fork is private. A second pass through the same graph, for example one per loss, is an error: the method
    must see all tasks at once. In evaluation mode gradients pass the fork by the chain rule, any number of times, and
    move no state.

    A method registers its state in `_build` and implements `_backward_views`. A method that also changes the views
    implements `_forward_views`; parameters that this takes come from `_fork_parameters`, and `_backward_views` returns
    their gradient.

    Example:
        >>> import torch
        >>> class Signs(RepresentationBalancer):
        ...     weights = None
        ...     def _build(self, sizes):
        ...         pass
        ...     def _backward_views(self, gradients, saved):
        ...         return [None if g is None else g.sign() for g in gradients], []
        >>> z = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> a, b = Signs().fork([z, z])
        >>> (5 * a.sum() - 3 * b[0, 0]).backward()
        >>> z.grad
        tensor([[0., 1.]])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("heads",)
    _values: Tensor | None = None  # of the losses, in the heads' order if there are as many, while `backward` runs
    _loss_of_head: Sequence[int] | None = None  # once the graphs of all losses have shown it
    _warned_of_divisor = False
    _forked = False  # whether `fork` was called since the last `backward`
    _outputs: Sequence[Tensor] = ()  # of the last fork, if several processes share the batch

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The heads' names; if they have none, those of the losses."""
        return self.head_names or self.names

    def fork(self, views: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what each head reads, `[B, D]`, and pass the method the gradients on their way back.

        Args:
            views: One view `[B, D]` of the shared representation per head; one tensor for the same view H times, once
                the number of heads is known.

        Raises:
            ValueError: If the number of heads is unknown, the state was created for another one, or the method cannot
                work on such views.
        """
        if isinstance(views, Tensor):
            if self._sizes is None:
                raise ValueError("the number of heads is unknown: pass a sequence with one view per head")
            views = [views] * self._sizes.heads
        views = validated_views(views)
        if not views:
            raise ValueError("`views` must hold one view per head, got none")
        self._check_views(views)
        self._heads = len(views)
        features = views[0].shape[-1] if views[0].dim() else 0
        self._prepare(views[0], Sizes(heads=len(views), features=features))
        parameters = self._fork_parameters()
        if not torch.is_grad_enabled():
            self._forked = True
            return self._read_by_heads(views, parameters)
        if not self.training:
            return self._read_by_heads(views, [parameter.detach() for parameter in parameters])
        self._check_parallel()
        self._warn_of_half(views[0])
        self._forked = True
        outputs: tuple[Tensor, ...] = _Fork.apply(self, len(views), *views, *parameters)  # type: ignore[no-untyped-call]
        self._outputs = outputs if self.processes.size > 1 else ()
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies hold: a fork belongs to the balancer that it passed through."""
        return self.__dict__ | {"_forked": False, "_outputs": ()}

    def _balance(self, inputs: BackwardInputs) -> None:
        values = inputs.values
        if not self.training:
            raise RuntimeError(
                f"{type(self).__name__} is in evaluation mode, where gradients pass the fork unbalanced: call `train()`"
            )
        if not self._forked:
            raise RuntimeError(
                f"{type(self).__name__} acts where the representation forks: `fork` must stand between trunk and heads"
            )
        self._forked = False
        if any(shared.tensor.grad is not None for shared in inputs.shared):
            self._warn_of_divided(inputs.losses)
        if inputs.penalty is not None:
            add_penalty(inputs, self.processes, self._guarded)
        finite, losses = self._finite(values), inputs.losses
        weights = masked(self._weigh(losses, values), finite)  # [K]
        expected = self.skipped
        if self._sizes is not None and self._sizes.heads == len(losses):
            order = self._pair(losses)
            values = in_order(values, order)
            expected = self.skipped + in_order(~finite, order)  # a loss that is left out does not reach the fork
            losses = without_nonfinite(losses, finite)
        self._values, outputs, self._outputs = values, self._outputs, ()
        try:
            with self.processes.reduce_gradients(to_sum(inputs.leaves)):
                # All processes communicate at the fork, also those whose losses do not reach it.
                backward_weighted(losses, weights, through=[*outputs, *exchanges(inputs.leaves)])
        finally:
            self._values = None
        if self._sizes is not None:
            self.skipped.copy_(torch.maximum(self.skipped, expected))

    def _warn_of_divided(self, losses: Sequence[Tensor]) -> None:
        """Warn once of losses that are all divided by one number, without a `loss_scale`."""
        if self._warned_of_divisor or self.loss_scale != 1:
            return
        divisor = common_divisor(losses)
        if divisor:
            self._warned_of_divisor = True
            warnings.warn(
                f"the losses are divided by {divisor} while gradients accumulate, which this balancer takes for "
                f"smaller losses: set `balancer.loss_scale = 1 / {divisor}`",
                stacklevel=4,
            )

    def _pair(self, losses: Sequence[Tensor]) -> Sequence[int]:
        """Return the position of each head's loss, of as many losses as heads: by the names, else by the graph."""
        if self.names and self.head_names:
            return paired_by_name(self.names, self.head_names)
        if self._loss_of_head is not None:
            return self._loss_of_head
        positions = range(len(losses))
        reached = [heads_reached(loss, self) for loss in losses]
        if self.processes.size > 1:
            table = torch.tensor([[head in heads for head in positions] for heads in reached], device=losses[0].device)
            reached = [{head for head in positions if row[head]} for row in self.processes.sum(table)[0].tolist()]
        found = loss_of_head(reached)
        if found is None:
            self._check_pairing(reached)
            return positions
        if all(reached):
            self._loss_of_head = found
            if self.names and found != list(positions):
                self.head_names = tuple(self.names[loss] for loss in found)
        return found

    def _check_pairing(self, reached: Sequence[Set[int]]) -> None:
        """Check that losses whose heads the graph does not tell apart may be taken in the heads' order."""

    def _weigh(self, losses: Sequence[Tensor], values: Tensor) -> Tensor:
        """Return the weight of each loss under `backward`, private gradients included: `[K]`."""
        return torch.ones_like(values)

    def _check_views(self, views: Sequence[Tensor]) -> None:
        """Check that the method can work on the views."""
        for index, view in enumerate(views):
            if not view.is_floating_point():
                raise ValueError(
                    f"view {index} must hold real numbers, got {view.dtype}: fork what is computed from it"
                )

    def _fork_parameters(self) -> Sequence[Tensor]:
        """Return the parameters of `_forward_views`."""
        return ()

    def _saved_views(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the views that `_backward_views` needs; it finds them behind the parameters, in `saved`."""
        return ()

    def _read_by_heads(self, views: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with full_precision(views[0].device):
            return tuple(self._forward_views(views, parameters))

    def _forward_views(self, views: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the heads read of the views; a linear map."""
        return [view.view_as(view) for view in views]

    @abstractmethod
    def _backward_views(
        self, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Return the gradients of the views and of the parameters, and update the state.

        Args:
            gradients: Those at the heads' inputs, of this process's rows; None if no loss reaches the head. They must
                not be written into. Sums over rows, the parameters' gradients included, are reduced over `processes`.
            saved: The parameters, then the saved views.
        """


def in_order(values: Tensor, order: Sequence[int]) -> Tensor:
    """Return the values `[K]` in another order; a copy from host to device would break the record of a CUDA graph."""
    return values if list(order) == list(range(len(values))) else torch.stack([values[index] for index in order])


def common_divisor(losses: Sequence[Tensor]) -> int | None:
    """Return the largest whole number above 1 by which every loss was divided; None if there is none."""
    found = [_divisors(loss) for loss in losses if loss.requires_grad]
    return max(set.intersection(*found), default=None) if found else None


def _divisors(loss: Tensor) -> set[int]:
    """Return the whole numbers above 1 by which a loss was divided last, also as products with 1/4.

    Products with other numbers, such as a task's weight, may come between. The division that makes a mean of a sum is
    none. Values on another device than the CPU are not waited for.
    """
    found: list[int | None] = []
    node: Any = loss.grad_fn
    while node is not None and (factor := constant_factor(node)) is not None:
        quotient = 0.0 if factor.device.type != "cpu" else float(factor)
        if node.name() == "MulBackward0":
            quotient = 1 / quotient if quotient else 0.0
        whole = math.isfinite(quotient) and abs(quotient - round(quotient)) <= 1e-6 * quotient  # 1/3 in float32
        found.append(round(quotient) if whole and quotient > 1.5 else None)
        node = next((following for following, _ in node.next_functions if following is not None), None)
    if found and node is not None and node.name() == "SumBackward0":
        found.pop()
    return {divisor for divisor in found if divisor is not None}


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, balancer: RepresentationBalancer, heads: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        views, parameters = tensors[:heads], tensors[heads:]
        ctx.balancer = balancer
        ctx.save_for_backward(*parameters, *balancer._saved_views(views))
        ctx.set_materialize_grads(False)
        return balancer._read_by_heads(views, parameters)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        device = next(gradient.device for gradient in gradients if gradient is not None)
        with full_precision(device):
            if forks_are_bypassed():  # any number of times
                views: Sequence[Tensor | None] = _chain_rule(ctx.balancer, gradients, ctx.saved_tensors)
                parameters: Sequence[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 2 - len(gradients))
            else:
                _check_first_pass(ctx)
                views, parameters = _balanced(ctx.balancer, gradients, ctx.saved_tensors)
        return (None, None, *views, *parameters)


def _balanced(
    balancer: RepresentationBalancer, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """Return the method's gradients of views and parameters, for gradients of scaled losses times the same scale."""
    present = [gradient for gradient in gradients if gradient is not None]
    scale = balancer._scale_on(present[0].device)
    if scale is None:
        return balancer._backward_views(gradients, saved)
    wide = [None if g is None else g.to(torch.promote_types(g.dtype, torch.float32)) / scale for g in gradients]
    views, parameters = balancer._backward_views(wide, saved)
    if balancer._guarded:
        broken = ~torch.stack([gradient.isfinite().all() for gradient in present]).all()
        broken = balancer.processes.sum(broken)[0] > 0
        scale = torch.where(broken, torch.nan, scale)  # the scaler must see what the method left out
        balancer._put_back_state(broken)
    return [None if v is None else v * scale for v in views], [None if p is None else p * scale for p in parameters]


def _check_first_pass(ctx: Any) -> None:
    if getattr(ctx, "passed", False):
        raise RuntimeError(
            f"a second backward pass reached the fork of {type(ctx.balancer).__name__}, which balances all tasks at "
            "once: use its own `backward` on all losses, without another balancer; `gradient_stats` can measure the "
            "tasks one by one"
        )
    ctx.passed = True


def _chain_rule(
    balancer: RepresentationBalancer, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of the views: those at the heads, through `_forward_views`."""
    at_heads = zeros_if_none(gradients)
    with torch.enable_grad():
        views = [torch.zeros_like(gradient, requires_grad=True) for gradient in at_heads]
        outputs = balancer._forward_views(views, [tensor.detach() for tensor in saved])
    passed = torch.autograd.grad(outputs, views, at_heads)
    return [None if gradient is None else view for gradient, view in zip(gradients, passed, strict=True)]
