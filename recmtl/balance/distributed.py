"""Several processes that share each batch: sums over all of them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recmtl.balance.backward import pop_gradients, zeros_if_none
from recmtl.balance.shared import SharedTensor
from recmtl.errors import LostRankError, sendable_error

Value = TypeVar("Value")


@contextmanager
def explain_lost_rank() -> Iterator[None]:
    """Turn the error of a failed message between processes into a `LostRankError`, which names the cause."""
    try:
        yield
    except RuntimeError as error:
        text = str(error) or type(error).__name__
        reason = re.sub(r"^\[\S+\] ", "", text.splitlines()[0]).partition(". ")[0]  # without gloo's place and advice
        raise LostRankError(f"another process has ended, or did not answer in time: {reason}") from error


class ProcessGroup:
    """The processes that share each batch; by default this one alone, which sends nothing.

    Each process computes on its own rows. Its loss is the sum over them, divided by the number of valid rows in the
    *whole* batch, so that losses and gradients add up to those of one process with the whole batch. All processes call
    the same methods in the same order.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
        sent: The bytes that this process has sent so far.

    Args:
        group: A process group of `torch.distributed`, such as `torch.distributed.group.WORLD`.

    Raises:
        LostRankError: By every method, if another process has ended, or did not answer in time.

    Example:
        >>> import torch
        >>> ProcessGroup().sum(torch.ones(2), torch.tensor(3))
        (tensor([1., 1.]), tensor(3))
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        # The default group is not held: one that outlives `destroy_process_group` may abort the process as it ends,
        # when a thread of gloo frees a tensor after Python has gone.
        self._is_world = group is not None and group is dist.group.WORLD
        self._group = None if self._is_world else group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.sent = 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The process group of `torch.distributed`; None for this process alone."""
        return dist.group.WORLD if self._is_world else self._group

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the files."""
        return self.rank == 0

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the sums of tensors over the processes, in one message; of booleans, how many are true."""
        if self.size == 1:
            return tensors
        dtype = tensors[0].dtype if len({tensor.dtype for tensor in tensors}) == 1 else torch.float64
        dtype = dtype if dtype.is_floating_point else torch.float64
        sums = [tensor.detach().to(dtype, copy=True) for tensor in tensors]
        self.all_reduce(sums)
        return tuple(
            total.to(torch.int64 if tensor.dtype == torch.bool else tensor.dtype)
            for total, tensor in zip(sums, tensors, strict=True)
        )

    def norm(self, norms: Tensor) -> Tensor:
        """Return the norms of tensors whose rows are spread over the processes, from the norms of the local rows."""
        return norms if self.size == 1 else self.sum(norms.square())[0].sqrt()

    @torch.no_grad()
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the processes, in place; one message per dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            parts = [tensor for tensor in tensors if tensor.dtype == dtype]
            message = torch.cat([part.flatten() for part in parts])
            self.sent += message.nbytes
            with explain_lost_rank():
                dist.all_reduce(message, group=self.group)
            for part, total in zip(parts, torch.split(message, [part.numel() for part in parts]), strict=True):
                part.copy_(total.view(part.shape))

    @torch.no_grad()
    def all_to_all(self, tensor: Tensor, given: Sequence[int], taken: Sequence[int]) -> Tensor:
        """Send rows of dimension 0 to each process, and return the rows from all of them in the order of their ranks.

        Args:
            tensor: The rows, those for process 0 first.
            given: How many of them each process gets.
            taken: How many rows this process gets from each.

        Raises:
            ValueError: If `given` is not the number of rows for each process.
        """
        if len(given) != self.size or len(taken) != self.size or sum(given) != len(tensor):
            expected = f"{len(tensor)} rows for {self.size} processes"
            raise ValueError(f"`given` and `taken` must count {expected}, got {list(given)} and {list(taken)}")
        if self.size == 1:
            return tensor
        found = tensor.new_empty(sum(taken), *tensor.shape[1:])
        self.sent += tensor.nbytes
        with explain_lost_rank():
            dist.all_to_all_single(found, tensor.contiguous(), list(taken), list(given), group=self.group)
        return found

    @torch.no_grad()
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, in the order of their ranks; they may differ in length (dimension 0).

        Each process sends as many rows as the longest tensor has.
        """
        if self.size == 1:
            return [tensor]
        lengths = [int(length) for length in self._gather(torch.tensor([len(tensor)], device=tensor.device))]
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        return [found[:length] for found, length in zip(self._gather(padded), lengths, strict=True)]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, which have one shape."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self.sent += tensor.nbytes
        with explain_lost_rank():
            dist.all_gather(found, tensor, group=self.group)
        return found

    @explain_lost_rank()
    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process, in place."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, src=0, group=self.group)

    @explain_lost_rank()
    def broadcast_object(self, value: Value) -> Value:
        """Return the value that the first process has."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def in_first(self, work: Callable[[], Value]) -> Value:
        """Return in all processes what a function returns in the first one, or raise its error.

        Raises:
            Exception: What the function raises; one that cannot be sent is a `RuntimeError` in the other processes.
        """
        if self.size == 1:
            return work()
        found, failure = None, None
        try:
            found = work() if self.first else None
        except Exception as error:
            failure = error
        found, told = self.broadcast_object((found, failure and sendable_error(failure)))
        if told is not None:
            raise told if failure is None else failure
        return cast(Value, found)

    @explain_lost_rank()
    def all_gather_object(self, value: Value) -> list[Value]:
        """Return the values of all processes, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.group)
        return values

    @contextmanager
    def reduce_gradients(self, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Sum the gradients that the block computes over the processes, then add those that were there before.

        Yields a list to which the block can append further tensors, which are summed in place in the same message. A
        tensor without a gradient in this process counts as one with a gradient of 0.
        """
        others: list[Tensor] = []
        if self.size == 1:
            yield others
            return
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        before = pop_gradients(tensors)
        try:
            yield others
            gradients = zeros_if_none([tensor.grad for tensor in tensors], tensors)
            self.all_reduce([*gradients, *others])
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor.grad = gradient
        finally:
            for tensor, earlier in zip(tensors, before, strict=True):
                if earlier is not None:
                    tensor.grad = earlier if tensor.grad is None else earlier.add_(tensor.grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()  # a process group cannot be pickled: a copy is a single process


SINGLE_PROCESS = ProcessGroup()


def all_processes() -> ProcessGroup:
    """Return the processes of `torch.distributed`; this one alone if it is not initialized."""
    return ProcessGroup(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else SINGLE_PROCESS


def to_sum(tensors: Iterable[SharedTensor]) -> list[Tensor]:
    """Return the tensors whose gradients are summed over the processes: those of exchanged rows are whole."""
    return [shared.tensor for shared in tensors if shared.exchanged is None]


def gradients_to_sum(gradients: Iterable[Iterable[Tensor | None]], tensors: Sequence[SharedTensor]) -> list[Tensor]:
    """Return those of the gradients of all tasks that are summed over the processes."""
    pairs = (pair for task in gradients for pair in zip(tensors, task, strict=True))
    return [gradient for shared, gradient in pairs if gradient is not None and shared.exchanged is None]


def exchanges(tensors: Iterable[SharedTensor]) -> list[Tensor]:
    """Return the exchanged rows, through which the backward passes of all processes go."""
    return [shared.exchanged for shared in tensors if shared.exchanged is not None]


def check_parallel(balancer: nn.Module, processes: ProcessGroup, additive: bool) -> None:
    """Check that no wrapper of the model sums gradients over processes that were balanced process by process.

    Raises:
        RuntimeError: If the model is in a `DistributedDataParallel` or `DataParallel`, or several processes run and the
            balancer was not told. The plain sum, which is `additive`, may be in the first.
    """
    name = type(balancer).__name__
    if getattr(balancer, "_is_replica", False):  # set by torch
        raise RuntimeError(f"`DataParallel` loses the state of {name}: start one process per device instead")
    if not (dist.is_available() and dist.is_initialized()) or (additive and processes.size == 1):
        return
    if getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
        found = "`DistributedDataParallel` sums the gradients itself"
    elif processes is SINGLE_PROCESS and dist.get_world_size() > 1:
        found = f"{dist.get_world_size()} processes run, but the balancer knows of one"
    else:
        return
    raise RuntimeError(
        f"{found}, so that {name} would balance a part of the batch: use the bare model, and set "
        "`balancer.processes = ProcessGroup(torch.distributed.group.WORLD)`; `ProcessGroup()` if each trains alone"
    )
