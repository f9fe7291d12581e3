"""Records as curves of TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.callbacks.records import flatten_numbers, require
from recmtl.io.files import raise_if_disk_full

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """Writes the numbers of all records as event files into the run folder (extra ``tensorboard``).

    A training with a folder has it if the package is installed, unless `RunConfig.tensorboard` is false. When a
    training resumes, older event files no longer count after its checkpoint.

    Raises:
        RunError: The package is not installed.
    """

    def __init__(self) -> None:
        require("tensorboard", self, "tensorboard")
        self._writer: SummaryWriter | None = None
        self._folder = Path()
        self._hook = threading.excepthook

    def on_fit_start(self, context: TrainingContext) -> None:
        """Open an event file."""
        if context.folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # an extra

        self._folder, self._hook = context.folder, threading.excepthook
        threading.excepthook = self._unless_raised_again
        with self._disk_full_named():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(self._folder), purge_step=context.step + 1)

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record."""
        if self._writer:
            with self._disk_full_named():
                for name, value in flatten_numbers(record):
                    self._writer.add_scalar(name, value, record["step"])

    def state_dict(self) -> dict[str, Any]:
        """Wait until all records are in the event file, which is all the state there is."""
        if self._writer:
            with self._disk_full_named():
                self._writer.flush()
        return {}

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        try:
            if writer:
                with self._disk_full_named():
                    writer.close()
        finally:
            threading.excepthook = self._hook

    def _unless_raised_again(self, args: threading.ExceptHookArgs) -> None:
        """Print no traceback of an `OSError` of the thread that writes: its next call raises it again."""
        if not (args.exc_type and issubclass(args.exc_type, OSError)):
            self._hook(args)

    @contextmanager
    def _disk_full_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise_if_disk_full(self._folder, error)
            raise
