"""CUDA graphs: a training step recorded once, and replayed by a single launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recmtl.data import Batch

WARM_UP_STEPS = 3  # before the record: libraries, optimizers and balancers initialize in them
SYNC_WARNING = "called a synchronizing CUDA operation"  # of torch
KNOWN_PACKAGES = ("recmtl", "torch")  # the control flow of their modules depends on no tensor value
HOOKS = (  # attributes of modules, parameters and optimizers that hold hooks
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
)


class Graph(Protocol):
    """Device work that can be recorded and replayed."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work in the way in which it will be recorded."""

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work without doing it; return the tensor that each replay writes. May raise a `RuntimeError`."""

    def replay(self) -> None:
        """Do the recorded work."""


class CudaGraph:
    """A CUDA graph, which keeps its memory reserved."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._waits: list[warnings.WarningMessage] = []

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work on a separate stream, and note where the host waits for the device."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        before = torch.cuda.get_sync_debug_mode()
        with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self._stream)
        self._waits = [warning for warning in caught if SYNC_WARNING in str(warning.message)]
        for warning in caught:
            if warning not in self._waits:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return result

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work as a graph."""
        for wait in self._waits:
            raise RuntimeError(f"the host waits for the device at {wait.filename}:{wait.lineno}")
        with torch.cuda.device(self._device):
            graph, generator = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
            before = generator.clone_state()
            try:
                # The outer block resets the stream even if recording fails.
                with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
                    result = work()
            except BaseException:
                generator.graphsafe_set_state(before)  # which would otherwise expect further recording
                raise
        self._graph = graph
        return result

    def replay(self) -> None:
        """Launch the graph."""
        assert self._graph is not None
        with torch.cuda.device(self._device):
            self._graph.replay()


class GraphedStep:
    """Runs a few steps as they are, then records one, and replays the graph from then on.

    A graph repeats device operations, not the Python code around them: all control flow and state of the step must be
    in tensors that are updated in place. The graph is for batches of the shape of the first one; others are run
    without it. If recording fails, all steps are run without it, with one warning that says why.
    """

    def __init__(self, step: Callable[[Batch], Tensor], graph: Graph) -> None:
        self._step, self._graph = step, graph
        self._warm_ups = 0
        self._failed = False
        self._inputs: Batch | None = None  # of the graph
        self._result: Tensor | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step."""
        if self._inputs is None:
            self._inputs = copy_batch(batch)
        if self._failed or not same_layout(self._inputs, batch):
            return self._step(batch)
        if self._warm_ups < WARM_UP_STEPS:
            self._warm_ups += 1
            return self._graph.warm_up(lambda: self._step(batch))
        if self._result is None:
            self._result = self._record(self._inputs)
        if self._result is None:
            return self._step(batch)
        for own, given in zip(tensors_of(self._inputs), tensors_of(batch), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()

    def _record(self, inputs: Batch) -> Tensor | None:
        try:
            return self._graph.record(lambda: self._step(inputs))
        except RuntimeError as error:
            self._failed = True
            reason = str(error).splitlines()[0]
            warnings.warn(f"the step is not recorded, each of its operations is launched: {reason}", stacklevel=4)
            return None


def recordable(modules: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> bool:
    """Return whether a step is known to fit into a graph.

    It is if all modules and optimizers are recmtl's and torch's, without hooks, and the optimizers can keep their step
    counts on the device.
    """
    parts = [*(m for module in modules for m in module.modules()), *optimizers]
    parameters = [p for module in modules for p in module.parameters()]
    known = all(type(part).__module__.split(".")[0] in KNOWN_PACKAGES for part in parts)
    steady = all(type(o) is torch.optim.SGD or "capturable" in o.defaults for o in optimizers)
    hooked = any(getattr(part, name, None) for part in (*parts, *parameters) for name in HOOKS)
    return known and steady and not hooked


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch."""
    tensors = (batch.ids, batch.numeric, batch.labels, batch.weight, batch.sampling_weight)
    return [tensor for tensor in tensors if tensor is not None]


def copy_batch(batch: Batch) -> Batch:
    """Copy a batch."""
    weight, sampling = (None if w is None else w.clone() for w in (batch.weight, batch.sampling_weight))
    return Batch(batch.ids.clone(), batch.numeric.clone(), batch.labels.clone(), weight, sampling_weight=sampling)


def same_layout(a: Batch, b: Batch) -> bool:
    """Return whether two batches have the same shapes and types."""
    return [(t.shape, t.dtype) for t in tensors_of(a)] == [(t.shape, t.dtype) for t in tensors_of(b)]
