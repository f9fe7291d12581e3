"""Speed beside a peer and beside a flat step written by hand, in one run: python -m benchmarks.peers [--json FILE]

All tables take half an hour. `--only` names those to measure; `--quick` measures on fewer rows and repetitions, enough
to see that nothing has become much slower, and is never recorded.

AliExpress-shaped rows (16 categorical and 63 numeric columns, 2 tasks), batch 2,048, Adam, MMOE with 4 experts [256,
128], towers [64], width 16; PLE with two levels of one expert per task and two shared ones; AITM. Within each table all
contenders take turns, repetition by repetition; medians are quoted, and ratios are medians of the ratios within a
repetition. The peer, torch-rechub, has batch normalisation in experts, towers and gates; this project is measured with
and without it. Products of float32 matrices go through the library that the trainer chooses on this machine; the
setting is undone while the peer runs. With MetaBalance torch-rechub's trainer crashes: its balancing class is called
directly. TorchJD's PCGrad and the RotoGrad of its authors stand beside this project's on the same layers, without batch
normalisation.

Needs the extra `bench`: pip install -c constraints.txt -e '.[bench]'
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks import others, rechub
from benchmarks.flat import FlatStep
from benchmarks.generated import ALL_LARGE, BATCH, ENCODER, SMALL, TWO_LARGE, batches, generated, with_vocabularies
from recmtl.data import Batch
from recmtl.recipe.environment import environment
from recmtl.schema import FittedSchema
from recmtl.train import Step
from recmtl.train.device import onednn_is_exact, use_onednn
from recmtl.train.options import Precision

PEER, TORCHJD, ROTOGRAD = "torch-rechub", "TorchJD", "rotograd"
VOCABULARIES = {"200 rows": SMALL, "4 M in two columns": TWO_LARGE, "4 M in all columns": ALL_LARGE}
Contenders = Mapping[str, Callable[[], object]]
StepsOf = Callable[[FittedSchema, Sequence[Batch]], Callable[[], object]]
Seconds = dict[str, list[float]]


COUNTS: Mapping[str, dict[str, Any]] = {
    "MMOE": {"experts": rechub.EXPERTS},
    "PLE": {
        "levels": rechub.LEVELS,
        "task_experts": rechub.TASK_EXPERTS,
        "shared_experts": rechub.SHARED_EXPERTS,
    },
    "AITM": {},
}


def trainer(schema: FittedSchema, normalization: str, precision: Precision, name: str = "MMOE") -> recmtl.Trainer:
    torch.manual_seed(0)
    style = recmtl.LayerStyle(normalization=normalization)  # type: ignore[arg-type]
    sizes = {"layers": rechub.LAYERS, "tower_layers": rechub.TOWER}
    model = getattr(recmtl, name)(schema, **sizes, **COUNTS[name], style=style, encoder=ENCODER)
    optimization = recmtl.Optimization(batch_size=BATCH, precision=precision)
    return recmtl.Trainer(
        model, epochs=1, optimization=optimization, run=recmtl.RunConfig(progress=False, device="cpu")
    )


def steps(
    schema: FittedSchema,
    given: Iterable[Batch],
    precision: Precision = "fp32",
    balancer: str = "Sum",
    model: Callable[[FittedSchema], recmtl.RankingModel] = recmtl.MMOE,
) -> Callable[[], object]:
    """This project's step on batches that lie in memory, without normalisation."""
    torch.manual_seed(0)
    options = recmtl.Optimization(batch_size=BATCH, precision=precision)
    made = recmtl.Trainer(model(schema), getattr(recmtl, balancer)(), run=recmtl.RunConfig(device="cpu"))
    step, ready = Step(made.model, made.balancer, options, 1), itertools.cycle(given)
    return lambda: step(next(ready))


def flat_steps(schema: FittedSchema, given: Iterable[Batch], bf16: bool) -> Callable[[], object]:
    step, ready = FlatStep(schema, bf16), itertools.cycle(given)
    return lambda: step(next(ready))


