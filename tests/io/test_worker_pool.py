"""Processes that work for this one end with it."""

import signal
from types import FrameType
from typing import Any

import pytest

from recmtl.io.worker_pool import WorkerPool


class Interrupted(dict[Any, Any]):
    """Processes at work, to which one is to be added just as an interrupt comes."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise KeyboardInterrupt


def hang(number: int, frame: FrameType | None) -> None:
    raise AssertionError("the processes are waited for in vain")


def give_work(pool: WorkerPool) -> None:
    with pool:
        pool._busy = Interrupted()
        next(pool.map(abs, [-1]))


def test_an_interrupt_while_work_is_given_leaves_no_process() -> None:
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(30)
    pool = WorkerPool(2, "math")
    try:
        with pytest.raises(KeyboardInterrupt):
            give_work(pool)
        assert pool._process.poll() is not None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if pool._process.poll() is None:
            pool._kill()
