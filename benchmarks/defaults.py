"""The search of the defaults: each choice alone, on rows of training files alone: python -m benchmarks.defaults DATA …

The data sets are named as in `benchmarks.trees`. Of each only the training rows are used: their first 80 % to fit, the
next tenth to stop, the last tenth to compare. Each line is the default but for what it names; `--only` takes some of
them. `--json` records the table, which the docs show. `--cost` times a step on rows in the layout of AliExpress,
instead, beside a step that reads numbers by their standardized value and categories by embeddings of width 16.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks.generated import BATCH, ENCODER, generated
from benchmarks.tree_data import TreeData
from benchmarks.trees import loaded, named
from recmtl.data import Loader
from recmtl.features import (
    FeatureEncoder,
    PeriodicEmbeddings,
    PiecewiseLinearEmbeddings,
    SplineEmbeddings,
)
from recmtl.recipe.environment import environment
from recmtl.schema.features import NumericTransform
from recmtl.train import Step

STYLE, OPTIMIZATION, STOPPING = recmtl.LayerStyle(), recmtl.Optimization(), recmtl.EarlyStopping()


@dataclass(frozen=True)
class Choices:
    """What the search varies; each default is that of the library."""

    schema: Callable[[recmtl.Schema], recmtl.Schema] = lambda schema: schema
    model: Callable[..., recmtl.RankingModel] = recmtl.MMOE
    encoder: Callable[..., FeatureEncoder] = FeatureEncoder
    style: recmtl.LayerStyle = STYLE
    optimization: recmtl.Optimization = OPTIMIZATION
    stopping: recmtl.EarlyStopping = STOPPING
    trainer: Mapping[str, Any] = field(default_factory=dict)


def numbers(transform: NumericTransform) -> Callable[[recmtl.Schema], recmtl.Schema]:
    """Return the change of a schema that gives all numbers one transform."""

    def change(schema: recmtl.Schema) -> recmtl.Schema:
        changed = [replace(f, transform=transform) if isinstance(f, recmtl.Numeric) else f for f in schema.features]
        return replace(schema, features=changed)

    return change


def adam(rate: float = 1e-3, decay: float = 0.0) -> recmtl.Optimization:
    """Return options with another learning rate, or with AdamW's weight decay."""
    return recmtl.Optimization(optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=decay))


