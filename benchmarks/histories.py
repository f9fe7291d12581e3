"""Time a step on rows with a history: target attention against mean pooling, and short lists against a long longest.

    python -m benchmarks.histories

One thread, CPU time. All configurations take turns in one run, so that what else the machine does falls on all of them;
what is printed is the median of the ratios.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

import recmtl
from recmtl.data import Batch, IdLists, Loader
from recmtl.train import Step

ITEMS, CONTEXT, NUMBERS = 20_000, 16, 8  # as in rows of AliExpress: 16 categories
LONGEST = 50


def rows_of(count: int, mean: int | None) -> pd.DataFrame:
    """Return rows with a history of exactly 50 items, or of `mean` ones on average with a longest of 50."""
    rng = np.random.default_rng(0)
    lengths = np.full(count, LONGEST) if mean is None else np.minimum(rng.geometric(1 / mean, count), LONGEST)
    lengths[0] = LONGEST
    columns: dict[str, object] = {f"c{i}": rng.integers(0, 1000, count) for i in range(CONTEXT)}
    columns |= {f"x{i}": rng.normal(size=count) for i in range(NUMBERS)}
    columns |= {"item": rng.integers(0, ITEMS, count).astype(str), "click": rng.integers(0, 2, count)}
    columns["seen"] = [list(map(str, rng.integers(0, ITEMS, length))) for length in lengths]
    return pd.DataFrame(columns | {"buy": rng.integers(0, 2, count)})


def schema_of(pooling: str) -> recmtl.Schema:
    """Return the schema with a pooling of the history."""
    target = "item" if pooling == "target_attention" else None
    history = recmtl.MultiCategorical("seen", share_with="item", pooling=pooling, target=target)  # type: ignore[arg-type]
    categories = [recmtl.Categorical(f"c{i}") for i in range(CONTEXT)]
    numbers = [recmtl.Numeric(f"x{i}") for i in range(NUMBERS)]
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
    return recmtl.Schema([recmtl.Categorical("item"), history, *categories, *numbers], tasks)


def padded(batch: Batch) -> Batch:
    """Return the batch with each list repeated to the longest, as padded storage would look it up."""
    (own,) = batch.lists
    place = own.offsets[:-1, None] + torch.arange(LONGEST) % own.offsets.diff()[:, None]
    values = own.values[place.flatten()]
    lists = IdLists.of_lengths(values, torch.full((len(batch),), LONGEST))
    return dataclasses.replace(batch, lists=(lists,))


def steps(
    frame: pd.DataFrame, pooling: str, model: str, size: int, change: Callable[[Batch], Batch]
) -> Callable[[], float]:
    """Return a function that takes a step and returns its seconds."""
    data = recmtl.prepare(schema_of(pooling), frame, holdout=0)
    torch.manual_seed(0)
    built = getattr(recmtl, model)(data.schema)
    trainer = recmtl.Trainer(built, run=recmtl.RunConfig(device="cpu", progress=False))
    step = Step(built, trainer.balancer, recmtl.Optimization(batch_size=size), 1000)
    batches = [change(batch) for batch in Loader(data.train, size, seed=0).epoch() if len(batch) == size]
    turn = iter(range(1 << 30))

    def timed() -> float:
        batch = batches[next(turn) % len(batches)]
        start = time.process_time()
        step(batch)
        return time.process_time() - start

    return timed


def main() -> None:
    """Print the milliseconds of each configuration, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=["SharedBottom", "MMOE"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    long, short = rows_of(4 * options.size, None), rows_of(4 * options.size, 10)
    for model in options.models:
        cases = {
            "mean, 50": steps(long, "mean", model, options.size, lambda batch: batch),
            "self-attention, 50": steps(long, "self_attention", model, options.size, lambda batch: batch),
            "target attention, 50": steps(long, "target_attention", model, options.size, lambda batch: batch),
            "mean, 10 of 50": steps(short, "mean", model, options.size, lambda batch: batch),
            "mean, 10 of 50, padded": steps(short, "mean", model, options.size, padded),
            "target attention, 10 of 50": steps(short, "target_attention", model, options.size, lambda batch: batch),
        }
        found: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(options.rounds + 2):
            for name, timed in cases.items():
                seconds = timed()
                if turn > 1:
                    found[name].append(seconds)
        for name, times in found.items():
            speed = statistics.median(a / b for a, b in zip(found["mean, 50"], times, strict=True))
            ms = 1000 * statistics.median(times)
            print(f"{model:14} {name:28} {ms:8.1f} ms   {speed:5.2f} × the speed of mean pooling at 50")


if __name__ == "__main__":
    main()
