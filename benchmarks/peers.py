"""End-to-end training speed beside a peer, in one run: python -m benchmarks.peers [--json FILE]

The same MMOE (4 experts [256, 128], towers [64], width 16, batch normalisation in experts, towers and gates) is trained
for one epoch on the same generated rows (16 categorical and 63 numeric columns, 2 tasks), batch 2,048, Adam, by this
project's trainer and by torch-rechub's, from arrays in memory to updated weights. They take turns; medians are quoted.

Needs the extra `bench`: pip install -c constraints.txt -e '.[bench]'
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from recmtl.data.synth import synthesize
from recmtl.recipe import environment

EXPERTS, LAYERS, TOWER, WIDTH, BATCH = 4, [256, 128], [64], 16, 2048
PEER = "torch-rechub"


def generated(rows: int) -> recmtl.PreparedData:
    """Rows in the layout of AliExpress: so many to train on."""
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), rows * 10 // 8)
        return recmtl.prepare(recmtl.card("aliexpress"), f"{folder}/train.csv", holdout=0.0)


def ours(data: recmtl.PreparedData, normalization: str) -> float:
    """Train one epoch with this project; give the seconds."""
    style = recmtl.LayerStyle(normalization=normalization)  # type: ignore[arg-type]
    model = recmtl.MMOE(data.schema, EXPERTS, LAYERS, TOWER, style)
    optimization = recmtl.Optimization(batch_size=BATCH)
    trainer = recmtl.Trainer(model, epochs=1, optimization=optimization, run=recmtl.Run(progress=False, device="cpu"))
    start = time.perf_counter()
    trainer.fit(data.train)
    return time.perf_counter() - start


def peer(data: recmtl.PreparedData) -> float:
    """Train one epoch with torch-rechub; give the seconds."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    packed = data.train.packed()
    ids, numbers = data.schema.id_columns, len(data.schema.numeric)
    floats = packed[:, ids:].view(torch.float32)
    sparse = [SparseFeature(b.feature.name, b.size, WIDTH) for b in data.schema.id_blocks]
    dense = [DenseFeature(f.name) for f in data.schema.numeric]
    x = {f.name: packed[:, i].long().numpy() for i, f in enumerate(sparse)}
    x |= {f.name: floats[:, i].numpy().copy() for i, f in enumerate(dense)}
    model = MMOE(
        sparse + dense,
        ["classification"] * 2,
        EXPERTS,
        {"dims": LAYERS, "activation": "relu"},
        [{"dims": TOWER, "activation": "relu"}] * 2,
    )
    trainer = MTLTrainer(model, ["classification"] * 2, optimizer_params={"lr": 1e-3}, n_epoch=1)
    loader, *_ = DataGenerator(x, floats[:, numbers:].numpy().copy()).generate_dataloader(
        x_val=x, y_val=x["categorical_1"], x_test=x, y_test=x["categorical_1"], batch_size=BATCH
    )
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        trainer.train_one_epoch(loader)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    data = generated(arguments.rows)
    contenders: dict[str, Callable[[], float]] = {
        "recmtl, batch normalisation": lambda: ours(data, "batch"),
        "recmtl, no normalisation": lambda: ours(data, "none"),
        PEER: lambda: peer(data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.repetitions):
        for name, run in contenders.items():
            seconds[name].append(run())
    report(seconds, arguments.rows, arguments.json)


def report(seconds: dict[str, list[float]], rows: int, file: Path | None) -> None:
    """Print rows/s and ratios; write them where a file is named."""
    table = Table("one epoch, end to end", "rows/s", "least", "most", f"over {PEER}")
    results = {}
    for name, times in seconds.items():
        speeds = [rows / t for t in times]
        ratio = statistics.median(p / t for t, p in zip(times, seconds[PEER], strict=True))
        table.add_row(
            name, f"{statistics.median(speeds):,.0f}", f"{min(speeds):,.0f}", f"{max(speeds):,.0f}", f"{ratio:.2f}"
        )
        results[name] = {"rows_per_second": speeds, "median": statistics.median(speeds), "ratio": ratio}
    Console().print(table)
    if file:
        machine = [*environment(), platform.machine()]
        content = {"command": "python -m benchmarks.peers", "machine": machine, "rows": rows, "results": results}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
