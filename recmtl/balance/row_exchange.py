"""Rows that are spread over processes: each is read where it is needed, and its gradient is added up at its owner."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recmtl.balance.backward import as_real, has_hooks, leaves_of, nodes_of
from recmtl.balance.distributed import ProcessGroup
from recmtl.balance.shared import SharedTensor


def exchange_rows(
    rows: Tensor, places: Tensor, given: Sequence[int], taken: Sequence[int], processes: ProcessGroup
) -> Tensor:
    """Send each process the rows that it requested, and return those that this process requested.

    It is a collective: every process calls it, also one that owns or reads no row. The backward pass sends gradients to
    the owner of each row, which sums them in a fixed order, so that its gradient is that of the whole batch. A process
    whose losses do not depend on the rows takes part in every backward pass all the same: a balancer does it with
    `SharedTensor(rows, …, exchanged=…)`.

    Args:
        rows: The rows of this process, a leaf.
        places: Which of them each process asked for, those for process 0 first; a row may be asked for several times.
        given: How many rows each process asked this one for.
        taken: How many rows this process asked each one for.
        processes: The processes.

    Raises:
        ValueError: If the counts do not fit.
        LostRankError: If another process has ended, or did not answer in time; also from a backward pass.

    Shape:
        - rows: `[U, width]`.
        - places: int64 `[Σ given]`.
        - output: `[Σ taken, width]`, the rows of process 0 first.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
        >>> found = exchange_rows(rows, torch.tensor([2, 0, 2]), [3], [3], ProcessGroup())
        >>> found.flatten().tolist()
        [3.0, 1.0, 3.0]
        >>> found.sum().backward()
        >>> rows.grad.flatten()
        tensor([1., 0., 2.])
    """
    found: Tensor = _Exchange.apply(rows, places, given, taken, processes)  # type: ignore[no-untyped-call]
    return found


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, places: Tensor, given: Sequence[int], taken: Sequence[int], processes: ProcessGroup
    ) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape, ctx.given, ctx.taken, ctx.processes = tuple(rows.shape), given, taken, processes
        return processes.all_to_all(rows.index_select(0, places), given, taken)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        returned = ctx.processes.all_to_all(gradient, ctx.taken, ctx.given)  # [Σ given, width]
        return SharedTensor(returned, ctx.shape[0], places).sums(returned), None, None, None, None  # [U, width]


def check_exchanges(leaves: Sequence[SharedTensor], processes: ProcessGroup) -> None:
    """Check that what was `exchanged` of leaves came from `exchange_rows` for this step, between these processes."""
    for leaf in leaves:
        if leaf.exchanged is None:
            continue
        node: Any = leaf.exchanged.grad_fn
        rows = f"rows of shape {tuple(leaf.tensor.shape)}"
        if not _is_exchange(node) or getattr(node.next_functions[0][0], "variable", None) is not leaf.tensor:
            found = "a tensor without a graph" if node is None else f"the output of {node.name()}"
            raise ValueError(f"`exchanged` of {rows} must be the output of `exchange_rows` for them, got {found}")
        if node.processes.group is not processes.group:
            raise ValueError(
                f"{rows} are spread over {node.processes.size} processes, but balanced by {processes.size}: set "
                "`processes` of the balancer to those of the exchange"
            )
        if _is_freed(node):
            raise ValueError(f"{rows} were exchanged for an earlier `backward`: exchange them anew in each step")


def check_leaves(losses: Sequence[Tensor], leaves: Sequence[SharedTensor]) -> None:
    """Check that all leaves of the losses are among those known, and that no hook acts on their gradients too early."""
    exchanges = {leaf.exchanged.grad_fn for leaf in leaves if leaf.exchanged is not None}
    for node in nodes_of(losses):
        if _is_exchange(node) and node not in exchanges:
            raise ValueError(
                f"rows of shape {node.shape} are spread over the processes: pass them once, in `shared` or `private`, "
                "as `SharedTensor(rows, exchanged=…)` with the output of `exchange_rows`"
            )
    known = {id(leaf.tensor) for leaf in leaves}
    for leaf in leaves_of(losses):
        if has_hooks(leaf):
            raise ValueError(
                f"a hook on a gradient of shape {tuple(leaf.shape)} would act before it is summed over the "
                "processes: step the optimizer after `backward`"
            )
        if leaf.requires_grad and id(leaf) not in known:
            raise ValueError(
                f"with several processes `private` must hold all leaves that are not shared, but a tensor of shape "
                f"{tuple(leaf.shape)} is missing"
            )


def _is_exchange(node: object) -> bool:
    return isinstance(node, _Exchange._backward_cls)


def _is_freed(node: Any) -> bool:
    """Return whether a backward pass has freed what a node saved."""
    try:
        return node.saved_tensors is None
    except RuntimeError:
        return True


@torch.no_grad()
def poison_nonfinite_rows(leaves: Sequence[SharedTensor], processes: ProcessGroup) -> None:
    """Make all gradients NaN if one of exchanged rows is not finite: the `GradScaler` of each process must see it."""
    rows = [leaf.tensor.grad for leaf in leaves if leaf.exchanged is not None and leaf.tensor.grad is not None]
    if processes.size == 1 or not rows:
        return
    broken = ~torch.stack([as_real(gradient).isfinite().all() for gradient in rows]).all()
    poison = torch.where(processes.sum(broken)[0] > 0, torch.nan, 0.0)
    for gradient in (leaf.tensor.grad for leaf in leaves if leaf.tensor.grad is not None):
        gradient.add_(poison.to(gradient.dtype))
