"""The multitask net of `benchmarks.trees`: all that is inferred, built and set stands in `default_net`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

import recmtl
from benchmarks.tree_data import TreeData

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NetFit:
    """A trained net, by what is reported of it.

    Args:
        scores: Its predictions of the measured rows by task.
        stop_auc: Its AUC on the stop rows by task.
        seconds: Wall-clock seconds from the frames to the trained model: inferring, preparing and training.
        cpu_seconds: CPU seconds of the process in that time.
        parameters: The number of its parameters.
    """

    scores: dict[str, Floats]
    stop_auc: dict[str, float]
    seconds: float
    cpu_seconds: float
    parameters: int


def default_net(data: TreeData, seed: int) -> tuple[recmtl.Trainer, recmtl.PreparedData]:
    """Infer a schema, prepare the rows and train a model by the defaults of the library."""
    tasks = [recmtl.Task(name, label) for name, label in data.tasks.items()]
    funnel = recmtl.Funnel(*(data.tasks[name] for name in data.funnel)) if data.funnel else None
    schema = recmtl.Schema.infer(data.train, tasks, funnel=funnel)
    prepared = recmtl.prepare(schema, data.train, data.stop, data.measured)
    torch.manual_seed(seed)
    model = recmtl.MMOE(prepared.schema)
    trainer = recmtl.Trainer(model, run=recmtl.RunConfig(seed=seed, progress=False, device="cpu"))
    return trainer.fit(prepared.train, prepared.valid), prepared


def fit_net(data: TreeData, seed: int, threads: int) -> NetFit:
    """Train the net, and predict the measured rows."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start, cpu = time.perf_counter(), time.process_time()
        trainer, prepared = default_net(data, seed)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        measured, stop = (trainer.predictor.outputs(prepared.splits[name]) for name in ("test", "valid"))
    finally:
        torch.set_num_threads(before)
    stop_auc = {name: float(roc_auc_score(data.stop[label], stop[name])) for name, label in data.tasks.items()}
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    return NetFit({name: measured[name] for name in data.tasks}, stop_auc, seconds, cpu_seconds, parameters)
