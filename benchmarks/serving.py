"""Milliseconds of a request, from raw values to probabilities: python -m benchmarks.serving [--json FILE]

A request has one user and 1, 50 or 1,000 candidates, in the layout of AliExpress: half of its 16 categorical and 63
numeric fields belong to the user. The model is an MMOE with 4 experts of the layers given, tasks CTR and CVR, width 16;
its weights are those of the start, which are as fast as any. All run on one thread and take turns, request by request;
the Scorer answers every request, the others every tenth. *CPU* milliseconds are those of the thread: what else runs on
the machine prolongs them less than those of the clock.

Beside it: the same rows without a split (`rows`), or as a DataFrame given to `Trainer.predict`, which is what a loaded
run offers; and what skips the work on raw values: the network alone on encoded rows, in onnxruntime and in torch,
torch-rechub's MMOE as its exporter writes it, and LightGBM on a matrix of numbers, a booster of 100 trees per task.
Below: one column of 1,000 strings looked up by the reader and by onnxruntime's `LabelEncoder`, and what it takes to
load a vocabulary.

Needs the extras `bench` and `onnx`: pip install -c constraints.txt -e '.[bench,onnx]'
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks import rechub
from recmtl.data import Batch, encode_rows
from recmtl.data.synthetic.generate import synthesize
from recmtl.features import FeatureEncoder
from recmtl.io.spellings import NullWords
from recmtl.recipe.environment import environment
from recmtl.serving.feature_encoders import Vocabulary
from recmtl.serving.network import inputs_of

WIDTH, TREES = 16, 100
CANDIDATES, REQUESTS, EVERY, DIFFERENT = (1, 50, 1000), 10_000, 10, 50  # requests that differ
STRINGS, WARMUP = 1000, 20
PEERS = {"torch-rechub": "torch_rechub", "LightGBM": "lightgbm"}  # measured where their module is installed
Work = Callable[[int], object]  # answers the request of a number
Measured = dict[str, dict[str, float]]


def onnx_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rechub_network(schema: recmtl.FittedSchema, folder: Path, sizes: Mapping[str, Any]) -> Callable[[Batch], object]:
    """Its MMOE of these sizes, by its own exporter."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.utils.onnx_export import ONNXExporter

    sparse = [SparseFeature(block.feature.name, block.size, WIDTH) for block in schema.id_blocks]
    dense = [DenseFeature(feature.name) for feature in schema.numeric]
    towers = [{"dims": list(sizes["tower_layers"]), "activation": "relu"}] * 2
    experts = {"dims": list(sizes["layers"]), "activation": "relu"}
    model = MMOE(sparse + dense, ["classification"] * 2, sizes["experts"], experts, towers).eval()
    path = folder / "rechub.onnx"
    ONNXExporter(model).export(str(path), dynamic_batch=True, opset_version=18)
    session = onnx_session(path)
    kinds = {own.name: (np.int64 if "int64" in own.type else np.float32, own.shape) for own in session.get_inputs()}

    def run(batch: Batch) -> object:
        given = {name: column.numpy() for name, column in rechub.inputs(schema, batch).items()}
        columns = {name: given[name].astype(kind, copy=False) for name, (kind, _) in kinds.items()}
        return session.run(None, {n: v.reshape(-1, 1) if len(kinds[n][1]) == 2 else v for n, v in columns.items()})

    return run


def boosters(frame: pd.DataFrame, fields: Sequence[str]) -> list[Any]:
    import lightgbm

    options = {"objective": "binary", "num_threads": 1, "verbose": -1}
    rows = frame[list(fields)].to_numpy(np.float64)
    return [lightgbm.train(options, lightgbm.Dataset(rows, frame[label]), TREES) for label in ("click", "conversion")]


