"""What bfloat16 products cost in AUC: python -m benchmarks.precision [--json FILE]

MMOE trains on generated AliExpress-shaped rows in fp32 and in bf16, from the same weights on the same batches, over
several seeds; the difference of the test AUC is paired by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from recmtl.data.synthetic.generate import synthesize
from recmtl.recipe.environment import environment
from recmtl.train.options import Precision


def auc(data: recmtl.PreparedData, seed: int, precision: Precision) -> dict[str, float]:
    """The test AUC of each task."""
    torch.manual_seed(seed)
    options = recmtl.Optimization(precision=precision)
    run = recmtl.RunConfig(seed=seed, progress=False, device="cpu")
    trainer = recmtl.Trainer(recmtl.MMOE(data.schema), recmtl.Sum(), epochs=3, optimization=options, run=run)
    measured = trainer.fit(data.train, data.valid).predictor.measure(data.splits["test"])
    return {name: metrics.values["auc"] or 0.0 for name, metrics in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), arguments.rows, click_rate=0.10, conversion_rate=0.25)
        train, valid, test = (f"{folder}/{name}.csv" for name in ("train", "valid", "test"))
        data = recmtl.prepare(recmtl.card("aliexpress"), train, valid, test)
    found = [{p: auc(data, seed, p) for p in ("fp32", "bf16")} for seed in range(arguments.seeds)]
    table = Table(f"test AUC over {arguments.seeds} seeds", "fp32", "bf16", "bf16 − fp32", "by seed")
    for name in found[0]["fp32"]:
        differences = [seed["bf16"][name] - seed["fp32"][name] for seed in found]
        means = [f"{statistics.fmean(seed[p][name] for seed in found):.4f}" for p in ("fp32", "bf16")]
        each = " ".join(f"{d:+.4f}" for d in differences)
        table.add_row(name, *means, f"{statistics.fmean(differences):+.5f}", each)
    Console(width=120).print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.precision", "machine": environment(), "seeds": found}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
