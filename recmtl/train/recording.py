"""A step on a GPU as one graph: recorded once, replayed without a launch per operation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recmtl.data import Batch

REHEARSALS = 3  # steps before one is recorded: libraries, optimizers and balancers set themselves up in them
OWN = ("recmtl", "torch")  # packages whose modules choose by tensors and options alone


class Graph(Protocol):
    """Work on a device that can be repeated."""

    def rehearse(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work as it will be recorded."""

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work without doing it; give the tensor that each replay writes its result to.

        Raises:
            RuntimeError: The work cannot be recorded.
        """

    def replay(self) -> None:
        """Do the work once more."""


class CudaGraph:
    """A CUDA graph; what it computes in stays reserved."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._waits: list[warnings.WarningMessage] = []

    def rehearse(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work on a stream of its own, and note where the host waits for the device."""
        self._stream.wait_stream(torch.cuda.current_stream())
        before = torch.cuda.get_sync_debug_mode()
        with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._waits = [warning for warning in caught if "synchronizing" in str(warning.message)]
        for warning in caught:
            if warning not in self._waits:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return result

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record what the work launches."""
        for wait in self._waits:
            raise RuntimeError(f"the host waits for the device at {wait.filename}:{wait.lineno}")
        # The stream comes to its end also where recording fails.
        with torch.cuda.stream(self._stream), torch.cuda.graph(self._graph, stream=self._stream):
            return work()

    def replay(self) -> None:
        """Launch all of it at once."""
        self._graph.replay()


class RecordedStep:
    """Takes a few steps as they are, then records one, and replays the record from then on.

    A record repeats what was computed, not the Python code around it: it fits a step whose every choice and every
    state lies in tensors that are changed in place. Batches of another shape than the recorded one are computed as
    they are; so are all where recording fails, with one warning that says why.

    Args:
        step: From a batch to a tensor.
        graph: Records and replays.
    """

    def __init__(self, step: Callable[[Batch], Tensor], graph: Graph) -> None:
        self._step, self._graph = step, graph
        self._rehearsals = 0
        self._failed = False
        self._inputs: Batch | None = None
        self._result: Tensor | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step."""
        if self._failed:
            return self._step(batch)
        if self._rehearsals < REHEARSALS:
            self._rehearsals += 1
            return self._graph.rehearse(lambda: self._step(batch))
        if self._inputs is None:
            self._record(batch)
        if self._result is None or self._inputs is None or not alike(self._inputs, batch):
            return self._step(batch)
        for mine, given in zip(tensors(self._inputs), tensors(batch), strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._result.clone()

    def _record(self, batch: Batch) -> None:
        weight = None if batch.weight is None else batch.weight.clone()
        self._inputs = inputs = Batch(batch.ids.clone(), batch.numeric.clone(), batch.labels.clone(), weight)
        try:
            self._result = self._graph.record(lambda: self._step(inputs))
        except RuntimeError as error:
            self._failed = True
            reason = str(error).splitlines()[0]
            warnings.warn(f"the step is not recorded, each of its operations is launched: {reason}", stacklevel=4)


def recordable(modules: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> bool:
    """Whether nothing in a step is known to choose by anything but tensors: no module of one's own, no other optimizer.

    Args:
        modules: The model, with the balancer in it.
        optimizers: Those that the step takes.
    """
    own = (type(m).__module__.split(".")[0] in OWN for module in modules for m in module.modules())
    steady = (isinstance(optimizer, torch.optim.SGD) or "capturable" in optimizer.defaults for optimizer in optimizers)
    return all(own) and all(steady)


def tensors(batch: Batch) -> list[Tensor]:
    """Give what a batch consists of."""
    return [t for t in (batch.ids, batch.numeric, batch.labels, batch.weight) if t is not None]


def alike(a: Batch, b: Batch) -> bool:
    """Whether two batches have the same shapes."""
    return [t.shape for t in tensors(a)] == [t.shape for t in tensors(b)]
