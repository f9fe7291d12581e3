import gc
import threading

import pytest

from recmtl.io.prefetch import prefetch


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_results_keep_the_order_of_the_jobs(threads):
    first = threading.Event()

    def job(i):
        if threads > 1 and i == 0:
            first.wait(10)  # finish after the next job
        first.set() if i == 1 else None
        return i

    assert list(prefetch((lambda i=i: job(i) for i in range(20)), threads)) == list(range(20))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_no_more_jobs_are_taken_than_there_are_threads(threads):
    asked = 0

    def jobs():
        nonlocal asked
        for i in range(20):
            asked += 1
            yield lambda i=i: i

    for i, _ in enumerate(prefetch(jobs(), threads)):
        assert asked <= i + threads + 1


@pytest.mark.parametrize("fails_first", ["the job", "the iterator of jobs"])
def test_the_first_failure_is_raised(fails_first):
    def fail(what):
        raise ValueError(what)

    def jobs():
        yield lambda: 0
        yield (lambda: fail("the job")) if fails_first == "the job" else (lambda: 1)
        fail("the iterator of jobs")

    results = prefetch(jobs(), 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match=fails_first):
        list(results)


def test_closing_does_not_wait_for_jobs_that_run():
    """A job may need a lock that the closing thread holds: that of `threading`, if collected as a thread starts."""
    asked, lock = threading.Event(), threading.Lock()

    def blocked():
        asked.set()
        with lock:
            pass

    results = prefetch([lambda: 0, blocked], 1)
    with lock:
        assert next(results) == 0
        assert asked.wait(10)
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(10)
        hung = closing.is_alive()
    closing.join()
    assert not hung


def test_collected_in_one_of_its_own_threads():
    abandoned, collected = threading.Event(), threading.Event()

    def collect():
        abandoned.wait(10)
        gc.collect()  # an error there fails the test as an unraisable exception
        collected.set()

    results = prefetch([lambda: 0, collect], 1)
    assert next(results) == 0
    cycle = [results]
    cycle.append(cycle)
    gc.disable()
    try:
        del results, cycle
        abandoned.set()
        assert collected.wait(10)
    finally:
        gc.enable()
