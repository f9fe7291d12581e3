"""Signals that stop a training: after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop, and this is a place to stop at."""


class StopSignals:
    """Catches SIGINT, SIGTERM and SIGHUP within a block; a second SIGINT stops at once.

    Python delivers signals to the main thread: in others, this does nothing. Ignored signals stay ignored.

    Attributes:
        signal: The first signal; ``None`` before.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int] = {}
        self.signal: signal.Signals | None = None
        self._interruptible = False

    def check(self) -> None:
        """Raise `StopRequested` if a signal came."""
        if self.signal is not None:
            raise StopRequested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt a block anywhere with `StopRequested`; the block starts anew when resumed."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS if self._enabled else ():
            before = signal.getsignal(number)
            if before not in (None, signal.SIG_IGN):
                assert before is not None
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)
        if self._interruptible:
            self._interruptible = False
            raise StopRequested