def end_to_end(data: recmtl.PreparedData, peer: rechub.EndToEnd) -> Contenders:
    """One epoch, from rows in memory to updated weights."""

    def train(normalization: str, precision: Precision) -> Callable[[], object]:
        return lambda: trainer(data.schema, normalization, precision, peer.name).fit(data.train)

    return {
        "recmtl fp32": train("none", "fp32"),
        "recmtl fp32, batch normalisation": train("batch", "fp32"),
        "recmtl bf16": train("none", "bf16"),
        "recmtl bf16, batch normalisation": train("batch", "bf16"),
        PEER: peer.train,
    }


def evaluation(data: recmtl.PreparedData, peer: rechub.EndToEnd) -> Contenders:
    """Predictions of all rows, and the AUC of each task."""

    def evaluate(normalization: str, precision: Precision) -> Callable[[], object]:
        made = trainer(data.schema, normalization, precision)
        return lambda: made.predictor.measure(data.train)

    return {
        "recmtl fp32": evaluate("none", "fp32"),
        "recmtl fp32, batch normalisation": evaluate("batch", "fp32"),
        "recmtl bf16": evaluate("none", "bf16"),
        "recmtl bf16, batch normalisation": evaluate("batch", "bf16"),
        PEER: peer.evaluate,
    }


def floor(data: recmtl.PreparedData) -> Contenders:
    """The step beside one written by hand."""
    given = batches(data, data.schema, 20)
    return {
        "recmtl fp32": steps(data.schema, given),
        "flat fp32": flat_steps(data.schema, given, bf16=False),
        "recmtl bf16": steps(data.schema, given, "bf16"),
        "flat bf16": flat_steps(data.schema, given, bf16=True),
        PEER: rechub.steps(data.schema, given),
    }


def vocabulary(data: recmtl.PreparedData, balancer: str) -> Contenders:
    """The step with 200 rows in the tables, and with 4 million in two columns or in all."""
    peers: dict[str, tuple[str, StepsOf]] = {
        "Sum": (PEER, rechub.steps),
        "MetaBalance": (PEER, partial(rechub.steps, metabalance=True)),
        "PCGrad": (TORCHJD, others.torchjd_steps),
    }
    contenders: dict[str, Callable[[], object]] = {}
    peer, peer_steps = peers[balancer]
    for name, sizes in VOCABULARIES.items():
        schema = with_vocabularies(data.schema, sizes)
        given = batches(data, schema, 20)
        contenders[f"recmtl, {name}"] = steps(schema, given, balancer=balancer)
        if sizes is not ALL_LARGE:
            contenders[f"{peer}, {name}"] = peer_steps(schema, given)
    return contenders


def rotations(data: recmtl.PreparedData) -> Contenders:
    """The step of RotoGrad on a shared-bottom model, which is what the authors' package takes."""
    given = batches(data, data.schema, 20)
    return {
        "recmtl": steps(data.schema, given, balancer="RotoGrad", model=recmtl.SharedBottom),
        ROTOGRAD: others.rotograd_steps(data.schema, given),
    }


def measured(contenders: Contenders, repetitions: int, warm_up: int, settle: bool = False) -> Seconds:
    """Seconds of each contender, by turns; where it is to settle, a turn begins with a run that is not timed.

    In a training a step follows on its like: what another contender has left in the caches is not its cost.
    """
    seconds: Seconds = {name: [] for name in contenders}
    for repetition in range(repetitions + warm_up):
        for name, run in contenders.items():
            if settle:
                run()
            start = time.perf_counter()
            run()
            if repetition >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: Seconds, rows: int, references: Mapping[str, str]) -> dict[str, Any]:
    """Print rows/s and how many times faster each contender is than its reference."""
    table = Table(title, "rows/s", "least", "most", "times as fast as", "")
    results = {}
    for name, times in seconds.items():
        speeds = [rows / t for t in times]
        reference = references.get(name, PEER)
        ratio = statistics.median(r / t for t, r in zip(times, seconds[reference], strict=True))
        cells = [f"{value:,.0f}" for value in (statistics.median(speeds), min(speeds), max(speeds))]
        table.add_row(name, *cells, reference, f"{ratio:.2f}")
        results[name] = {"rows_per_second": statistics.median(speeds), "over": reference, "ratio": ratio}
        results[name] |= {"least": min(speeds), "most": max(speeds)}
    Console(width=120).print(table)
    return results


