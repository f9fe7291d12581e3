"""The processes that ``torchrun`` started: how they meet, and that they end alike."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from recmtl.errors import (
    EXPECTED,
    LostRankError,
    RunError,
    Terminated,
    ToldError,
    UsageError,
    exit_error,
    one_line,
    sendable_error,
)
from recmtl.io.processes import joined_on_error, launched, refuse_launch

MINUTES, LONGEST = 10.0, 365 * 24 * 60.0  # that processes wait for each other
GRACE_SECONDS = 5.0  # that a process waits for the others to read how it ended
POLL_SECONDS = 0.05
OUTCOME, READ = "outcome", "read by {}"  # keys of the store


@contextmanager
def joined(minutes: float = MINUTES) -> Iterator[None]:
    """Initialize `torch.distributed` within a block, if ``torchrun`` started several processes.

    All processes end alike: when the first one leaves the block, or by the first error or signal of any, which is sent
    to the others. If the program has initialized `torch.distributed` itself, nothing is done here.

    Args:
        minutes: How long the processes wait for each other, at the start and in each message.

    Raises:
        UsageError: The minutes are out of range, or the variables of ``torchrun`` are wrong, or own code exits.
        RunError: The processes did not meet in that time.
        KeyboardInterrupt: A signal has ended another process.
        ToldError: Another process prints the error by which all end.
    """
    with joined_on_error():
        if not 0 < minutes <= LONGEST:
            raise UsageError(f"`--timeout` must be a number of minutes above 0, of at most a year, got {minutes}")
    if launched() == 1 or (dist.is_available() and dist.is_initialized()):
        yield
        return
    ending = _Ending(_meet(timedelta(minutes=minutes)), dist.get_rank(), dist.get_world_size())
    try:
        yield
    except (Exception, SystemExit) as error:
        found = ending.after(exit_error(error) if isinstance(error, SystemExit) else error)
        if found is None or found is error:
            raise
        raise found from None
    except BaseException as error:
        try:
            told = ending.tell(error)
        finally:
            _leave(error)
        if told is not None:
            raise told from None
        raise
    found = ending.after(None)
    if found is not None:
        raise found


def _meet(patience: timedelta) -> Store:
    """Initialize `torch.distributed`, and return where its processes leave messages for each other."""
    address = os.environ.get("MASTER_ADDR", "").strip()
    port = os.environ.get("MASTER_PORT", "").strip()
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        refuse_launch(f"MASTER_ADDR is {address!r} and MASTER_PORT {port!r}, expected a host and a port")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=patience))
        store = PrefixStore(_agreed_prefix(store, rank, size, patience), store)
        dist.init_process_group(backend, timeout=patience, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:  # every error of torch.distributed is a RuntimeError
        reason = str(error).partition("\n")[0]
        raise RunError(f"the {launched()} processes did not meet at {address}:{port}: {reason}") from error
    return store


def _agreed_prefix(store: Store, rank: int, size: int, patience: timedelta) -> str:
    """Return a prefix for the keys of a store that all processes agree on, and that no earlier ones have used.

    ``torchrun`` keeps its store when it restarts processes, with the addresses of those that have ended: a process that
    reads them waits in vain. Random names show which entries are those of earlier processes.
    """
    own, deadline = uuid4().hex, time.monotonic() + patience.total_seconds()
    if rank > 0:
        store.set(f"recmtl/{rank}", own)
        prefix: str = store.get(f"recmtl/{own}").decode()  # waits for the first process to answer this one
        store.set(f"recmtl/{prefix}/{rank}", "")
        return prefix
    while not all(store.check([f"recmtl/{own}/{other}"]) for other in range(1, size)):
        for other in range(1, size):
            if store.check([f"recmtl/{other}"]):
                store.set(f"recmtl/{store.get(f'recmtl/{other}').decode()}", own)
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of the {size} processes have come")
        time.sleep(POLL_SECONDS)
    return own


class _Ending:
    """How processes end: by the first error of any, or when the first process is done.

    Args:
        store: Where they leave messages for each other; it is gone when the process that holds it has ended.
        rank: The number of this process.
        size: The number of processes.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size

    def tell(self, own: BaseException) -> BaseException | None:
        """Tell the others of a signal, which may have come to this process alone.

        Returns:
            The signal to another process, if this one was ended after it, as torchrun does; ``None`` otherwise.
        """
        if isinstance(own, KeyboardInterrupt):
            told = KeyboardInterrupt(str(own) or "interrupted")
            vars(told).update(vars(own))  # the exit status
            with suppress(RuntimeError):  # the store is gone
                teller, found = self._set_outcome(told)
                if teller != self._rank and isinstance(found, KeyboardInterrupt) and isinstance(own, Terminated):
                    return self._told(teller, found)
        return None

    def after(self, own: Exception | None) -> BaseException | None:
        """Leave the processes, and return the error by which this one ends, given its own; ``None`` without one."""
        try:
            teller, error = self._outcome(own)
        except RuntimeError:  # the store is gone
            return own
        finally:
            _leave(own)
        if isinstance(error, KeyboardInterrupt):
            return self._told(teller, error) if own is None or isinstance(own, LostRankError) else own
        lost = isinstance(error, LostRankError)
        if (error is None and own is not None) or (lost and teller == self._rank):
            return own  # at once: torchrun ends a process that is left over
        found = self._told(teller, error) if own is None or isinstance(own, LostRankError) else own
        printed_by = teller if lost else 0
        printed = self._is_read() and self._rank != printed_by and (found is not own or str(own) == str(error))
        return ToldError(found) if printed and isinstance(found, (*EXPECTED, LostRankError)) else found

    def _outcome(self, own: Exception | None) -> tuple[int, BaseException | None]:
        """Return which process was the first to end, and its error; one that is done waits for it."""
        while self._rank > 0 and own is None and not self._store.check([OUTCOME]):
            time.sleep(POLL_SECONDS)
        return self._set_outcome(own and sendable_error(own))

    def _set_outcome(self, own: BaseException | None) -> tuple[int, BaseException | None]:
        """Leave an outcome if no other process has; return the first one."""
        message = b64encode(pickle.dumps((self._rank, own))).decode()
        found: tuple[int, BaseException | None] = pickle.loads(b64decode(self._store.compare_set(OUTCOME, "", message)))
        return found

    def _told(self, teller: int, error: BaseException | None) -> BaseException | None:
        """Return the error of another process as this one raises it."""
        if error is None or isinstance(error, LostRankError) or (teller == 0 and isinstance(error, EXPECTED)):
            return error
        who = f"process {teller} of {self._size}"
        if isinstance(error, KeyboardInterrupt):
            error.args = (f"{who}: {error}",)
            return error
        if isinstance(error, EXPECTED):
            return RunError(f"{who}: {one_line(error)}")
        return LostRankError(f"{who} failed: {type(error).__name__}: {error}")

    def _is_read(self) -> bool:
        """Wait until the first process has read the outcome, and in it until all have, but not for long.

        The first one, which may hold the store, is the last to leave it.
        """
        first, *others = (READ.format(rank) for rank in range(self._size))
        if self._rank == 0:
            self._store.set(first, "")
            return self._wait(others)
        read = self._wait([first])
        self._store.set(READ.format(self._rank), "")
        return read

    def _wait(self, keys: list[str]) -> bool:
        """Wait for keys, but not for long; return whether they are there."""
        deadline = time.monotonic() + GRACE_SECONDS
        while not (found := self._store.check(keys)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found


def _leave(error: BaseException | None) -> None:
    """Close the connections, so that a process that waits for this one waits no longer."""
    if error is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, when another process has ended: this one does
    if not dist.is_initialized() or (error is not None and torch.cuda.is_available()):
        return  # NCCL waits for processes that may have ended
    while error is not None:
        traceback.clear_frames(error.__traceback__)  # which hold the connections
        error = error.__cause__ or error.__context__
    dist.destroy_process_group()