LINES: Mapping[str, Choices] = {
    "the defaults": Choices(),
    # How numbers and categories are read.
    "numbers standardized": Choices(schema=numbers("standardize")),
    "numbers by quantiles": Choices(schema=numbers("quantile")),
    "piecewise linear encoding, 32 bins": Choices(encoder=partial(FeatureEncoder, numeric=PiecewiseLinearEmbeddings)),
    "numbers standardized, periodic embeddings": Choices(
        schema=numbers("standardize"), encoder=partial(FeatureEncoder, numeric=PeriodicEmbeddings)
    ),
    "splines of width 1": Choices(encoder=partial(FeatureEncoder, numeric=partial(SplineEmbeddings, width=1))),
    "splines of width 2": Choices(encoder=partial(FeatureEncoder, numeric=partial(SplineEmbeddings, width=2))),
    "splines of width 4": Choices(encoder=partial(FeatureEncoder, numeric=partial(SplineEmbeddings, width=4))),
    "splines of width 8": Choices(encoder=partial(FeatureEncoder, numeric=partial(SplineEmbeddings, width=8))),
    "every category of width 16": Choices(encoder=partial(FeatureEncoder, width=16)),
    "every category of width 4": Choices(encoder=partial(FeatureEncoder, width=4)),
    # The network.
    "shared bottom": Choices(model=recmtl.SharedBottom),
    "8 experts": Choices(model=partial(recmtl.MMOE, experts=8)),
    "experts [128, 64], towers [32]": Choices(model=partial(recmtl.MMOE, layers=(128, 64), tower_layers=(32,))),
    "dropout 0.1": Choices(style=replace(STYLE, dropout=0.1)),
    "dropout 0.2": Choices(style=replace(STYLE, dropout=0.2)),
    "dropout 0.3": Choices(style=replace(STYLE, dropout=0.3)),
    "dropout 0.4": Choices(style=replace(STYLE, dropout=0.4)),
    "batch normalization": Choices(style=replace(STYLE, normalization="batch")),
    "TabM, 4 networks": Choices(style=replace(STYLE, ensemble=4)),
    "TabM, 8 networks, experts [64, 64], towers [32]": Choices(
        style=replace(STYLE, ensemble=8), model=partial(recmtl.MMOE, layers=(64, 64), tower_layers=(32,))
    ),
    # The training.
    "weights not averaged": Choices(optimization=recmtl.Optimization(ema=0.0)),
    "average of decay 0.99": Choices(optimization=recmtl.Optimization(ema=0.99)),
    "batches of 128": Choices(optimization=recmtl.Optimization(batch_size=128)),
    "batches of 256": Choices(optimization=recmtl.Optimization(batch_size=256)),
    "batches of 512": Choices(optimization=recmtl.Optimization(batch_size=512)),
    "batches of 1024": Choices(optimization=recmtl.Optimization(batch_size=1024)),
    "batches of 2048": Choices(optimization=recmtl.Optimization(batch_size=2048)),
    "learning rate 0.0003": Choices(optimization=adam(3e-4)),
    "learning rate 0.002": Choices(optimization=adam(2e-3)),
    "learning rate 0.003": Choices(optimization=adam(3e-3)),
    "learning rate 0.005": Choices(optimization=adam(5e-3)),
    "rate 0.002, dropout 0.1": Choices(optimization=adam(2e-3), style=replace(STYLE, dropout=0.1)),
    "rate 0.003, dropout 0.2": Choices(optimization=adam(3e-3), style=replace(STYLE, dropout=0.2)),
    "rate 0.003, dropout 0.3": Choices(optimization=adam(3e-3), style=replace(STYLE, dropout=0.3)),
    "weight decay 0.01": Choices(optimization=adam(decay=0.01)),
    "weight decay 0.1": Choices(optimization=adam(decay=0.1)),
    "cosine schedule, no early stopping": Choices(
        optimization=recmtl.Optimization(schedule="cosine"), stopping=replace(STOPPING, patience=None)
    ),
    "4 evaluations an epoch": Choices(stopping=replace(STOPPING, evaluations=4)),
    "patience 1": Choices(stopping=replace(STOPPING, patience=1)),
    "5 epochs": Choices(trainer={"epochs": 5}),
}


@dataclass(frozen=True)
class Line:
    """What one choice gives on one data set: AUC by task, seed by seed, seconds of a fit, parameters."""

    auc: Mapping[str, Sequence[float]]
    seconds: float
    parameters: int


def inner(data: TreeData) -> TreeData:
    """Cut the training rows in three, in their order; the other rows of a data set are left out."""
    rows = data.train
    first, second = len(rows) * 8 // 10, len(rows) * 9 // 10
    stop, compared = (part.reset_index(drop=True) for part in (rows[first:second], rows[second:]))
    return replace(data, train=rows[:first], stop=stop, measured=compared, groups=None, bayes={})


def measure(data: TreeData, choices: Choices, seeds: int) -> Line:
    """Train a choice for each seed, and measure it on the rows kept for comparing."""
    tasks = [recmtl.Task(name, label) for name, label in data.tasks.items()]
    schema = choices.schema(recmtl.Schema.infer(data.train, tasks))
    prepared = recmtl.prepare(schema, data.train, data.stop, data.measured)
    auc: dict[str, list[float]] = {task: [] for task in data.tasks}
    start, parameters = time.perf_counter(), 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = choices.model(prepared.schema, style=choices.style, encoder=choices.encoder)
        run = recmtl.RunConfig(seed=seed, progress=False, device="cpu")
        trainer = recmtl.Trainer(
            model, optimization=choices.optimization, stopping=choices.stopping, run=run, **choices.trainer
        )
        measured = trainer.fit(prepared.train, prepared.valid).predictor.measure(prepared.test)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        for task, found in auc.items():
            found.append(measured[task].values["auc"] or math.nan)
    return Line(auc, (time.perf_counter() - start) / seeds, parameters)


