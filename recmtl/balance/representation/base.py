"""The family that works where the trunk forks into heads: on the gradients at the views."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import backward_weighted
from recmtl.balance.base import Balancer
from recmtl.balance.shared import BackwardInputs, Sizes


class RepresentationBalancer(Balancer, ABC):
    """Passes the views on to the heads, and works on the heads' gradients on their way back to the trunk.

    `fork` is one autograd function over all H views: its backward pass gets the H gradients at once. So the method
    acts under any backward pass through it, a plain `loss.backward()` too, and `backward` adds the losses up. All
    that lies after the fork is private. A second pass through the same graph, such as one per loss or that of a
    balancer which takes the tasks' gradients one by one, is refused: the method must see all tasks at once.

    A method registers its state in `_build` and writes `_inward`. One that turns the views on their way out writes
    `_outward` too; the tensors of its own that it turns them with come from `_own`, and get their gradient from
    `_inward`.

    Example:
        >>> import torch
        >>> class Signs(RepresentationBalancer):
        ...     weights = None
        ...     def _build(self, sizes):
        ...         pass
        ...     def _inward(self, gradients, own):
        ...         return [None if g is None else g.sign() for g in gradients], []
        >>> z = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> a, b = Signs().fork([z, z])
        >>> (5 * a.sum() - 3 * b[0, 0]).backward()
        >>> z.grad
        tensor([[0., 1.]])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("heads",)
    _values: Tensor | None = None  # the losses, while `backward` runs
    _forked = False  # whether `fork` was called since the last `backward`
    _outputs: Sequence[Tensor] = ()  # of the last fork, where several processes share the batch

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The heads' names, or those of the losses while heads have none."""
        return self.head_names or self.names

    def fork(self, views: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hands each head its view, and the method the gradients on their way back.

        Args:
            views: One view of the shared representation per head; one tensor stands for the same view H times, once
                the number of heads is known.

        Returns:
            What the heads read.

        Raises:
            ValueError: If the number of heads is not known, or not the one that the state was made for.

        Shape:
            - views: H tensors `[B, D]`.
            - output: H tensors `[B, D]`.
        """
        if isinstance(views, Tensor):
            if self._sizes is None:
                raise ValueError("the number of heads is not known: give a sequence with one view per head")
            views = [views] * self._sizes.heads
        if not views:
            raise ValueError("`views` must hold one view per head, got none")
        features = views[0].shape[-1] if views[0].dim() else 0
        self._ready(views[0], Sizes(heads=len(views), features=features))
        own = self._own()
        self._forked = True
        if not torch.is_grad_enabled():
            return tuple(self._outward(views, own))
        outputs: tuple[Tensor, ...] = _Fork.apply(self, len(views), *views, *own)  # type: ignore[no-untyped-call]
        self._outputs = outputs if self.processes.size > 1 else ()
        return outputs

    def _balance(self, given: BackwardInputs) -> None:
        losses, values = given.losses, given.values
        if not self._forked:
            raise RuntimeError(
                f"{type(self).__name__} acts where the representation forks: `fork` must stand between trunk and heads"
            )
        self._forked = False
        finite = values.isfinite()
        weights = torch.where(finite, self._weigh(losses, values), 0.0)  # [K]
        expected = self.skipped
        if self._sizes is not None and self._sizes.heads == len(losses):
            expected = self.skipped + ~finite  # also a loss whose gradient, with weight 0, reached the fork as zero
        self._values, outputs, self._outputs = values, self._outputs, ()
        try:
            with self.processes.adding_up([*given.shared, *given.private]):
                # All processes meet at the fork, those whose losses do not reach it, too.
                backward_weighted([*losses, *outputs], [*weights, *map(torch.zeros_like, outputs)])
        finally:
            self._values = None
        if self._sizes is not None:
            self.skipped.copy_(torch.maximum(self.skipped, expected))

    def _weigh(self, losses: Sequence[Tensor], values: Tensor) -> Tensor:
        """What each loss is multiplied by under `backward`, private gradients included: `[K]`."""
        return torch.ones_like(values)

    def _own(self) -> Sequence[Tensor]:
        """Tensors of the method that the views are turned with, and that `_inward` has a gradient for."""
        return ()

    def _kept(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """What `_inward` needs of the views themselves; it finds these behind its own tensors, in `own`."""
        return ()

    def _outward(self, views: Sequence[Tensor], own: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the heads read of the views."""
        return [view.view_as(view) for view in views]

    @abstractmethod
    def _inward(
        self, gradients: Sequence[Tensor | None], own: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """The gradients of the views and of `own`, from those at the heads' inputs; moves the state.

        A gradient is None where no loss reaches the head; those given must not be written into. They are of this
        process's rows: what is measured on them is added up over `processes`, and the gradients of `own` are those of all.
        """


@contextmanager
def letting_pass() -> Iterator[None]:
    """Lets gradients pass every fork by the chain rule alone in the block; no state moves."""
    outer, _Fork.passing = _Fork.passing, True
    try:
        yield
    finally:
        _Fork.passing = outer


class _Fork(torch.autograd.Function):
    passing = False  # not of one thread: autograd has its own for some devices

    @staticmethod
    def forward(ctx: Any, balancer: RepresentationBalancer, heads: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        views, own = tensors[:heads], tensors[heads:]
        ctx.balancer = balancer
        ctx.save_for_backward(*own, *balancer._kept(views))
        ctx.set_materialize_grads(False)
        return tuple(balancer._outward(views, own))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        device = next(gradient.device for gradient in gradients if gradient is not None)
        with torch.autocast(device.type, enabled=False):
            if _Fork.passing:  # may happen any number of times
                views = _chain_rule(ctx.balancer, gradients, ctx.saved_tensors)
                own = [None] * (len(ctx.needs_input_grad) - 2 - len(gradients))
            else:
                _check_first_pass(ctx)
                views, own = ctx.balancer._inward(gradients, ctx.saved_tensors)
        return (None, None, *views, *own)


def _check_first_pass(ctx: Any) -> None:
    if getattr(ctx, "passed", False):
        raise RuntimeError(
            f"a second backward pass reached the fork of {type(ctx.balancer).__name__}, which balances all tasks at "
            "once: use its own `backward` on all losses, without another balancer; `gradient_stats` measures tasks one by one"
        )
    ctx.passed = True


def _chain_rule(
    balancer: RepresentationBalancer, gradients: Sequence[Tensor | None], own: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of the views: those at the heads through what `_outward`, which is linear, does to the views."""
    like = next(gradient for gradient in gradients if gradient is not None)
    given = [torch.zeros_like(like) if gradient is None else gradient for gradient in gradients]
    with torch.enable_grad():
        views = [torch.zeros_like(gradient, requires_grad=True) for gradient in given]
        outputs = balancer._outward(views, [tensor.detach() for tensor in own])
    passed = torch.autograd.grad(outputs, views, given)
    return [None if gradient is None else view for gradient, view in zip(gradients, passed, strict=True)]
