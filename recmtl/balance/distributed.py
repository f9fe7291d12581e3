"""Several processes that share each batch, and what they add up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor


class LostRankError(RuntimeError):
    """Another process has ended, or did not answer in time."""


@contextmanager
def answering() -> Iterator[None]:
    """Says of a message that did not come through what it means.

    Raises:
        LostRankError: Another process has ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LostRankError(f"another process has ended, or did not answer in time: {reason}") from error


class ProcessGroup:
    """The processes among which each batch is shared; by default this one alone, where nothing is sent.

    Each process computes on its rows. A loss is its sum over them, divided by the number of rows that count in the
    *whole* batch: then losses and gradients add up to those of one process with the whole batch. All processes call
    the same methods in the same order.

    Attributes:
        rank: This one's place among them, from 0.
        size: How many there are.
        sent: The bytes that this one has given to be added up, so far.

    Args:
        group: Processes of `torch.distributed`, such as `torch.distributed.group.WORLD`.

    Example:
        >>> import torch
        >>> ProcessGroup().sum(torch.ones(2), torch.tensor(3))
        (tensor([1., 1.]), tensor(3))
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.sent = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Gives the sums of tensors over the processes, from one message; truth values are counted.

        Raises:
            LostRankError: Another process has ended, or did not answer in time.
        """
        if self.size == 1:
            return tensors
        dtype = tensors[0].dtype if len({tensor.dtype for tensor in tensors}) == 1 else torch.float64
        dtype = dtype if dtype.is_floating_point else torch.float64
        sums = [tensor.detach().to(dtype, copy=True) for tensor in tensors]
        self.add_up(sums)
        return tuple(
            total.to(torch.int64 if tensor.dtype == torch.bool else tensor.dtype)
            for total, tensor in zip(sums, tensors, strict=True)
        )

    def norm(self, norms: Tensor) -> Tensor:
        """Gives the norms of what is spread over the processes, from those of the parts."""
        return norms if self.size == 1 else self.sum(norms.square())[0].sqrt()

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Makes tensors, in place, their sums over the processes; one message for each precision.

        Raises:
            LostRankError: Another process has ended, or did not answer in time.
        """
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            parts = [tensor for tensor in tensors if tensor.dtype == dtype]
            message = torch.cat([part.flatten() for part in parts])
            self.sent += message.nbytes
            with answering():
                dist.all_reduce(message, group=self.group)
            for part, total in zip(parts, torch.split(message, [part.numel() for part in parts]), strict=True):
                part.copy_(total.view(part.shape))

    @contextmanager
    def adding_up(self, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Adds up the gradients that a block forms for tensors; what was in `.grad` before stays a part of it.

        Gives a list for further tensors, which are added up in place in the same message. A tensor that this process
        forms no gradient for counts as one with a gradient of 0.
        """
        others: list[Tensor] = []
        if self.size == 1:
            yield others
            return
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        before = [tensor.grad for tensor in tensors]
        for tensor in tensors:
            tensor.grad = None
        try:
            yield others
            for tensor in tensors:
                tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            self.add_up([*(tensor.grad for tensor in tensors if tensor.grad is not None), *others])
        finally:
            for tensor, gradient in zip(tensors, before, strict=True):
                if gradient is not None:
                    tensor.grad = gradient if tensor.grad is None else gradient.add_(tensor.grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()  # processes cannot be kept: what is read back is alone


SINGLE_PROCESS = ProcessGroup()