def product_rates() -> list[str]:
    """What a layer's product reaches by each library: decides how far fp32 and bf16 can be apart, and from MKL."""
    x, w = torch.randn(BATCH, 319), torch.randn(1024, 319)
    low_x, low_w = x.bfloat16(), w.bfloat16()

    def rate(product: Callable[[], object]) -> float:
        (seconds,) = measured({"": product}, 50, 10).values()
        return 2 * BATCH * 319 * 1024 / statistics.median(seconds) / 1e9

    rates = {"float32 by MKL": rate(lambda: x @ w.T)}
    if onednn_is_exact():
        with use_onednn():
            rates["float32 by oneDNN, which is used"] = rate(lambda: x @ w.T)
    rates["bfloat16"] = rate(lambda: low_x @ low_w.T)
    return [f"{value:.0f} GFLOP/s in {name}" for name, value in rates.items()]


TABLES = ("epoch", "evaluation", "step", "Sum", "MetaBalance", "PCGrad", "RotoGrad", "PLE", "AITM")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--quick", action="store_true", help="20,000 rows and 2 repetitions: minutes, not to be quoted")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json and (arguments.quick or arguments.only != TABLES):
        parser.error("`--json` records all tables at full length: leave out `--quick` and `--only`")
    rows, repetitions = (20_000, 2) if arguments.quick else (arguments.rows, arguments.repetitions)
    results = run_tables(arguments.only, rows, repetitions)
    if arguments.json:
        machine = [*environment(), platform.machine(), *product_rates()]
        content = {"command": "python -m benchmarks.peers", "machine": machine, "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run_tables(names: Sequence[str], rows: int, repetitions: int) -> dict[str, Any]:
    """Measure and print the named tables; the peer's end-to-end run is built where one of them needs it."""
    data = generated(rows)
    small = {f"{who}, {name}": f"{who}, 200 rows" for who in ("recmtl", PEER, TORCHJD) for name in VOCABULARIES}
    flat = {"recmtl fp32": "flat fp32", "recmtl bf16": "flat bf16"}
    tables: dict[str, tuple[str, Callable[[], Contenders], int, int, int, Mapping[str, str]]] = {
        "epoch": ("one epoch, end to end", lambda: end_to_end(data, rechub.EndToEnd(data)), rows, repetitions, 1, {}),
        "evaluation": ("evaluation", lambda: evaluation(data, rechub.EndToEnd(data)), rows, repetitions, 1, {}),
        "step": ("one step", lambda: floor(data), BATCH, 8 * repetitions, 3, flat),
        **{
            method: (f"one step, {method}", partial(vocabulary, data, method), BATCH, 3 * repetitions, 3, small)
            for method in ("Sum", "MetaBalance", "PCGrad")
        },
        "RotoGrad": (
            *("one step, RotoGrad on SharedBottom", lambda: rotations(data), BATCH, 8 * repetitions, 3),
            {"recmtl": ROTOGRAD, ROTOGRAD: ROTOGRAD},
        ),
        **{
            name: (
                *(f"one epoch, end to end, {name}", lambda name=name: end_to_end(data, rechub.EndToEnd(data, name))),
                *(rows, repetitions, 1, {}),
            )
            for name in ("PLE", "AITM")
        },
    }
    results = {}
    for title, contenders, measured_rows, count, warm_up, references in (tables[name] for name in names):
        seconds = measured(contenders(), count, warm_up, settle=title.startswith("one step"))
        results[title] = report(title, seconds, measured_rows, references)
    return results


if __name__ == "__main__":
    main()
