"""Active and passive waiting of OpenMP's threads, on an idle and on a busy machine: python -m benchmarks.waiting

MMOE on AliExpress-shaped rows, trained in a process of its own for each way of waiting, in pairs: alone, and beside a
process that keeps one CPU busy. Shown are the training rows per second, and the median over the pairs of passive over
active. Other work on the machine blurs the rates more than the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

WAITING = ("active", "passive")
BUSY = "while True: pass"


def train(rows: int, threads: int) -> float:
    """Return the training rows per second of one epoch."""
    import torch

    import recmtl
    from benchmarks.generated import BATCH, ENCODER, generated

    torch.set_num_threads(threads)
    data = generated(rows)
    torch.manual_seed(0)
    run = recmtl.RunConfig(device="cpu", progress=False)
    trainer = recmtl.Trainer(
        recmtl.MMOE(data.schema, encoder=ENCODER),
        epochs=1,
        optimization=recmtl.Optimization(batch_size=BATCH),
        run=run,
    )
    return trainer.fit(data.train).result.rows_per_second


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Keep one CPU busy within a block, if wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(waiting: str, rows: int, threads: int) -> float:
    """Train in a new process that waits in one of the ways."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--child", "--rows", str(rows), "--threads", str(threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": waiting, "OMP_NUM_THREADS": str(threads)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--child", action="store_true", help="train once and print the rows per second")
    given = parser.parse_args()
    if given.child:
        print(train(given.rows, given.threads))
        return
    for busy in (False, True):
        pairs = []
        for _ in range(given.pairs):
            with busy_process(busy):
                active, passive = (measure(waiting, given.rows, given.threads) for waiting in WAITING)
            pairs.append((active, passive))
        shown = ", ".join(f"{active:,.0f} and {passive:,.0f}" for active, passive in pairs)
        ratio = statistics.median(passive / active for active, passive in pairs)
        beside = "beside a busy process" if busy else "without one"
        print(f"{beside}: active and passive rows/s {shown}; passive over active {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
