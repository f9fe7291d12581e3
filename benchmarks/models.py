"""Parameters and step of each model over SharedBottom's: python -m benchmarks.models [--layers 256 128] [--steps 30]

AliExpress-shaped rows (16 categorical and 63 numeric columns, 2 tasks, 4 domains), batch 2,048, one thread. CPU
seconds. Models have experts of the same layers, and their default numbers of them; interactions stand before
SharedBottom. They take turns, step by step; ratios are medians of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

import recmtl
from benchmarks.generated import BATCH, ENCODER, batches, generated
from recmtl.train import Step

MODELS: Mapping[str, Any] = {
    "SharedBottom": recmtl.SharedBottom,
    "OMoE": recmtl.OMoE,
    "MMOE": recmtl.MMOE,
    "CGC (PLE with one level)": partial(recmtl.PLE, levels=1),
    "PLE": recmtl.PLE,
    "STEM": recmtl.STEM,
    "STAR": recmtl.STAR,
    "PEPNet": recmtl.PEPNet,
}
INTERACTIONS: Mapping[str, Any] = {
    "CrossLayers": recmtl.CrossLayers,
    "CrossLayers of rank 32": partial(recmtl.CrossLayers, rank=32),
    "GatedCrossLayers": recmtl.GatedCrossLayers,
    "FinalMLP": recmtl.FinalMLP,
    "MaskNet": recmtl.MaskNet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--balancer", default="Sum")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = generated(20_000, domain="categorical_2")
    given = batches(data, data.schema, 9)
    steps, counts = {}, {}
    encoders = {name: partial(ENCODER, interaction=block) for name, block in INTERACTIONS.items()}
    for name in (*MODELS, *INTERACTIONS):
        torch.manual_seed(0)
        build, encoder = MODELS.get(name, recmtl.SharedBottom), encoders.get(name, ENCODER)
        model = build(data.schema, layers=arguments.layers, encoder=encoder)
        run = recmtl.RunConfig(device="cpu", progress=False)
        trainer = recmtl.Trainer(model, getattr(recmtl, arguments.balancer)(), run=run)
        steps[name] = Step(model, trainer.balancer, recmtl.Optimization(batch_size=BATCH), arguments.steps)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.steps + 3):
        for name, step in steps.items():
            start = time.process_time()
            step(given[turn % len(given)])
            if turn >= 3:  # to warm up
                seconds[name].append(time.process_time() - start)
    base = seconds["SharedBottom"]
    for name, times in seconds.items():
        ratio = statistics.median(own / other for own, other in zip(times, base, strict=True))
        milliseconds = 1000 * statistics.median(times)
        print(f"{name}: {counts[name]:,} parameters, {milliseconds:.1f} ms, {ratio:.2f} times SharedBottom")


if __name__ == "__main__":
    main()
