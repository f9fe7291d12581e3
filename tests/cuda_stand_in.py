"""A CPU's stand-in for what torch does for CUDA graphs: streams, capture, memory pools, and the sync debug mode."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from tape import Tape

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