class Requests:
    """Requests of so many candidates each, in every form that a contender takes.

    Args:
        frame: The raw rows.
        fields: The fields of the model.
        trainer: The model.
        candidates: Their number in a request.
        count: How many requests differ.
    """

    def __init__(
        self, frame: pd.DataFrame, fields: Sequence[str], trainer: recmtl.Trainer, candidates: int, count: int
    ) -> None:
        kinds = [[name for name in fields if name.startswith(kind)] for kind in ("categorical", "numerical")]
        shared = {name for names in kinds for name in names[: len(names) // 2]}
        own = [name for name in fields if name not in shared]
        records = frame[list(fields)].to_dict("records")
        self.users: list[dict[str, Any]] = []
        self.items: list[list[dict[str, Any]]] = []
        self.rows: list[list[dict[str, Any]]] = []
        for request in range(count):
            user = {str(name): value for name, value in records[request].items() if name in shared}
            chosen = [records[(request * 37 + place) % len(records)] for place in range(candidates)]
            self.users.append(user)
            self.items.append([{name: row[name] for name in own} for row in chosen])
            self.rows.append([user | item for item in self.items[-1]])
        self.frames = [pd.DataFrame(rows) for rows in self.rows]
        self.matrices = [own_frame[list(fields)].to_numpy(np.float64) for own_frame in self.frames]
        self.batches = [self._encoded(trainer, own_frame) for own_frame in self.frames]

    @staticmethod
    def _encoded(trainer: recmtl.Trainer, frame: pd.DataFrame) -> Batch:
        (rows,) = encode_rows(trainer.model.schema, frame, labelled=False)
        return next(recmtl.Loader(rows, len(frame)).epoch())


def contenders(
    scorer: recmtl.Scorer, trainer: recmtl.Trainer, peers: Mapping[str, Any], folder: Path, given: Requests
) -> dict[str, Work]:
    """What answers the requests, by name; the first is the one that is measured."""
    session, schema = onnx_session(folder / "model" / "network.onnx"), trainer.model.schema
    encoded = [{n: t.numpy() for n, t in inputs_of(schema, batch).items()} for batch in given.batches]

    def plain(batch: Batch) -> object:
        with torch.inference_mode():
            return {name: logit.sigmoid() for name, logit in trainer.model(batch).items()}

    works: dict[str, Work] = {
        "Scorer, user and items": lambda i: scorer.score(user=given.users[i], items=given.items[i]),
        "Scorer, rows": lambda i: scorer.score(given.rows[i]),
        "Scorer, DataFrame": lambda i: scorer.score(given.frames[i]),
        "Trainer.predict, DataFrame": lambda i: trainer.predict(given.frames[i]),
        "encoded rows: onnxruntime": lambda i: session.run(None, encoded[i]),
        "encoded rows: torch": lambda i: plain(given.batches[i]),
    }
    if "torch-rechub" in peers:
        works["encoded rows: torch-rechub's ONNX"] = lambda i: peers["torch-rechub"](given.batches[i])
    if "LightGBM" in peers:
        works["matrix: LightGBM"] = lambda i: [
            booster.predict(given.matrices[i], num_threads=1) for booster in peers["LightGBM"]
        ]
    return works


def take_turns(works: Mapping[str, Work], requests: int, different: int) -> Measured:
    """Return the median and the 99th percentile of the milliseconds of each work, by the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    first = next(iter(works))
    for work in works.values():
        for request in range(min(WARMUP, requests)):
            work(request % different)
    gc.collect()
    gc.freeze()  # what is loaded by now is never garbage, as in a server
    for turn in range(requests):
        for name, work in works.items():
            if name == first or turn % EVERY == 0:
                clock, own = time.perf_counter(), time.thread_time()
                work(turn % different)
                times[name].append((time.perf_counter() - clock, time.thread_time() - own))
    gc.unfreeze()
    return {name: summary(np.array(own) * 1000) for name, own in times.items()}


def summary(milliseconds: np.ndarray[Any, Any]) -> dict[str, float]:
    p50, p99 = (np.quantile(milliseconds, share, axis=0) for share in (0.5, 0.99))
    found = {"p50_ms": p50[0], "p99_ms": p99[0], "cpu_p50_ms": p50[1], "cpu_p99_ms": p99[1]}
    return {"requests": len(milliseconds)} | {name: round(float(value), 4) for name, value in found.items()}


def look_ups(categories: int, requests: int, folder: Path) -> Measured:
    """A column of strings to ids, by the reader and within ONNX."""
    import onnx
    from onnx import TensorProto, helper

    names = [f"item {place}" for place in range(categories)]
    options: dict[str, Any] = {
        "keys_strings": names,
        "values_int64s": list(range(2, categories + 2)),
        "default_int64": 0,
    }
    node = helper.make_node("LabelEncoder", ["x"], ["ids"], domain="ai.onnx.ml", **options)
    ends = helper.make_tensor_value_info("x", TensorProto.STRING, ["rows"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows"])
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "g", [ends], [ids]), opset_imports=versions, ir_version=9)
    onnx.save(model, folder / "strings.onnx")
    session, vocabulary = onnx_session(folder / "strings.onnx"), Vocabulary(names, NullWords([""]))
    rng = np.random.default_rng(0)
    columns = [[f"item {i}" for i in rng.integers(0, categories * 10 // 9, STRINGS)] for _ in range(DIFFERENT)]
    within = [session.run(None, {"x": np.array(column, object)})[0].tolist() for column in columns]
    assert within == [vocabulary.ids(column) for column in columns]
    works: dict[str, Work] = {
        "reader": lambda i: vocabulary.ids(columns[i]),
        "onnxruntime": lambda i: session.run(None, {"x": np.array(columns[i], object)}),
    }
    return take_turns(works, requests, DIFFERENT)


def vocabulary_load(categories: int, folder: Path) -> dict[str, float]:
    """Seconds and MiB to load a vocabulary of random ids."""
    rng = np.random.default_rng(0)
    names = [f"{value:016x}" for value in rng.integers(0, 2**62, categories).tolist()]
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    start = time.process_time()
    Vocabulary(json.loads((folder / "names.json").read_text(encoding="utf-8")), NullWords([""]))
    seconds = time.process_time() - start
    tracemalloc.start()
    loaded = Vocabulary(json.loads((folder / "names.json").read_text(encoding="utf-8")), NullWords([""]))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"categories": len(loaded) - 2, "cpu_seconds": round(seconds, 3), "mebibytes": round(held / 2**20, 1)}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all, by number of candidates."""
    synthesize(folder / "rows", arguments.rows)
    data = recmtl.prepare(recmtl.card("aliexpress"), folder / "rows" / "train.csv", holdout=0.0)
    torch.manual_seed(0)
    sizes = {"layers": arguments.layers, "tower_layers": arguments.tower_layers, "experts": arguments.experts}
    model = recmtl.MMOE(data.schema, encoder=partial(FeatureEncoder, width=WIDTH), **sizes)
    trainer = recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False, threads=1))
    exported = recmtl.export_model(trainer, folder / "model")
    scorer = recmtl.Scorer(folder / "model")
    frame = pd.read_csv(folder / "rows" / "test.csv")
    table = frame[list(scorer.fields)][:2000]
    written, scored = trainer.predict(table), scorer.score(table)
    results: dict[str, Any] = {
        "difference_at_export": exported.difference,
        "difference_of_rows": max(float(np.abs(scored[task] - written[task]).max()) for task in scorer.tasks),
        "requests": {},
    }
    built: dict[str, Callable[[], object]] = {
        "torch-rechub": lambda: rechub_network(data.schema, folder, sizes),
        "LightGBM": lambda: boosters(frame, scorer.fields),
    }
    peers = {name: built[name]() for name, module in PEERS.items() if find_spec(module)}
    different = min(DIFFERENT, arguments.requests)
    for candidates in arguments.candidates:
        given = Requests(frame, scorer.fields, trainer, candidates, different)
        works = contenders(scorer, trainer, peers, folder, given)
        results["requests"][str(candidates)] = take_turns(works, arguments.requests, different)
    results["look_ups_of_1000_strings"] = look_ups(10_000, max(arguments.requests // 10, 2), folder)
    results["vocabulary"] = vocabulary_load(arguments.categories, folder)
    return results


def show(results: Mapping[str, Any]) -> Table:
    table = Table("candidates", "what answers", "p50 ms", "p99 ms", "CPU p50 ms", "CPU p99 ms")
    for candidates, found in results["requests"].items():
        for name, row in found.items():
            figures = (row[key] for key in ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms"))
            table.add_row(f"{int(candidates):,}", name, *(f"{value:.2f}" for value in figures))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--candidates", type=int, nargs="+", default=CANDIDATES)
    parser.add_argument("--rows", type=int, default=30_000, help="of the generated data")
    parser.add_argument("--layers", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--tower_layers", type=int, nargs="+", default=[32])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--categories", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on rows that are generated
        results = measure(arguments, Path(folder))
    Console(width=140).print(show(results))
    print(json.dumps({name: value for name, value in results.items() if name != "requests"}))
    if arguments.json:
        options = {name: value for name, value in vars(arguments).items() if name != "json"}
        content: dict[str, Any] = {"command": "python -m benchmarks.serving", "machine": environment()}
        content |= {"options": options, "load": os.getloadavg()[0], "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
