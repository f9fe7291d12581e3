"""`recmtl plan`: its formulas against bytes that are counted, in messages and in memory, and what it advises."""

import math
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.balance.row_exchange import exchange_rows
from recmtl.cli.main import main
from recmtl.cli.plan import sizes_of_recipe
from recmtl.data import Loader, Share
from recmtl.features import EmbeddingTable
from recmtl.features.row_places import RowPlaces
from recmtl.plan.advice import MOST_IDS, advice
from recmtl.plan.balancing import balanced_by, sizes_of_balancer
from recmtl.plan.formulas import (
    KEPT,
    Machine,
    Plan,
    Workload,
    asked_bytes,
    exchanged_bytes,
    measured_bytes,
    summed_bytes,
)
from recmtl.train import Optimization, Step, distributed
from recmtl.train import setup as trainer_setup
from recmtl.train import step as step_module
from tests.together import in_threads, place

LARGE = Workload(rows=10**9, ids=10**9, processes=64, batch_size=64 * 2048)
TABLES = 2  # of the small rows, which have embeddings of two widths
OPTIMIZERS = [torch.optim.Adam, torch.optim.Adagrad, torch.optim.SGD, recmtl.RowWiseAdagrad]


def made(
    data: recmtl.PreparedData, method: type, processes: ProcessGroup, optimizer: type = torch.optim.Adam
) -> tuple[recmtl.RankingModel, Step]:
    torch.manual_seed(0)
    model, balancer = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[2]), method()
    recmtl.Trainer(model, balancer, run=recmtl.RunConfig(progress=False, device="cpu"))
    balancer.processes = processes
    return model, Step(model, balancer, Optimization(40, optimizer), 20)


SPLITTER = partial(recmtl.NormalizedSplitter, projection="before")
ROTATED = partial(recmtl.RotoGrad, normalize_losses=True)
OF_HEADS = [recmtl.GradDrop, recmtl.NormalizedSplitter, SPLITTER, recmtl.RotoGrad, ROTATED]


