"""A CPU's stand-in for a CUDA graph: it records the operations of a step on tensors, and does them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Tape(TorchDispatchMode):
    """Repeats, operation by operation, what was computed while it recorded, on the very same tensors.

    As in a CUDA graph all numbers of Python are those of the recording, results lie where they lay then, a look at a
    value is refused, and recording leaves everything as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self.rehearsed = self.replayed = 0
        self.refused = False
        self._made: set[int] = set()  # the storages of what was computed while recording
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # of what was there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if REFUSED & set(func.tags):
            self.refused = True
            raise RuntimeError("operation not permitted when a tape is recording")
        for storage in storages((args, kwargs)):
            if storage.data_ptr() not in self._made | self._before.keys():
                self._before[storage.data_ptr()] = storage, storage.clone()
        result = func(*args, **(kwargs or {}))
        self._made |= {storage.data_ptr() for storage in storages(result)} - self._before.keys()
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        self.rehearsed += 1
        return work()

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        with self.recording():
            return work()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is computed in the block, and leave everything as it was."""
        with torch.random.fork_rng(devices=[]):
            try:
                with self:
                    yield
            finally:
                for storage, before in self._before.values():
                    storage.copy_(before)

    def replay(self) -> None:
        self.replayed += 1
        with torch.no_grad():
            for func, args, kwargs, before in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
