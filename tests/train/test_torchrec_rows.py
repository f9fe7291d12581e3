"""Tables that are spread over processes by TorchRec train as in one process, bit for bit as without TorchRec.

Models, tables and batches are those of `test_sharded_tables`: lists, shared vocabularies, parts of batches without
rows, and processes that own no row of a table.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_distributed import error
from test_sharded_checkpoints import check_same, data_for, in_float64, stop_at, trainer_of
from test_sharded_checkpoints import fitted as resumed
from test_sharded_tables import LIMIT, METABALANCE, OPTIMIZERS, PCGRAD, Setting, check_fitted, fitted, trained
from together import check_launches, place, together

import recmtl
from recmtl.balance import LostRankError, ProcessGroup
from recmtl.errors import RunError, UsageError
from recmtl.features import EmbeddingTable, TorchRecRows, torchrec_rows
from recmtl.features.row_places import RowPlaces
from recmtl.features.sharded_rows import ShardedRows
from recmtl.features.torchrec_rows import check_installed
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import check_recipes
from recmtl.train import Interrupted, RunFolder
from recmtl.train.distributed import storage_of
from recmtl.train.options import ShardTables

ADAM, ADAGRAD, ROW_WISE, _ = OPTIMIZERS
SETTINGS = [Setting("MMOE", PCGRAD, ADAM), Setting("ESMM", METABALANCE), Setting("STAR", PCGRAD, ROW_WISE)]
TorchRec = pytest.mark.skipif(not importlib.util.find_spec("torchrec"), reason="no TorchRec")


def work(processes: ProcessGroup, folder: Path) -> dict[str, Any]:
    """What TorchRec gives in one process, and what it says when the last one hangs, and at last dies."""
    found: dict[str, Any] = {}
    if processes.size == 3:
        found["trained"] = [trained(processes, SETTINGS, storage) for storage in (ShardedRows, TorchRecRows)]
    else:
        found["fitted"] = [fitted(processes, False, option) for option in (True, "torchrec")]
    for rows in (2, 23):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            check_read(processes, rows, dtype)
    patient, impatient = (dist.new_group(timeout=timedelta(seconds=seconds)) for seconds in (60, 4))
    hung = lost(processes, impatient, partial(time.sleep, 6))

    def die() -> None:
        torch.save(found, folder / f"{processes.rank}.pt")
        os._exit(0)

    return found | {"hung": hung, "died": lost(processes, patient, die)}


def check_read(processes: ProcessGroup, rows: int, dtype: torch.dtype) -> None:
    """It reads any bits of rows, where the weight is, and sends what it says; the last process looks nothing up."""
    storage = TorchRecRows(rows, processes)
    bits = torch.randint(-(1 << 31), (1 << 31) - 1, (rows, 8), generator=torch.Generator().manual_seed(0))
    whole = bits.int().view(dtype)
    weight, real, sent = storage.own_part(whole), dist.all_to_all_single, []

    def counted(*arguments: Any, **named: Any) -> Any:
        sent.append(named["input"] if "input" in named else arguments[1])
        return real(*arguments, **named)

    ids = torch.arange(0 if processes.rank == processes.size - 1 else rows).repeat(2)
    before = processes.sent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_to_all_single", counted)
        found = storage.read(weight, ids)
    assert torch.equal(found.view(torch.int32), whole[ids].view(torch.int32))
    given = (processes.size - 1) * weight.nbytes
    assert processes.sent - before == sum(tensor.nbytes for tensor in sent)
    assert processes.sent - before == 4 * len(ids) // 2 + 28 * processes.size + given
    weight.zero_()
    assert not storage.read(weight, ids).any()
    assert torch.equal(storage.read(storage.own_part(whole), ids).view(torch.int32), whole[ids].view(torch.int32))


def lost(processes: ProcessGroup, group: dist.ProcessGroup, end: Callable[[], None]) -> tuple[str, float]:
    """What a look-up says, and after how many seconds, if the last process does something else."""
    storage = TorchRecRows(9, ProcessGroup(group))
    weight, start = torch.ones(storage.places.own, 4), time.monotonic()
    try:
        end() if processes.rank == processes.size - 1 else storage.read(weight, torch.arange(9))
    except LostRankError as lost_rank:
        return str(lost_rank), time.monotonic() - start
    return "nothing", 0.0


@TorchRec
@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_equals_one_process(number: int, tmp_path: Path) -> None:
    """By two processes as the trainer does it, in float32 with SiLU; by three in float64."""
    several = together(number, tmp_path / "several", work, tmp_path / "several")
    expected = trained(ProcessGroup(), SETTINGS) if number == 3 else fitted(ProcessGroup(), False)
    for rank, found in enumerate(several):
        if number == 3:
            spread, by_torchrec = found["trained"]
            for setting, one, other, mine in zip(SETTINGS, expected, spread, by_torchrec, strict=True):
                assert all(torch.equal(mine[name], value) for name, value in other.items())
                errors = {name: error(mine[name], value) for name, value in one.items()}
                assert max(errors.values()) <= LIMIT, (*map(str, setting), errors)
        else:
            other, mine = found["fitted"]
            check_fitted(mine, expected, number)
            assert torch.equal(mine.weight, other.weight)
            assert all(np.array_equal(mine.predictions[name], values) for name, values in other.predictions.items())
        for message, seconds in (found["hung"], found["died"]) if rank < number - 1 else ():
            assert message.startswith("another process has ended, or did not answer in time: ")
            assert "\n" not in message
            assert seconds < 30


def stopped(processes: ProcessGroup, folder: Path) -> None:
    """A run that is stopped in the second epoch."""
    with in_float64(), stop_at(6, processes), pytest.raises(Interrupted):
        resumed("MMOE", folder, processes, shard_tables="torchrec")


def go_on(processes: ProcessGroup, runs: dict[Path, ShardTables]) -> list[Any]:
    """Go on with copies of it."""
    with in_float64():
        return [resumed("MMOE", folder, processes, shard_tables=option) for folder, option in runs.items()]


@TorchRec
@pytest.mark.slow
def test_two_save_and_any_number_resumes(tmp_path: Path) -> None:
    """With TorchRec or without; the best weights are read and exported by one process."""
    together(2, tmp_path / "2", stopped, tmp_path / "run")
    for name in ("three", "own", "one"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    of_three = together(3, tmp_path / "3", go_on, {tmp_path / "three": "torchrec", tmp_path / "own": True})
    (of_one,) = go_on(ProcessGroup(), {tmp_path / "one": "torchrec"})
    (expected,) = go_on(ProcessGroup(), {tmp_path / "whole": False})
    for found in (*of_three[0], of_one):
        check_same(found, expected)
    with in_float64():
        best = trainer_of("MMOE", None, ProcessGroup()).load("best", RunFolder(tmp_path / "three"))
        check_same(of_one._replace(predictions=best.predictor.outputs(data_for("MMOE").valid), losses=[]), expected)
        assert recmtl.export_model(best, tmp_path / "exported", format="torch").difference <= 1e-6


LAUNCH = """
from recmtl.balance import PCGrad, SharedTensor
from recmtl.features import TorchRecRows
from recmtl.features.torchrec_rows import check_installed