@pytest.mark.parametrize("method", [recmtl.Sum, recmtl.PCGrad, recmtl.FAMO, recmtl.GradNorm, *OF_HEADS])
def test_messages_of_whole_tables_are_as_many_bytes(
    method: type, small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes; what the towers and the shared layers have is added up as often as the formula says."""
    monkeypatch.setattr(step_module, "ROW_MODE", 0)

    def sent(processes: ProcessGroup) -> tuple[float, float]:
        model, step = made(small, method, processes)
        batch = next(Loader(small.train, 40, processes=processes).epoch())
        own = [len(table._ids_in_table(batch.ids, batch.lists).unique()) for table in step._tables]
        most = [max(counts) for counts in zip(*processes.all_gather_object(own), strict=True)]
        before = processes.sent
        step(batch)
        tables = [table.gathered.rows for table in step._tables]
        balanced = {id(p) for p in step._balancer.parameters()} | {id(t.weight) for t in step._tables}
        layers = [p for p in model.parameters() if id(p) not in balanced]
        shared = sum(t.tensor.numel() for t in model.shared().tensors) - sum(rows.numel() for rows in tables)
        passes = len(model.objectives) if method is recmtl.PCGrad else 1
        tasks, own = len(model.objectives), sizes_of_balancer(model, step._balancer)["balancer_sent"]
        found = summed_bytes(tasks, sum(p.numel() for p in layers), passes, shared)
        found += balanced_by(Workload(1, 1, tasks=tasks, balancer_sent=own), type(step._balancer)).balancer_sent
        for rows, count in zip(tables, most, strict=True):
            whole = Plan(Workload(1, len(rows), rows.shape[1], processes=2, batch_size=10**9, passes=passes)).sent()
            found += 8 + 4 * count + whole["rows and gradients"]
        return processes.sent - before, found

    for counted, expected in in_threads(2, sent):
        assert counted == expected


@pytest.mark.parametrize("passes", [1, 3])
def test_messages_of_spread_tables_are_as_many_bytes(passes: int) -> None:
    """Each process looks up as many distinct rows of float64 by int64 ids."""
    width, distinct = 3, 5

    def sent(processes: ProcessGroup) -> tuple[float, float]:
        places = RowPlaces(12, processes.size, processes.rank)
        own = torch.zeros(places.own, width, dtype=torch.float64, requires_grad=True)
        ids = torch.arange(processes.rank, processes.rank + distinct)
        owners, each = places.owners_of(ids), [1] * processes.size
        taken = owners.bincount(minlength=processes.size)
        before = processes.sent
        given = processes.all_to_all(taken, each, each).tolist()
        asked = processes.all_to_all(places.places_of(ids)[owners.argsort()], taken.tolist(), given)
        found = exchange_rows(own, asked - places.start, given, taken.tolist(), processes)
        for _ in range(passes):
            found.sum().backward(retain_graph=True)
        expected = asked_bytes(distinct, processes.size, index=8)
        return processes.sent - before, expected + exchanged_bytes(distinct, width, passes, sum(given), number=8)

    for number in (2, 4):
        several = in_threads(number, sent)
        assert all(counted == expected for counted, expected in several)
        drawn = Plan(Workload(1, 10**9, width, 1, processes=number, batch_size=number * distinct, passes=passes), True)
        assert drawn.sent()["rows and gradients"] == pytest.approx(4 * width * distinct * (1 + passes), rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("method", [recmtl.Sum, recmtl.FAMO, recmtl.MetaBalance, recmtl.PCGrad, recmtl.CAGrad])
def test_a_step_with_spread_tables_sends_as_many_bytes(
    method: type, clip: float | None, small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a trainer's step; of 4 processes as many as of 2 that have the same rows, but for the counts of ids."""
    own = threading.local()
    monkeypatch.setattr(trainer_setup, "all_processes", lambda: own.processes)
    monkeypatch.setattr(distributed, "LARGE", 0)
    batch = next(Loader(small.train, 40, seed=0).epoch())

    def sent(processes: ProcessGroup) -> tuple[int, float]:
        own.processes = processes
        model = recmtl.SharedBottom(small.schema, layers=[4], tower_layers=[2])
        run = recmtl.RunConfig(progress=False, device="cpu")
        trainer = recmtl.Trainer(model, method(), run=run, shard_tables=True)
        step = Step(model, trainer.balancer, Optimization(20, clip_norm=clip), 20)
        half = batch.part(place(processes.rank % 2, 2))
        before = processes.sent
        step(replace(half, share=Share(20 * processes.size, processes)))
        sent, tasks = processes.sent - before, len(model.objectives)
        planned = balanced_by(Workload(1, 1, tasks=tasks), method)
        passes = planned.passes
        tables = {id(table.weight) for table in step._tables}
        layers = [parameter for parameter in model.parameters() if id(parameter) not in tables]
        of_shared = sum(t.tensor.numel() for t in model.shared().tensors if t.exchanged is None)
        found = summed_bytes(tasks, sum(map(Tensor.numel, layers)), passes, of_shared) + planned.balancer_sent
        for table in step._tables:
            assert table.sharded
            ids, width = table.gathered.ids, table.width
            asked = torch.cat(processes.all_gather_object(ids))
            given = (table.storage.places.owners_of(asked) == processes.rank).sum().item()
            found += planned.forwards * asked_bytes(len(ids), processes.size)
            found += exchanged_bytes(len(ids), width, passes, planned.forwards * given)
        features = sum(len(table.owners) for table in step._tables)
        assert len(step._tables) == TABLES
        return sent, found + measured_bytes(TABLES, features, planned.measured, clip is not None)

    several = {number: in_threads(number, sent) for number in (2, 4)}
    assert [counted for found in several.values() for counted, _ in found] == [
        expected for found in several.values() for _, expected in found
    ]
    means = {number: sum(counted for counted, _ in found) / number for number, found in several.items()}
    assert means[4] - means[2] == 2 * 8 * TABLES * (1 + method.needs_losses_after_step)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_memory_is_as_many_bytes(optimizer: type, small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0)
    _, step = made(small, recmtl.Sum, ProcessGroup(), optimizer)
    batch = next(Loader(small.train, 40, seed=0).epoch())
    step(batch)
    for rows in step.row_optimizers:
        weight = rows.table.weight
        held = list(rows.state_dict()["elements"].values())
        kept, kept_by_row = KEPT[optimizer.__name__]
        sizes = Workload(1, *weight.shape, kept=kept, kept_by_row=kept_by_row)
        assert Plan(sizes).table_bytes == weight.nbytes + sum(value.nbytes for value in held)
        for processes in (2, 3, 200):
            spread = Plan(replace(sizes, processes=processes, batch_size=processes), sharded=True)
            largest = max(RowPlaces(sizes.ids, processes, rank).own for rank in range(processes))
            assert spread.table_bytes == 4 * sizes.row_numbers * largest
    packed = small.train.packed()
    assert (
        packed.shape[1] * 4
        == Workload(
            1, 1, columns=batch.ids.shape[1], numbers=batch.numeric.shape[1], tasks=batch.labels.shape[1] + 1
        ).row_bytes
    )  # one more number, the weight


@pytest.mark.parametrize("method", [recmtl.ExcessMTL, recmtl.DBMTL, recmtl.RotoGrad, recmtl.FAMO])
def test_state_of_a_balancer_is_as_many_bytes(method: type, small: recmtl.PreparedData) -> None:
    model, step = made(small, method, ProcessGroup())
    held = sizes_of_balancer(model, step._balancer)["balancer_held"]
    step(next(Loader(small.train, 40, seed=0).epoch()))
    own = list(step._balancer.parameters())
    states = [optimizer.state[p] for optimizer in step.optimizers for p in own if p in optimizer.state]
    kept = [value for state in states for value in state.values() if value.dim()]
    gradients = [p.grad for p in own if p.grad is not None]
    assert len(gradients) == len(own) == len(kept) / 2
    assert held == sum(value.nbytes for value in (*own, *gradients, *kept, *step._balancer.buffers()))


def test_distinct_ids_by_counting() -> None:
    """No skew has more than evenly drawn ids."""
    sizes = Workload(1, 50, columns=2)
    generator = torch.Generator().manual_seed(0)
    evenly = torch.randint(50, (2000, 60), generator=generator)
    assert sizes.distinct(30) == pytest.approx(sum(len(row.unique()) for row in evenly) / 2000, rel=0.01)
    skewed = torch.multinomial(1 / torch.arange(1.0, 51), 2000 * 60, True, generator=generator).view(2000, 60)
    assert sum(len(row.unique()) for row in skewed) / 2000 < sizes.distinct(30)
    assert math.isclose(sizes.distinct(1), 50 * (1 - (1 - 1 / 50) ** 2))


def test_bytes_of_spread_tables_do_not_grow_with_the_processes() -> None:
    spread = [Plan(replace(LARGE, processes=n, batch_size=2048 * n), sharded=True).sent() for n in (2, 64)]
    assert spread[0]["rows and gradients"] == spread[1]["rows and gradients"]
    whole = [Plan(replace(LARGE, processes=n, batch_size=2048 * n)).sent() for n in (2, 64)]
    assert whole[1]["rows and gradients"] > 30 * whole[0]["rows and gradients"]


def test_sizes_of_a_prepared_dataset(small: recmtl.PreparedData) -> None:
    """Those of the model that would be trained on it, but for sizes that are given."""
    model = recmtl.SharedBottom(small.schema)
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    sizes = Workload.of(small, processes=2, tasks=5)
    assert (sizes.rows, sizes.processes, sizes.tasks) == (len(small.train), 2, 5)
    lists = [small.train.table[f"list:{block.name}"].to_pylist() for block in small.schema.list_blocks]
    elements = sum(len(ids) for column in lists for ids in column) / len(small.train)
    assert (sizes.tables, sizes.columns) == (len(tables), math.ceil(small.schema.id_columns + elements))
    assert sizes.ids == sum(table.rows for table in tables)
    assert sizes.ids * sizes.width == pytest.approx(sum(table.weight.numel() for table in tables))


RECIPE = """
model: {class_path: SharedBottom, init_args: {layers: [4], encoder: {width: 7}}}
balancer: PCGrad
trainer: {optimization: {batch_size: 64, clip_norm: 1, optimizer: recmtl.RowWiseAdagrad}}
"""


def test_sizes_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the model that it builds, of which a table of 20 GB is not allocated."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    rows = pd.DataFrame({"user": [*"abc"] * 4, "item": [*"ab"] * 6, "x": range(12), "click": [0, 1] * 6, "pay": 0})
    features = [recmtl.Categorical("user"), recmtl.Categorical("item", width=3), recmtl.Numeric("x")]
    tasks = [recmtl.Task("click", "click"), recmtl.Task("pay", "pay")]
    data = recmtl.prepare(recmtl.Schema(features, tasks), rows, holdout=0)
    model = recmtl.SharedBottom(data.schema, layers=[4], encoder=partial(recmtl.FeatureEncoder, width=7))
    tables = [module.weight.numel() for module in model.modules() if isinstance(module, EmbeddingTable)]
    large = [recmtl.Categorical("user", hash_buckets=700_000_000), *features[1:]]
    data = recmtl.prepare(recmtl.Schema(large, tasks), rows, out=tmp_path / "data", holdout=0)
    found, sizes, balancer, kept = sizes_of_recipe(str(tmp_path / "recipe.yaml"), data)
    assert (found, balancer, kept) == (data, recmtl.PCGrad, (0, 1))
    ids = sum(block.size for block in data.schema.id_blocks)
    assert sizes == {
        "parameters": sum(p.numel() for p in model.parameters()) - sum(tables),
        "tasks": 2,
        "batch_size": 64,
        "clipped": True,
        "ids": ids,
        "tables": 2,
        "width": pytest.approx(7, abs=1e-6),
        "balancer_sent": 0,
        "balancer_held": 8 * 9 + 4 * 2,  # nine int64 and two float32
    }
    assert ids > 700_000_000
    (tmp_path / "open.yaml").write_text(RECIPE.replace("batch_size: 64, ", ""))
    for count, size in ((None, 32), (10**9, 2048)):  # as `recmtl train` chooses it
        assert sizes_of_recipe(str(tmp_path / "open.yaml"), data, count)[1]["batch_size"] == size
    _, other, method, _ = sizes_of_recipe(str(tmp_path / "recipe.yaml"), data, balancer="RotoGrad")
    assert method is recmtl.RotoGrad
    assert other["balancer_sent"] == 8 * 3 + 4 * (3 + 2 * 4 * 4)  # rotations of the 4 numbers that two heads read
    by_domain = recmtl.Schema([*features, recmtl.Categorical("site")], tasks, domain="site")
    (tmp_path / "domains.yaml").write_text(RECIPE.replace("trainer: {", "trainer: {balance_domains: true, "))
    sites = recmtl.prepare(by_domain, rows.assign(site=[*"xyz"] * 4), holdout=0)
    assert sizes_of_recipe(str(tmp_path / "domains.yaml"), sites)[1]["tasks"] > 2 * 2
    given = [str(tmp_path / "data"), "--config", str(tmp_path / "recipe.yaml"), "--ids", "1e9"]
    for options, gigabytes in ([[], "32.000"], [["--width", "99"], "400.000"]):  # one number a row, whatever its width
        assert main(["plan", *given, *options]) == 0
        assert f"│{gigabytes}│" in capsys.readouterr().out.replace(" ", "")
    assert main(["plan", "--config", str(tmp_path / "recipe.yaml")]) == 2
    assert "names no training rows: give the folder of a prepared dataset" in capsys.readouterr().err


def test_what_breaks_first() -> None:
    """192 GB of tables with Adam; 3 GB of each of 64 processes, 1 GB with one number for a row."""

    def first(sizes: Workload, gigabytes: float) -> str:
        return advice(sizes, Machine(memory=gigabytes * 1e9))[0]

    assert "192.0 GB of tables and optimizer in each process, which has 80.0 GB" in first(LARGE, 80)
    assert first(LARGE, 80).endswith(": `--trainer.shard_tables true` spreads them")
    assert "recmtl.RowWiseAdagrad" in first(LARGE, 2)
    assert first(LARGE, 200).startswith("whole tables fit")
    assert "128 processes with `--trainer.shard_tables true` hold it" in first(replace(LARGE, kept=0), 0.6)
    assert "no number of processes" in first(LARGE, 0.001)
    alone = first(replace(LARGE, processes=1, batch_size=2048), 80)
    assert alone.endswith("4 processes with `--trainer.shard_tables true` hold it")
    assert str(f"{MOST_IDS:,}") in first(replace(LARGE, ids=3 * 10**9), 80)


def test_time_is_bound_by_what_is_slowest() -> None:
    spread = Plan(LARGE, sharded=True)
    slow = Machine(disk=1e6)
    assert spread.step_seconds(slow) == pytest.approx(2048 * LARGE.row_bytes / 1e6)
    assert advice(LARGE, slow)[-1].startswith("with spread tables, most of a step goes into reading rows")
    steps = math.ceil(10**9 / LARGE.batch_size)
    assert spread.epoch_seconds(slow) == pytest.approx(steps * spread.step_seconds(slow))


def test_the_command_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "1e9", "--ids", "1_000_000_000", "--processes", "64", "--batch_size", "131072"]
    assert main(["plan", *sizes, "--balancer", "PCGrad"]) == 0
    out = capsys.readouterr().out
    printed = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    page = Path(__file__).parents[1] / "docs/howto/plan_a_large_training.md"
    quoted = [line for line in page.read_text().split("## What breaks first")[0].splitlines() if line.startswith("| ")]
    assert len(quoted) > 10
    assert [line for line in quoted[1:] if [cell.strip() for cell in line.strip("|").split("|")] not in printed] == []
    assert "`--trainer.shard_tables true`" in out
    assert main(["plan", *sizes[:4]]) == 0
    assert "spread over processes" not in capsys.readouterr().out.splitlines()[1]
    assert main(["plan", *sizes[:6], "--batch_size", "63"]) == 2
    assert capsys.readouterr().err == "recmtl: `batch_size` must be at least 64, got 63\n"
    assert main(["plan", *sizes, "--network", "0"]) == 2
    assert capsys.readouterr().err == "recmtl: `network` must be above 0, got 0\n"
    assert main(["plan", *sizes, "--balancer", "PCGard"]) == 2
    assert "did you mean 'PCGrad'" in capsys.readouterr().err
    assert main(["plan", *sizes[:2]]) == 2
    assert "give the folder of a prepared dataset, a recipe by `--config`, or `--rows`" in capsys.readouterr().err
    assert main(["plan", "--rows", "1.5e0", *sizes[2:]]) == 2
    assert "`--rows` must be an integer or null, got '1.5e0'" in capsys.readouterr().err
