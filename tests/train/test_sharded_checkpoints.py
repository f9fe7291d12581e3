"""Runs whose tables are spread over processes: saved by two, resumed by three and by one, read by one. In float64."""

import errno
import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from test_distributed import data_for as prepared
from test_sharded_tables import small_tables_count, tables_of
from together import together
from torch import Tensor

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import Batch, Loader
from recmtl.runs import table_parts
from recmtl.runs.checkpoints import is_intact
from recmtl.train import Interrupted, Optimization, RunConfig, RunFolder, Step

LIMIT = 1e-12
data_for = functools.cache(prepared)
# A smaller ε would magnify the rounding of tiny gradients.
ADAM = functools.partial(torch.optim.Adam, lr=0.01, eps=1e-3)
ADAGRAD = functools.partial(recmtl.RowWiseAdagrad, lr=0.05, eps=1e-3)
SETTINGS = {"MMOE": (recmtl.MMOE, recmtl.PCGrad, ADAM), "ESMM": (recmtl.ESMM, recmtl.MetaBalance, ADAGRAD)}
PARTS = [".metadata", "__0_0.distcp", "__1_0.distcp"]
DAMAGED = "is damaged: its content does not match its checksum; an older one is looked for"


@contextmanager
def in_float64() -> Iterator[None]:
    """Spread tables, whatever their size, write them in small pieces, and compute in float64."""
    plain = Loader.epoch

    def epoch(self: Loader, *arguments: Any) -> Iterator[Batch]:
        return (replace(batch, numeric=batch.numeric.double()) for batch in plain(self, *arguments))

    with small_tables_count(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "epoch", epoch)
        patch.setattr(table_parts, "PIECE", 100)
        yield


class Fitted(NamedTuple):
    notes: list[str]
    predictions: dict[str, Any]
    losses: list[Any]


def trainer_of(name: str, folder: Path | None, processes: ProcessGroup, **options: Any) -> recmtl.Trainer:
    method, balancer, optimizer = SETTINGS[name]
    layers = {"layers": [12, 8]} if name == "MMOE" else {}
    torch.manual_seed(0 if processes.size == 1 else processes.rank)
    model = method(data_for(name).schema, tower_layers=[6], **layers).double()
    run = RunConfig(folder, device="cpu", progress=False, tensorboard=False, checkpoint_every=3, keep=2, log_every=2)
    optimization = Optimization(30, optimizer, clip_norm=1.0, schedule="cosine")
    given = {"epochs": 3, "shard_tables": True, "optimization": optimization, "run": run} | options
    return recmtl.Trainer(model, balancer() if "init_from" not in given else None, **given)


def fitted(name: str, folder: Path, processes: ProcessGroup, **options: Any) -> Fitted:
    """Begin a run, or resume it, and finish it."""
    notes: list[str] = []
    data, trainer = data_for(name), trainer_of(name, folder, processes, **options)
    assert all(table.sharded == (processes.size > 1) for table in tables_of(trainer.model))
    trainer.fit(data.train, data.valid, resume=True, note=notes.append)
    trainer.finish({"valid": data.valid})
    losses = [np.array(list(record["loss"].values())) for record in trainer.result.records if "loss" in record]
    shares = processes.all_gather_object(trainer.predictor.outputs(data.valid))
    return Fitted(notes, {name: np.concatenate([s[name] for s in shares]) for name in shares[0]}, losses)


def saved(processes: ProcessGroup, place: Path) -> None:
    """Runs that are stopped in the second epoch, a run that is saved, and one that a process cannot write."""
    with in_float64():
        for name in SETTINGS:
            with stop_at(6, processes), pytest.raises(Interrupted):
                fitted(name, place / name, processes)
        save_in_python(place / "saved", processes)
        trainer = trainer_of("ESMM", place / "full", processes)
        if processes.rank == 1:
            table_parts.FileSystemWriter.write_data = full  # in this process, which ends with this function
        with pytest.raises(recmtl.RunError, match=r"cannot be written by process 1 of 2: No space left on device$"):
            trainer.fit(data_for("ESMM").train)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "")


@contextmanager
def stop_at(step: int, processes: ProcessGroup) -> Iterator[None]:
    """Send the last process a signal in a step; the processes tell each other at the end of the epoch."""
    taken, plain = [], Step.__call__

    def call(self: Step, *arguments: Any) -> Tensor:
        taken.append(1)
        if len(taken) == step and processes.rank == processes.size - 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", call)
        yield


