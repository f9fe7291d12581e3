import threading

import pytest

from recmtl.io.prefetch import prefetch


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_the_order_of_the_jobs(threads):
    first = threading.Event()

    def job(i):
        if threads > 1 and i == 0:
            first.wait(10)  # finish after the next job
        first.set() if i == 1 else None
        return i

    assert list(prefetch((lambda i=i: job(i) for i in range(20)), threads)) == list(range(20))


@pytest.mark.parametrize("threads", [1, 3])
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
