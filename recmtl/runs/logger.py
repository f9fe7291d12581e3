"""What a training measures, written down as it goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from recmtl.runs.folder import RunFolder

if TYPE_CHECKING:
    from recmtl.runs.events import Events


class MetricLogger:
    """Writes records to `metrics.jsonl` and, where the extra `tensorboard` is installed, to event files beside it.

    Args:
        folder: The run folder; ``None`` writes nothing.
        tensorboard: Whether event files are wanted.
        done: The steps after which a stopped run goes on: what event files say of later ones no longer holds.
    """

    def __init__(self, folder: RunFolder | None, tensorboard: bool, done: int = 0) -> None:
        self._folder = folder
        self._events = event_writer(folder, done) if folder and tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events:
            self._events.close()

    def flush(self) -> None:
        """Hand over what event files still lack."""
        if self._events:
            self._events.flush()

    def write(self, step: int, epoch: int, content: Mapping[str, Any]) -> None:
        """Write down what was measured after a step."""
        if self._folder:
            self._folder.log({"step": step, "epoch": epoch, **content})
        if self._events:
            for name, value in numbers(content):
                self._events.add(name, value, step)


def event_writer(folder: RunFolder, done: int = 0) -> Events | None:
    """Open an event file in a run folder; ``None`` without TensorBoard."""
    if find_spec("tensorboard") is None:
        return None
    from recmtl.runs.events import Events  # an extra

    folder.path.mkdir(parents=True, exist_ok=True)
    return Events(folder.path, done)


def numbers(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Walk the finite numbers of nested records, by the path to each: `diagnosis/cosine/ctr·cvr`."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield prefix + name, value
