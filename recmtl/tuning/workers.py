"""The processes that train trials, and which search each of them works for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from recmtl.errors import RunError
from recmtl.io.machine import threads_variable
from recmtl.io.processes import end_process, killed_by
from recmtl.tuning.progress import TrialEnd, TuningProgress
from recmtl.tuning.study import Outcome, Proposal, Search

WORKER = (sys.executable, "-m", "recmtl.tuning.worker")
STOP_SECONDS = 5.0  # that a process has to end before it is killed
OUTPUT = "worker-{}.txt"


class Worker:
    """A process that trains one trial at a time.

    Args:
        output: The file to which its notes are added.
        jobs: How many processes share the CPUs.

    Attributes:
        search: The search that it works for; ``None`` if it is idle.
        proposal: The trial that it trains.
    """

    def __init__(self, output: Path, jobs: int) -> None:
        self._output = output
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=os.environ | threads_variable(jobs),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self.replies = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()
        self._ready = False
        self._started = time.monotonic()
        self.search: Search | None = None
        self.proposal: Proposal | None = None

    def start(self, search: Search, proposal: Proposal) -> None:
        """Train a trial."""
        self.search, self.proposal, self._started = search, proposal, time.monotonic()
        self._send((search.runner, proposal.recipe))

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has died, which its end tells
            self._requests.send(message)

    def handle(self) -> Outcome | None:
        """Handle a message; return how the trial ended if it has.

        Raises:
            RunError: The process did not start.
        """
        try:
            kind, *content = self.replies.recv()
        except (EOFError, OSError):
            return self._died()
        if kind == "ready":
            self._ready = True
        elif kind == "evaluation":
            assert self.search is not None
            assert self.proposal is not None
            self._send(self.search.report(self.proposal.number, *content))
        elif kind == "end":
            outcome: Outcome = content[0]
            return outcome
        return None

    def _died(self) -> Outcome:
        status = self._process.wait()
        if not self._ready:
            lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RunError(f"a process for trials did not start: {(lines or ['it said nothing'])[-1].strip()}")
        killed = killed_by(status)
        how = f"was {killed}" if killed else f"ended with status {status}"
        return Outcome(None, time.monotonic() - self._started, f"its process {how}")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process."""
        self._requests.close()
        end_process(self._process, STOP_SECONDS)
        self.replies.close()


class TrialPool:
    """Runs the trials of searches in processes that stay alive from one trial to the next.

    Args:
        searches: The searches by name; one alone may have an empty one.
        jobs: How many trials run at once.
        folder: The folder for the notes of the processes.
        progress: The observer.
        each: How many trials of a search run at once, at most; ``None`` does not limit them.
        after: Called with a search after each of its trials.
    """

    def __init__(
        self,
        searches: Mapping[str, Search],
        jobs: int,
        folder: Path,
        progress: TuningProgress,
        each: int | None = None,
        after: Callable[[Search], None] = lambda search: None,
    ) -> None:
        self._names = {id(search): name for name, search in searches.items()}
        self._searches, self._jobs, self._folder = list(searches.values()), jobs, folder
        self._progress, self._each, self._after = progress, each, after
        self._workers: list[Worker] = []

    def run(self) -> None:
        """Run all trials that are still to be run.

        Raises:
            RunError: A process did not start.
        """
        trials = sum(search.trials for search in self._searches)
        self._progress.begin(trials, trials - sum(search.waiting for search in self._searches))
        try:
            while self._start_trials():
                busy = {worker.replies: worker for worker in self._workers if worker.search is not None}
                for replies in wait(list(busy)):
                    self._handle(busy[replies])  # type: ignore[index]
        finally:
            for worker in self._workers:
                worker.stop()

    def _start_trials(self) -> bool:
        """Start as many trials as may run at once, and return whether any runs."""
        while self._busy < self._jobs and (search := self._next_search()):
            proposal = search.ask()
            if proposal.recipe is None:
                self._end(search, proposal, Outcome(None, 0.0, proposal.error))
            else:
                self._idle_worker().start(search, proposal)
        return self._busy > 0

    @property
    def _busy(self) -> int:
        return sum(worker.search is not None for worker in self._workers)

    def _next_search(self) -> Search | None:
        """Return the first search of which another trial may start."""
        limit = self._jobs if self._each is None else self._each
        return next((s for s in self._searches if s.waiting > 0 and s.running < limit), None)

    def _idle_worker(self) -> Worker:
        for worker in self._workers:
            if worker.search is None:
                return worker
        self._workers.append(Worker(self._folder / OUTPUT.format(len(self._workers)), self._jobs))
        return self._workers[-1]

    def _handle(self, worker: Worker) -> None:
        """Handle a message of a worker; one that has died is replaced when it is needed."""
        outcome = worker.handle()
        if outcome is None:
            return
        search, proposal = worker.search, worker.proposal
        assert search is not None
        assert proposal is not None
        worker.search = worker.proposal = None
        if not worker.alive:
            worker.stop()
            self._workers.remove(worker)
        self._end(search, proposal, outcome)

    def _end(self, search: Search, proposal: Proposal, outcome: Outcome) -> None:
        search.tell(proposal.number, outcome)
        name, monitor = self._names[id(search)], search.record.monitor
        self._progress.finish(TrialEnd(name, proposal.number, proposal.values, outcome, monitor))
        self._after(search)
