"""Seconds and memory of the metrics beside scikit-learn's: python -m benchmarks.metrics [--json FILE]

Rows are generated, three in a hundred positive, in searches of ten rows on the average. Each line is a process of its
own; *MiB* is the most that it held while it measured, less what it held before, labels, predictions and groups among
it. Seconds are those of the processor, of which each uses one core, so that what else runs there does not count.
scikit-learn has no AUC by group: a loop calls its `roc_auc_score` group by group, on a part of the groups, and its
seconds are scaled up to all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import expit
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from benchmarks.memory import MEBI, forget, held
from recmtl.evaluate import Scores, metrics_of
from recmtl.recipe.environment import environment
from recmtl.schema import Task

ROWS, PER_GROUP = 10_000_000, 10
LOOPED = 5_000  # groups that scikit-learn measures one by one
Found = dict[str, float]


def generated(rows: int) -> Scores:
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.03).astype(float)
    groups = rng.integers(0, max(rows // PER_GROUP, 1), rows)
    return Scores(Task("click", "click"), labels, expit(rng.normal(size=rows) + labels - 3.5), groups=groups)


def named(*names: str) -> Callable[[Scores], Found]:
    """Measure these, and nothing else."""
    return lambda scores: {name: value or 0.0 for name, value in metrics_of(scores, names=names).values.items()}


def group_by_group(scores: Scores) -> Found:
    """The impression-weighted mean of the groups whose numbers are below `LOOPED`."""
    assert scores.groups is not None
    part = np.flatnonzero(scores.groups < LOOPED)
    rows = part[np.argsort(scores.groups[part], kind="stable")]
    total = seen = 0.0
    for block in np.split(rows, np.flatnonzero(np.diff(scores.groups[rows])) + 1):
        if 0 < scores.labels[block].sum() < len(block):
            total += len(block) * roc_auc_score(scores.labels[block], scores.predictions[block])
            seen += len(block)
    return {"gauc": total / seen}


WORK: dict[str, Callable[[Scores], Found]] = {
    "AUC": named("auc"),
    "AUC, scikit-learn": lambda scores: {"auc": roc_auc_score(scores.labels, scores.predictions)},
    "AUC, average precision, log-loss": named("auc", "pr_auc", "logloss"),
    "AUC, average precision, log-loss, scikit-learn": lambda scores: {
        "auc": roc_auc_score(scores.labels, scores.predictions),
        "pr_auc": average_precision_score(scores.labels, scores.predictions),
        "logloss": log_loss(scores.labels, scores.predictions),
    },
    "AUC by group": named("gauc"),
    "AUC by group, scikit-learn in a loop": group_by_group,
    "all metrics": lambda scores: {name: value or 0.0 for name, value in metrics_of(scores).values.items()},
}
LOOP = "AUC by group, scikit-learn in a loop"


def measure(name: str, rows: int) -> dict[str, object]:
    """Seconds and mebibytes of one piece of work, and what it found."""
    scores = generated(rows)
    metrics_of(generated(1000))  # imports and first calls
    before = held("VmRSS")
    forget()
    start = time.process_time()
    found = WORK[name](scores)
    seconds = time.process_time() - start
    result: dict[str, object] = {"seconds": seconds, "mebibytes": (held("VmHWM") - before) / MEBI, "found": found}
    if name == LOOP:
        groups = max(rows // PER_GROUP, 1)
        part = min(LOOPED, groups) / groups
        result |= {"seconds": seconds / part, "measured_part": part}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--one", choices=list(WORK), help="measure one line in this process")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.rows)))
        return
    table = Table(f"{arguments.rows:,} rows", "seconds", "MiB", "found")
    results = {}
    for name in WORK:
        command = [sys.executable, "-m", "benchmarks.metrics", "--rows", str(arguments.rows), "--one", name]
        row = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        results[name] = row
        found = " ".join(f"{value:.4f}" for value in row["found"].values())
        table.add_row(name, f"{row['seconds']:,.1f}", f"{row['mebibytes']:,.0f}", found)
    Console(width=140).print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.metrics", "machine": environment(), "rows": arguments.rows}
        arguments.json.write_text(json.dumps(content | {"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
