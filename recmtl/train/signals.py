"""Signals that ask a training to stop: the step is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequested(KeyboardInterrupt):
    """A training was asked to stop, and can stop here."""


class StopSignals:
    """Notes within a block that SIGINT, SIGTERM or SIGHUP asked to stop; a further SIGINT stops at once.

    Only the main thread gets signals: in others, nothing is noted. A signal that the process ignores stays ignored.

    Args:
        wanted: Whether to note anything.

    Attributes:
        signal: What asked to stop; ``None`` while nothing did.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int] = {}
        self.signal: signal.Signals | None = None
        self._breakable = False

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Asked: It was.
        """
        if self.signal is not None:
            raise StopRequested

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Stop anywhere within a block, which is begun anew when the training goes on.

        Raises:
            Asked: That was asked for, before or within.
        """
        self._breakable = True
        try:
            self.check()
            yield
        finally:
            self._breakable = False

    def __enter__(self) -> Self:
        for number in ASKING if self._wanted else ():
            before = signal.getsignal(number)
            if before not in (None, signal.SIG_IGN):
                assert before is not None
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)
        if self._breakable:
            self._breakable = False
            raise StopRequested
