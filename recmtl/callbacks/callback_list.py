"""The callbacks of a training, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from recmtl.callbacks.base import Callback
from recmtl.callbacks.metrics_file import MetricsFile
from recmtl.callbacks.tensorboard import TensorBoard
from recmtl.errors import DataError, RunError, UsageError, shown

PLAIN = (bool, int, float, str, Tensor, type(None))  # what a checkpoint may hold, beside lists and mappings


class CallbackList:
    """Calls callbacks in their order, and remembers the first that raised; the others are still called.

    Args:
        callbacks: The callbacks.

    Attributes:
        stop_reason: Why a callback asked to stop; ``None`` if none did.
        failure: What the first exception of a callback was, in a sentence; ``None`` if there was none.
        cause: That exception.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._failed: set[int] = set()
        self.stop_reason: str | None = None
        self.failure: str | None = None
        self.cause: BaseException | None = None

    @classmethod
    def of_process(cls, callbacks: Sequence[Callback], first: bool, folder: Path | None, tensorboard: bool) -> Self:
        """Return the callbacks of a process: the user's in the first of several, and those of its run folder.

        Args:
            callbacks: The user's callbacks.
            first: Whether this is the first process.
            folder: The run folder; ``None`` if there is none.
            tensorboard: Whether event files are wanted in the run folder, if TensorBoard is installed.
        """
        loggers: list[type[Callback]] = [MetricsFile] if folder else []
        loggers += [TensorBoard] if folder and tensorboard and find_spec("tensorboard") else []
        own = [logger() for logger in loggers if logger not in map(type, callbacks)]
        return cls([*own, *callbacks] if first else [])

    def stop(self, reason: str) -> None:
        """Ask to stop after the current step."""
        self.stop_reason = self.stop_reason or str(reason)

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of each callback that overrides it and has not failed."""
        for callback in self._callbacks:
            overridden = getattr(type(callback), method) is not getattr(Callback, method)
            if overridden and id(callback) not in self._failed:
                self._guarded(callback, method, getattr(callback, method), *arguments)

    def close(self) -> None:
        """Let all callbacks release what they hold."""
        for callback in self._callbacks:
            self._guarded(callback, "close", callback.close)

    def state_dict(self) -> list[list[Any]]:
        """Return the name and the state of each callback; one that cannot say its state has failed."""
        states = [(type(c).__name__, self._guarded(c, "state_dict", _checked_state, c)) for c in self._callbacks]
        return [[name, state] for name, state in states if state]

    def load_state_dict(self, saved: Sequence[Sequence[Any]], note: Callable[[str], None]) -> None:
        """Load states by the names of callbacks; note one of which there is no callback any more."""
        left = list(saved)
        for callback in self._callbacks:
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                self._guarded(callback, "load_state_dict", callback.load_state_dict, found[1])
        for name, _ in left:
            note(f"the checkpoint has a state of {name}, which is not among the callbacks: it is left out")

    def _guarded(self, callback: Callback, method: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's callback raises, also SystemExit
            self._failed.add(id(callback))
            if self.failure is None:
                own = isinstance(error, DataError | RunError | UsageError)
                reason = str(error) if own else f"{type(error).__name__}: {error}"
                self.failure = f"the callback {type(callback).__name__} failed in `{method}`: {reason}"
                self.cause = error
            return None


def _checked_state(callback: Callback) -> dict[str, Any]:
    state = callback.state_dict()
    wrong = [value for value in _values_in(state) if not isinstance(value, PLAIN)]
    if not isinstance(state, dict) or wrong:
        found = shown(wrong[0] if wrong else state)
        raise ValueError(f"a state must be a mapping of numbers, text, lists, mappings and tensors, got {found}")
    return state


def _values_in(state: Any) -> Iterable[Any]:
    if isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _values_in(value)
    else:
        yield state


def checked_callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return callbacks as a tuple; raise a `ValueError` if an entry is no callback."""
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    for callback in given:
        if not isinstance(callback, Callback):
            raise ValueError(f"`callbacks` must hold callbacks such as `recmtl.PrintMetrics()`, got {shown(callback)}")
    return tuple(given)