check_installed()  # imports TorchRec

def work(processes):
    balancer, storage = PCGrad(), TorchRecRows(100, processes)
    balancer.processes = processes
    weight, ids = torch.ones(storage.places.own, 8), torch.arange(50, dtype=torch.int32)
    for _ in range(3):
        found, _ = storage.gather(weight, ids, 50, torch.tensor([0, 100]), processes)
        losses = [found.exchanged.sum(), (found.exchanged[:, 0] - found.exchanged[:, 1]).sum()]
        balancer.backward(losses, [SharedTensor(found.rows, exchanged=found.exchanged)])
    globals()["kept"] = storage, found
"""


@TorchRec
@pytest.mark.slow
def test_scattered_rows_are_spread_better_than_by_its_planner() -> None:
    """Of vocabularies sorted by frequency (Zipf), the first of 8 processes has most of what a batch looks up."""
    check_installed()
    from torchrec import EmbeddingCollection, EmbeddingConfig
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation

    tables = [
        EmbeddingConfig(rows, 16, name=f"table {rows}", feature_names=[f"{rows}"]) for rows in (200_000, 2_000_000)
    ]
    topology, kept_free = Topology(8, "cuda", hbm_cap=80 << 30), FixedPercentageStorageReservation(0.1)
    planner = EmbeddingShardingPlanner(topology, batch_size=2048, storage_reservation=kept_free)
    collection = EmbeddingCollection(tables, torch.device("meta"))
    (plan,) = planner.plan(collection, [EmbeddingCollectionSharder()]).plan.values()
    assert {own.sharding_type for own in plan.values()} == {"row_wise"}
    places, planned, scattered = RowPlaces(2_200_000, 8, 0), torch.zeros(8), torch.zeros(8)
    for start, table in zip((0, 200_000), tables, strict=True):
        frequencies = 1 / torch.arange(1.0, 1 + table.num_embeddings)
        ids = frequencies.multinomial(2048, True, generator=torch.Generator().manual_seed(0)).unique()
        starts = [shard.shard_offsets[0] for shard in plan[table.name].sharding_spec.shards]
        planned += (torch.bucketize(ids, torch.tensor(starts), right=True) - 1).bincount(minlength=8)
        scattered += places.owners_of(ids + start).bincount(minlength=8)
    assert planned.max() > 4 * planned.mean()
    assert scattered.max() < 1.2 * scattered.mean()


@TorchRec
@pytest.mark.slow
def test_twenty_launches_end_cleanly(tmp_path: Path) -> None:
    check_launches(LAUNCH, tmp_path)


def test_rows_that_its_kernels_cannot_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a training begins, by the type that the rows have then."""
    monkeypatch.setattr(torchrec_rows, "check_installed", lambda: None)
    model = recmtl.SharedBottom(data_for("MMOE").schema, layers=[4], tower_layers=[2])
    tables = [table for table in model.modules() if isinstance(table, EmbeddingTable)]
    for table in tables:
        table.shard(place(0, 2), TorchRecRows)
    run = recmtl.RunConfig(device="cpu", progress=False)
    recmtl.Trainer(model, run=run)
    for table in tables:
        table.bfloat16()
    with pytest.raises(RunError, match=r"of a multiple of 16 bytes, got 8 in a table of width 4: give another `width`"):
        recmtl.Trainer(model, run=run)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, "needs torchrec 1.8.0, got none: pip install 'recmtl\\[torchrec\\]'"),
        ({"torchrec": "1.9.0"}, "needs torchrec 1.8.0, got 1.9.0"),
        ({"torchrec": "1.8.0"}, "needs fbgemm-gpu 1.8.0, got none"),
        ({"torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.7.0+cpu"}, "needs fbgemm-gpu 1.8.0, got 1.7.0"),
    ],
)
def test_another_version_is_refused(found: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrec_rows, "_version", found.get)
    with pytest.raises(RunError, match=sentence):
        TorchRecRows(10, place(0, 2))


