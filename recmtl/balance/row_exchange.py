"""Rows that are spread over processes: each is read where it is needed, and its gradient is added up at its owner."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recmtl.balance.backward import on_host
from recmtl.balance.distributed import ProcessGroup


def exchange_rows(
    rows: Tensor, places: Tensor, given: Sequence[int], taken: Sequence[int], processes: ProcessGroup
) -> Tensor:
    """Give each process the rows that it asked for, and return those that this process asked the others for.

    All processes call it together, also one that owns or reads no row. On the way back the gradients return to the
    owner of each row, which adds them up in one order, so that its gradient is that of the whole batch. A process whose
    losses do not depend on the rows takes part in every backward pass all the same: a balancer does it with
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
        ctx.count, ctx.given, ctx.taken, ctx.processes = len(rows), given, taken, processes
        return processes.all_to_all(rows.index_select(0, places), given, taken)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        returned = ctx.processes.all_to_all(gradient, ctx.taken, ctx.given)  # [Σ given, width]
        return _summed(returned, places, ctx.count), None, None, None, None


def _summed(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Add values `[n, width]` up at their places in `[count, width]`, on every device in the same order each time."""
    if on_host(values):
        return values.new_zeros(count, *values.shape[1:]).index_add_(0, places, values)
    ordered, order = places.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(count + 1, device=places.device))
    return torch.segment_reduce(values.index_select(0, order), "sum", offsets=bounds, unsafe=True)
