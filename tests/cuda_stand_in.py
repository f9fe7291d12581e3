"""A CPU's stand-ins for torch.cuda: capture, memory pools, sync debug mode; streams that work as late as they may."""

from __future__ import annotations

import contextlib
import itertools
import random
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor

from recmtl.data import staging

MODE_WARNING = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"


class CudaStandIn:
    """Takes the place of `torch.cuda` and of its allocator; `torch.cuda.graph` stays torch's own.

    As in torch, a capture that the device refuses to end leaves its pool open, and the allocator frees nothing and
    begins no other capture while one is open.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: list[tuple[int, int]] = []  # pools of captures
        self.users: Counter[tuple[int, int]] = Counter()  # of pools
        self.generator = torch.Generator()
        self.mode: int | str = 0
        self._numbers = itertools.count(1)
        for name in ("get_sync_debug_mode", "set_sync_debug_mode", "empty_cache", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: Stream())
        for name in ("stream", "device"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "default_generators", [GraphsafeGenerator()])
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: CapturedTape(self))
        for name, function in (
            ("_host_emptyCache", lambda: None),
            ("_cuda_endAllocateToPool", self.end_allocate),
            ("_cuda_releasePool", self.release),
        ):
            monkeypatch.setattr(torch._C, name, function, raising=False)

    def get_sync_debug_mode(self) -> int | str:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        warnings.warn(MODE_WARNING, stacklevel=1)
        self.mode = mode

    def empty_cache(self) -> None:
        if self.open:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, next(self._numbers)

    def begin_allocate(self, pool: tuple[int, int]) -> None:
        self.open.append(pool)
        self.users[pool] += 1

    def end_allocate(self, device: int, pool: tuple[int, int]) -> None:
        if pool not in self.open:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open.remove(pool)

    def release(self, device: int, pool: tuple[int, int]) -> None:
        if not self.users[pool]:
            raise AssertionError(f"pool {pool} is released twice")
        self.users[pool] -= 1


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class GraphsafeGenerator:
    def clone_state(self) -> str:
        return "before"

    def graphsafe_set_state(self, state: str) -> None:
        assert state == "before"


class CapturedTape:
    """A CUDA graph whose work is recorded by a tape."""

    def __init__(self, cuda: CudaStandIn) -> None:
        self._cuda = cuda
        self._tape = Tape()
        self._recording = contextlib.ExitStack()
        self._pool: tuple[int, int] | None = None
        self._ended = False

    def capture_begin(self, pool: tuple[int, int] = (1, 0), **_: Any) -> None:
        self._pool = pool
        self._cuda.begin_allocate(pool)
        self._recording.enter_context(self._tape.recording())

    def capture_end(self) -> None:
        assert self._pool is not None
        self._recording.close()
        if self._tape.refused:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nhints follow")
        self._cuda.end_allocate(0, self._pool)
        self._ended = True

    def replay(self) -> None:
        self._tape.replay()

    def pool(self) -> tuple[int, int]:
        if not self._ended or self._pool is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self._pool

    def reset(self) -> None:
        if self._ended and self._pool is not None:
            self._cuda.release(0, self._pool)
        self._ended = False


class LazyDevice:
    """Streams and events of a device that does its work as late as it may, or in a random order that the events allow.

    Takes the place of `torch.cuda` for what copies batches: a copy happens when its stream comes to it, and reads the
    buffer as it is by then.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int | None = None) -> None:
        self._random = random.Random(seed) if seed is not None else None
        self._streams: list[LazyStream] = []
        self.stream = self.new_stream()  # the current one
        self.users: list[LazyStream] = []  # by which copies are used
        self.log: list[str] = []  # what was done, in order
        monkeypatch.setattr(torch.cuda, "Stream", lambda *_: self.new_stream())
        monkeypatch.setattr(torch.cuda, "Event", lambda: LazyEvent(self))
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: self.stream)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))  # no rows fit
        monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: self.users.append(stream))
        monkeypatch.setattr(staging, "pinned", lambda *shape: torch.full(shape, -1, dtype=torch.int32))
        monkeypatch.setattr(staging, "on_device", self.copy)

    def new_stream(self) -> LazyStream:
        self._streams.append(LazyStream())
        return self._streams[-1]

    @contextlib.contextmanager
    def on(self, stream: LazyStream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def copy(self, source: Tensor, device: object) -> Tensor:
        target = torch.full_like(source, -2)
        self.launch("copy", lambda: target.copy_(source))
        return target

    def launch(self, name: str, work: Callable[[], object]) -> None:
        """Add work to the current stream."""
        self.stream.work.append((None, lambda: (self.log.append(name), work())))
        while self._random and self._random.random() < 0.7 and self._advance():
            pass

    def run(self, until: LazyMark | None = None) -> None:
        """Work until a mark is reached, or until all is done."""
        while until is None or not until.reached:
            if not self._advance():
                assert until is None, "the host waits for what is never done"
                return

    def _advance(self) -> bool:
        ready = [s for s in self._streams if s.work and (s.work[0][0] is None or s.work[0][0].reached)]
        if ready:
            (self._random.choice(ready) if self._random else ready[0]).work.popleft()[1]()
        return bool(ready)


class LazyMark:
    reached = False

    def reach(self) -> None:
        self.reached = True


class LazyStream:
    def __init__(self) -> None:
        self.work: deque[tuple[LazyMark | None, Callable[[], object]]] = deque()  # each after a mark is reached

    def wait_event(self, event: LazyEvent) -> None:
        self.work.append((event.mark, lambda: None))


class LazyEvent:
    def __init__(self, device: LazyDevice) -> None:
        self._device = device
        self.mark: LazyMark | None = None  # of the last record

    def record(self, stream: LazyStream) -> None:
        self.mark = LazyMark()
        stream.work.append((None, self.mark.reach))

    def synchronize(self) -> None:
        if self.mark:
            self._device.run(self.mark)