@pytest.mark.parametrize("missing", ["torchrec", "fbgemm_gpu"])
def test_what_cannot_be_imported_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a library that is built for another torch, or a package that it needs and that is missing."""

    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == missing:
                raise OSError(f"{name}.so: undefined symbol: _ZN3c10\nand more")
            if name == "fbgemm_gpu":
                raise ModuleNotFoundError("No module named 'fbgemm_gpu'")

    for name in [*sys.modules]:
        if name.partition(".")[0] in ("torchrec", "fbgemm_gpu"):
            monkeypatch.delitem(sys.modules, name)
    if missing == "torchrec":
        monkeypatch.setitem(sys.modules, "fbgemm_gpu", ModuleType("fbgemm_gpu"))
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(torchrec_rows, "_version", {"torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}.get)
    with pytest.raises(RunError) as error:
        check_installed()
    needed = f"it needs torch 2.13, got {torch.__version__}, and what pip install 'recmtl[torchrec]' brings along"
    said = f"`--trainer.shard_tables torchrec` cannot import TorchRec: {missing}.so: undefined symbol: _ZN3c10"
    assert str(error.value) == f"{said}: {needed}"


def test_several_processes_ask_for_it_before_rows_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrec_rows, "_version", {}.get)
    parser, schema = recipe_parser("recmtl"), recmtl.card("aliexpress")
    recipes = [
        parse_recipe(
            parser, ["--data.card", "aliexpress", "--data.train", "rows.csv", "--trainer.shard_tables", option]
        )
        for option in ("true", "torchrec")
    ]
    check_recipes(recipes, schema)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    check_recipes(recipes[:1], schema)
    with pytest.raises(UsageError, match=r"needs torchrec 1\.8\.0, got none: pip install"):
        check_recipes(recipes, schema)


def test_what_holds_the_rows_is_named() -> None:
    assert [storage_of(option) for option in (None, True, "torchrec")] == [ShardedRows, ShardedRows, TorchRecRows]
    with pytest.raises(ValueError, match=r"must be true, false or one of \['torchrec'\], got 'ray'"):
        storage_of("ray")  # type: ignore[arg-type]
