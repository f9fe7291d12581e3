"""A process that trains one trial after the other, as its parent asks: `python -m recmtl.tuning.worker`.

Messages are pickled tuples over standard input and output. It ends when its parent does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from recmtl.tuning.trials import RemoteTrial, TrialRunner


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    incoming, outgoing = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a user's code prints is no message
    requests: SimpleQueue[Any] = SimpleQueue()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())

    def receive() -> None:
        while True:
            try:
                requests.put(incoming.recv())
            except (EOFError, OSError):
                os._exit(0)  # even during a training, if the parent was killed

    threading.Thread(target=receive, daemon=True).start()
    runners: dict[type[TrialRunner], TrialRunner] = {}
    outgoing.send(("ready",))
    while True:
        kind, recipe = requests.get()
        runners[kind] = runners.get(kind) or kind()
        outgoing.send(("end", runners[kind].run(recipe, RemoteTrial(outgoing, requests))))


if __name__ == "__main__":
    main()