def save_in_python(folder: Path, processes: ProcessGroup) -> None:
    """Train without a run folder, and write one afterwards."""
    data, trainer = data_for("ESMM"), trainer_of("ESMM", None, processes)
    trainer.fit(data.train, data.valid).save(folder)


def resumed(processes: ProcessGroup, place: Path) -> dict[str, Fitted]:
    """Resumed runs, one of which was damaged, and one that goes on from a finished run."""
    with in_float64():
        found = {name: fitted(name, place / name, processes) for name in SETTINGS}
        found["damaged"] = fitted("ESMM", place / "damaged", processes)
        found["more"] = fitted("ESMM", place / "more", processes, init_from=place.parent / "saved")
        return found


def unbroken(place: Path) -> dict[str, Fitted]:
    """The same runs by one process, with whole tables."""
    with in_float64():
        found = {name: fitted(name, place / name, ProcessGroup()) for name in SETTINGS}
        save_in_python(place / "saved", ProcessGroup())
        found["more"] = fitted("ESMM", place / "more", ProcessGroup(), init_from=place / "saved")
        return found | {"damaged": found["ESMM"]}


@pytest.mark.slow
def test_two_save_three_and_one_resume(tmp_path: Path) -> None:
    """If a part is damaged or missing, the checkpoint before it is used."""
    together(2, tmp_path / "2", saved, tmp_path)
    runs = {name: RunFolder(tmp_path / name) for name in (*SETTINGS, "saved", "full")}
    steps = runs["ESMM"].steps()
    assert list(steps) == [6, 8]
    folders = {"tables": steps[8] / "tables", "best": steps[8] / "best/tables"}
    for folder in folders.values():
        assert sorted(path.name for path in folder.iterdir()) == PARTS
    assert not [path for path in (runs["full"].path / "checkpoints").iterdir() if path.is_dir()]
    damages: dict[str, Callable[[Path], None]] = {"__1_0.distcp": Path.unlink, ".metadata": flip, "__0_0.distcp": flip}
    for other, name in {"three": "__1_0.distcp", "one": "__0_0.distcp", "none": ".metadata"}.items():
        for run in SETTINGS:
            shutil.copytree(tmp_path / run, tmp_path / other / run)
        shutil.copytree(tmp_path / "ESMM", tmp_path / other / "damaged")
        damaged = RunFolder(tmp_path / other / "damaged").steps()[8]
        assert is_intact(damaged)
        damages[name](damaged / ("best/tables" if other == "one" else "tables") / name)
        assert not is_intact(damaged)
    expected = unbroken(tmp_path / "whole")
    of_three = together(3, tmp_path / "3", resumed, tmp_path / "three")
    of_one = resumed(ProcessGroup(), tmp_path / "one")
    for found in (*of_three, of_one):
        for name, whole in expected.items():
            check_same(found[name], whole)
    part = tmp_path / "three/damaged/checkpoints/step-0000000008/tables/__1_0.distcp"
    assert of_three[0]["damaged"].notes == [f"the part {part} of the tables is missing; an older one is looked for"]
    part = tmp_path / "one/damaged/checkpoints/step-0000000008/best/tables/__0_0.distcp"
    assert of_one["damaged"].notes == [f"the part {part} of the tables {DAMAGED}"]
    with in_float64():
        for folder in (tmp_path / "three", tmp_path / "one"):
            for name in SETTINGS:
                again = trainer_of(name, None, ProcessGroup()).load("best", RunFolder(folder / name))
                outputs = again.predictor.outputs(data_for(name).valid)
                check_same(Fitted([], outputs, []), expected[name]._replace(losses=[]))
        flip(tmp_path / "three/ESMM/checkpoints/best/tables/__2_0.distcp")
        with pytest.raises(recmtl.RunError, match=r"the part .*__2_0.distcp of the tables is damaged: its content"):
            again.load("best", RunFolder(tmp_path / "three/ESMM"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def check_same(found: Fitted, expected: Fitted) -> None:
    for name, values in expected.predictions.items():
        np.testing.assert_allclose(found.predictions[name], values, rtol=0, atol=LIMIT)
    later = expected.losses[len(expected.losses) - len(found.losses) :]  # the first process has those before, too
    np.testing.assert_allclose(found.losses, later, rtol=1e-6)  # which are kept in float32