def record(file: Path, name: str, rows: TreeData, lines: Mapping[str, Line], seeds: int, command: str) -> None:
    """Write the lines of a data set into a file that may hold others."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": {}}
    content |= {"command": command, "machine": environment()[:2]}
    before = content["results"].get(name, {}).get("lines", {})
    content["results"][name] = {
        "title": rows.title,
        "rows": {part: len(frame) for part, frame in rows.frames().items()},
        "seeds": seeds,
        "lines": before | {choice: asdict(line) for choice, line in lines.items()},
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def step_costs(repetitions: int) -> dict[str, dict[str, float]]:
    """Return by model and method what a step costs beside one without splines, widths by ids and averaged weights."""
    data = generated(20 * BATCH)
    rows = [batch for batch in Loader(data.train, BATCH, seed=0).epoch() if len(batch) == BATCH]
    before = recmtl.Optimization(batch_size=BATCH, ema=0.0)
    costs = {}
    for model, method in (
        (recmtl.MMOE, recmtl.Sum),
        (recmtl.MMOE, recmtl.MetaBalance),
        (recmtl.SharedBottom, recmtl.Sum),
    ):
        steps, sizes = [], []
        for encoder, options in ((ENCODER, before), (FeatureEncoder, recmtl.Optimization(batch_size=BATCH))):
            torch.manual_seed(0)
            built, balancer = model(data.schema, encoder=encoder), method()
            recmtl.Trainer(built, balancer, run=recmtl.RunConfig(device="cpu", progress=False))
            steps.append(Step(built, balancer, options, 10**6))
            sizes.append(sum(parameter.numel() for parameter in built.parameters()))
        ratios = []
        for i in range(repetitions):
            seconds = []
            for step in steps:
                start = time.perf_counter()
                step(rows[i % len(rows)])
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        costs[f"{model.__name__}, {method.__name__}"] = {
            "ratio": statistics.median(ratios),
            "parameters before": sizes[0],
            "parameters": sizes[1],
        }
    return costs


def show(results: Mapping[str, Mapping[str, Line]]) -> None:
    """Print the mean AUCs, a column per data set and task."""
    table = Table(
        "choice", *(f"{name} {task}" for name, lines in results.items() for task in next(iter(lines.values())).auc)
    )
    for choice in next(iter(results.values())):
        means = [f"{statistics.mean(a):.4f}" for lines in results.values() for a in lines[choice].auc.values()]
        table.add_row(choice, *means)
    Console(width=150).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="NAME [PLACE]", help="census, adult, aliexpress, movielens")
    parser.add_argument("--only", nargs="+", choices=LINES, metavar="LINE", help="some of the lines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="of each part, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("defaults"), help="folder that keeps generated rows")
    parser.add_argument("--cost", type=int, metavar="N", help="time N steps")
    parser.add_argument("--json", type=Path, help="file to record in")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.cost:
        for name, cost in step_costs(given.cost).items():
            print(name, "  ".join(f"{what} {value:,.4g}" for what, value in cost.items()))
        return
    try:
        places = named(given.data, None)
    except ValueError as error:
        parser.error(str(error))
    lines = {name: choice for name, choice in LINES.items() if given.only is None or name in given.only}
    results: dict[str, dict[str, Line]] = {}
    for data in loaded(places, False, given.cache):
        rows = inner(data if given.rows is None else data.head(given.rows))
        results[data.name] = {}
        for name, choices in lines.items():
            line = results[data.name][name] = measure(rows, choices, given.seeds)
            means = "  ".join(f"{task} {statistics.mean(found):.4f}" for task, found in line.auc.items())
            print(
                f"{data.name:11s} {name:40s} {means}  {line.seconds:.0f} s  {line.parameters:,} parameters", flush=True
            )
        if given.json:
            record(given.json, data.name, rows, results[data.name], given.seeds, "python -m benchmarks.defaults")
    show(results)


if __name__ == "__main__":
    main()
