"""CUDA graphs: a training step recorded once, and replayed by a single launch."""

from __future__ import annotations

import gc
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recmtl.data import Batch, IdLists

WARM_UP_STEPS = 3  # before the record: libraries, optimizers and balancers initialize in them
SYNC_WARNING = "called a synchronizing CUDA operation"  # of torch
MODE_WARNING = "Synchronization debug mode is a prototype feature"  # of torch, when the mode is set for the first time
LIBRARIES = (str(Path(torch.__file__).parent), str(Path(warnings.__file__)))  # their frames do not explain a failure
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


Layout = tuple[tuple[torch.Size, torch.dtype] | None, ...]  # of a batch


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
        self._waits: list[str] = []  # where the host waited in the last warm-up

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work on a separate stream, and note where the host waits for the device."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), noted_waits() as waits:
            result = work()
        current.wait_stream(self._stream)
        self._waits = waits
        return result

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work as a graph."""
        for place in self._waits:
            raise RuntimeError(f"the host waits for the device {place}")
        gc.collect()  # graphs in garbage: memory for this one, and none is destroyed while it is recorded
        with torch.cuda.device(self._device):
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            before = generator.clone_state()
            try:
                # The outer block resets the stream even if recording fails.
                with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    result = work()
            except BaseException:
                generator.graphsafe_set_state(before)  # which would otherwise expect further recording
                _release(graph, pool)
                raise
        self._graph = graph
        return result

    def replay(self) -> None:
        """Launch the graph."""
        assert self._graph is not None
        with torch.cuda.device(self._device):
            self._graph.replay()


def _release(graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
    """Release the memory pool of a recording that failed, so that the allocator stops recording into it.

    If the device refuses to end a record, torch leaves the pool open: `empty_cache` and later records would fail.
    """
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # torch has ended it
        torch._C._cuda_endAllocateToPool(device, pool)
    try:
        graph.pool()
    except RuntimeError:  # the graph was never finished, and does not release the pool itself
        with suppress(RuntimeError):  # recording failed before it used the pool
            torch._C._cuda_releasePool(device, pool)
    graph.reset()


@contextmanager
def noted_waits() -> Iterator[list[str]]:
    """Note the places at which the host waits for the device within the block; other warnings are given after it."""
    waits: list[str] = []
    others: list[tuple[Warning | str, type[Warning], str, int]] = []

    def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        if SYNC_WARNING in str(message):
            waits.append(own_place(traceback.walk_stack(None)))
        else:
            others.append((message, category, filename, lineno))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        with sync_debug_mode("warn"):
            yield waits
    for message, category, filename, lineno in others:
        warnings.warn_explicit(message, category, filename, lineno)


@contextmanager
def sync_debug_mode(mode: Literal["warn", "error"]) -> Iterator[None]:
    """Warn, or raise a `RuntimeError`, if the host waits for the GPU within the block."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode(mode)
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: str | int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MODE_WARNING)
        torch.cuda.set_sync_debug_mode(mode)


class GraphedStep:
    """Runs a few steps as they are, then records one, and replays the graph from then on.

    A graph repeats device operations, not the Python code around them: all control flow and state of the step must be
    in tensors that are updated in place. The graph is for batches of the layout that first occurs `WARM_UP_STEPS`
    times, wherever in an epoch a training starts; others are run without it. If recording fails, all steps are run
    without it, with one warning that says why.
    """

    def __init__(self, step: Callable[[Batch], Tensor], graph: Graph) -> None:
        self._step, self._graph = step, graph
        self._warm_ups: Counter[Layout] = Counter()
        self._layout: Layout | None = None  # of the batches that are recorded
        self._failed = False
        self._inputs: Batch | None = None  # of the graph
        self._result: Tensor | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step."""
        layout = layout_of(batch)
        if self._failed or self._layout not in (None, layout):
            return self._step(batch)
        if self._layout is None:
            self._warm_ups[layout] += 1
            if self._warm_ups[layout] == WARM_UP_STEPS:
                self._layout = layout
            return self._graph.warm_up(lambda: self._step(batch))
        if self._inputs is None:
            self._inputs = copy_batch(batch)
            self._result = self._record(self._inputs)
        if self._result is None:
            return self._step(batch)
        for own, given in zip(tensors_of(self._inputs), tensors_of(batch), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()

    def _record(self, inputs: Batch) -> Tensor | None:
        def work() -> Tensor:
            return self._step(inputs)

        try:
            return self._graph.record(work)
        except RuntimeError as error:
            self._failed = True
            warnings.warn(
                f"the step is not recorded, each of its operations is launched: {reason_of(error, work)}", stacklevel=4
            )
            return None


def reason_of(error: BaseException, work: Callable[[], Tensor]) -> str:
    """Return the first line of an error, and where it was raised; of several, the one that ended the work.

    Ending a record that failed raises a second error, which says nothing of the first.
    """
    chained, reason = error, error
    while chained.__context__ is not None:
        chained = chained.__context__
        if any(frame.f_code is work.__code__ for frame, _ in traceback.walk_tb(chained.__traceback__)):
            reason = chained
            break
    frames = reversed(list(traceback.walk_tb(reason.__traceback__)))
    text = (str(reason) or type(reason).__name__).splitlines()[0]
    return f"{text} ({place})" if (place := own_place(frames, until=work.__code__)) else text


def own_place(frames: Iterable[tuple[FrameType, int]], until: CodeType | None = None) -> str:
    """Return function, file and line of the first of the frames, innermost first, that is not a library's.

    The frame that runs the code `until`, and those outside, are not looked at: the place is then "".
    """
    for frame, line in frames:
        if frame.f_code is until:
            return ""
        if not frame.f_code.co_filename.startswith((*LIBRARIES, __file__)):
            return f"in {frame.f_code.co_name}, {frame.f_code.co_filename}:{line}"
    return ""


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
    return [tensor for tensor in batch.tensors if tensor is not None]


def copy_batch(batch: Batch) -> Batch:
    """Copy a batch."""
    return batch.mapped(torch.clone, lambda own: IdLists(own.values.clone(), own.offsets.clone()))


def layout_of(batch: Batch) -> Layout:
    """Return the shapes and types of a batch's tensors, None for those that it lacks."""
    return tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in batch.tensors)
