"""The log of a run: `metrics.jsonl`, and event files for TensorBoard."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from recmtl.io.files import raise_if_disk_full
from recmtl.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricLogger:
    """The log of a run in `metrics.jsonl` and, if the extra `tensorboard` is installed, in event files beside it.

    Older event files no longer count after `done` steps. Without a folder nothing is written.
    """

    def __init__(self, folder: RunFolder | None, tensorboard: bool, done: int = 0) -> None:
        self._folder = folder
        self._purge_step = done + 1
        self._tensorboard = tensorboard and find_spec("tensorboard") is not None
        self._writer: SummaryWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._folder and self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            with ExitStack() as stack, self._disk_full_named():
                stack.enter_context(_unprinted_thread_errors())
                self._folder.path.mkdir(parents=True, exist_ok=True)
                self._writer = SummaryWriter(str(self._folder.path), purge_step=self._purge_step)
                self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack, self._disk_full_named():
            if self._writer:
                self._writer.close()

    def flush(self) -> None:
        """Wait until all records are in the event files."""
        if self._writer:
            with self._disk_full_named():
                self._writer.flush()

    def write(self, step: int, epoch: int, content: Mapping[str, Any]) -> None:
        """Write what was measured after a step."""
        if self._folder:
            self._folder.log({"step": step, "epoch": epoch, **content})
        if self._writer:
            with self._disk_full_named():
                for name, value in flatten_numbers(content):
                    self._writer.add_scalar(name, value, step)

    @contextmanager
    def _disk_full_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            assert self._folder is not None
            raise_if_disk_full(self._folder.path, error)
            raise


@contextmanager
def _unprinted_thread_errors() -> Iterator[None]:
    """Keep threads from printing a traceback of an `OSError`: the event writer raises it again at its next call."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else hook(args)
    try:
        yield
    finally:
        threading.excepthook = hook


def flatten_numbers(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of nested records, each with the path to it: `diagnosis/cosine/ctr·cvr`."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield prefix + name, value
