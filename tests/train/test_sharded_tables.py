"""Tables whose rows are spread over processes train as in one process, 10 steps in float64.

Every table is spread, however small: of some, processes own no row, or none that a batch looks up. They are drawn by
their owners, those of one process whole: a seed gives the same numbers. Rows and models are those of
`test_distributed`: tasks with rows in one process alone, lists, shared vocabularies, empty parts of batches.
"""

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from cases import Case
from test_distributed import DEFAULTS, OTHER_SETTINGS, batches, built, data_for, error
from together import in_threads, together
from torch import Tensor, nn

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.data import IdLists
from recmtl.errors import CallbackError, RunError
from recmtl.features import EmbeddingTable, FeatureEncoder
from recmtl.features import sharding as drawing
from recmtl.features.sharded_rows import ShardedRows
from recmtl.schema import Categorical, IdBlock, MultiCategorical
from recmtl.train import Optimization, Step
from recmtl.train import distributed as sharding
from recmtl.train import step as step_module
from recmtl.train.describe import describe_setup
from recmtl.train.divergence import finite_by_tensor
from recmtl.train.options import ShardTables

LIMIT = 1e-12
SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
NO_CLIP = 1_000.0


class Setting(NamedTuple):
    model: str
    balancer: Case
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    clip_norm: float = 1.0
    broken: bool = False  # gradients of one id are infinite in some steps
    scaled: bool = False  # losses are, as in fp16, but nothing is computed in it


SUM, PCGRAD, METABALANCE = (Case(method, {}) for method in (recmtl.Sum, recmtl.PCGrad, recmtl.MetaBalance))
OPTIMIZERS = [
    functools.partial(torch.optim.Adam, lr=0.01),
    functools.partial(torch.optim.Adagrad, lr=0.05),
    functools.partial(recmtl.RowWiseAdagrad, lr=0.05),
    functools.partial(torch.optim.SGD, lr=0.05),
]
# Of methods whose backward passes and messages are alike, one.
METHODS = {"Sum", "GradNorm", "FAMO", "DWA", "GLS", "IMTLL", "UncertaintyWeighting", "PCGrad", "MetaBalance", "NashMTL"}
METHODS |= {"IMTLG", "DBMTL", "GradCraft", "ExcessMTL", "NormalizedSplitter", "GradDrop", "RotoGrad"}
BALANCERS = [Setting("ESMM", case) for case in DEFAULTS if case.method.__name__ in METHODS]
MODELS = [Setting(name, case) for name, case, by_rows in OTHER_SETTINGS if by_rows or name == "PEPNet"]
OPTIONS = [
    *(Setting("MMOE", PCGRAD, optimizer) for optimizer in OPTIMIZERS),
    Setting("MMOE", METABALANCE, clip_norm=NO_CLIP),
    Setting("MMOE", METABALANCE, broken=True),
    Setting("ESMM", SUM, broken=True),
    Setting("ESMM", SUM, broken=True, scaled=True),
    Setting("SingleTask", SUM),
    Setting("SharedBottom", Case(recmtl.GradNorm, {})),
]


def tables_of(model: nn.Module) -> list[EmbeddingTable]:
    return [module for module in model.modules() if isinstance(module, EmbeddingTable)]


def whole(table: EmbeddingTable, own: Tensor, processes: ProcessGroup) -> Tensor:
    """A tensor with a row for each of the table's, in the order of its ids."""
    if not table.sharded:
        return own.detach().clone()
    by_place = torch.cat(processes.all_gather(own.detach()))
    return torch.empty_like(by_place).index_copy_(0, table.ids_at(0, table.rows), by_place)


def trained(
    processes: ProcessGroup, settings: list[Setting], storage: type[ShardedRows] = ShardedRows
) -> list[dict[str, Tensor]]:
    """Weights, optimizer states, losses, counts of what was not finite, and measured gradients of each setting."""
    data = {name: data_for(name) for name in dict.fromkeys(setting.model for setting in settings)}
    return [finished(data[setting.model], setting, processes, storage) for setting in settings]


def finished(
    data: recmtl.PreparedData, setting: Setting, processes: ProcessGroup, storage: type[ShardedRows]
) -> dict[str, Tensor]:
    spread = recmtl.sharded_tables(processes, storage=storage) if processes.size > 1 else nullcontext()
    with small_tables_count(), spread:
        model, balancer = built(setting.model, setting.balancer, data, processes)
    tables = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, EmbeddingTable)}
    options = Optimization(30, setting.optimizer, clip_norm=setting.clip_norm, balancer_rate=0.02, nonfinite_steps=2)
    with small_tables_count():
        step = Step(model, balancer, replace(options, precision="fp16") if setting.scaled else options, 10)
    if setting.broken:
        break_gradients(next(iter(tables.values())))
    found: dict[str, Tensor] = {}
    for number, batch in enumerate(batches(data, processes)):
        found[f"losses {number}"] = step(batch, with_stats=number % 5 == 0)
        found[f"taken {number}"] = torch.tensor(float(step.taken))
        if number % 5 == 0 and step.gradient_stats is not None:
            found |= {f"norms {number}": step.gradient_stats.norms, f"cosines {number}": step.gradient_stats.cosines}
    found |= {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    found |= {name: whole(table, table.weight, processes) for name, table in tables.items()}
    for index, own in enumerate(step.row_optimizers):
        state = own.state_dict()
        found |= {f"{name} {index}": whole(own.table, value, processes) for name, value in own.elements.items()}
        found |= {f"{name} {index}": value.double() for name, value in state["counts"].items()}
    counts = torch.stack([step.nonfinite.counts, step.nonfinite.first, step.nonfinite.reached])
    assert counts.any() == (setting.broken and not setting.scaled)
    return found | {"not finite": counts.double()}


@contextmanager
def small_tables_count() -> Iterator[None]:
    """Treat tables as large, whatever their size; blocks of drawn rows are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "ROW_MODE", 0)
        patch.setattr(drawing, "LARGE", 0)
        patch.setattr(sharding, "LARGE", 0)
        patch.setattr(drawing, "BLOCK", 5)
        yield


def break_gradients(table: EmbeddingTable) -> None:
    """Make the gradient of the first feature infinite where its id is 3, in two of three steps."""
    looked_up = [0]

    def spoil(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if output.singles.requires_grad:
            looked_up[0] += 1
            spoilt = (inputs[0].index_select(1, table.columns)[:, :1, None] == 3) & (looked_up[0] % 3 > 0)
            output.singles.register_hook(lambda gradient: gradient.masked_fill(spoilt, torch.inf))

    table.register_forward_hook(spoil)


class Measuring(recmtl.Callback):
    """Measures the model in the first process alone."""

    def __init__(self, rows: recmtl.Rows) -> None:
        self.rows = rows

    def on_epoch_end(self, context: recmtl.TrainingContext) -> None:
        context.measure(self.rows)


class Fitted(NamedTuple):
    predictions: dict[str, Any]
    best: float | None
    auc: float
    usage: dict[str, list[float]]
    weight: Tensor
    own_rows: int
    described: list[str]


def trainer_of(
    processes: ProcessGroup, data: recmtl.PreparedData, by_owners: bool = False, **options: Any
) -> recmtl.Trainer:
    # If tables are drawn whole and cut, the weights of the first process count.
    torch.manual_seed(0 if by_owners else processes.rank)
    with recmtl.sharded_tables(processes) if by_owners else nullcontext():
        style = recmtl.LayerStyle(activation="silu")  # a ReLU may flip by rounding in float32
        model = recmtl.MMOE(data.schema, layers=[12, 8], tower_layers=[6], style=style)
    run = recmtl.RunConfig(device="cpu", progress=False)
    optimization = Optimization(30, SGD, clip_norm=1.0)
    given = {"epochs": 3, "shard_tables": True, "optimization": optimization, "run": run} | options
    return recmtl.Trainer(model, recmtl.PCGrad(), **given)


def fitted(processes: ProcessGroup, by_owners: bool, option: ShardTables = True) -> Fitted:
    """Train by the trainer, without a run folder; tables are drawn by their owners, or whole and then cut."""
    data = data_for("MMOE")
    with small_tables_count():
        trainer = trainer_of(processes, data, by_owners, shard_tables=option).fit(data.train, data.valid)
        table = tables_of(trainer.model)[-1]
        shares = processes.all_gather_object(trainer.predictor.outputs(data.valid))
        return Fitted(
            {name: np.concatenate([share[name] for share in shares]) for name in shares[0]},
            trainer.result.best,
            float(trainer.evaluate(data.valid).loc["ctr", "auc"]),
            trainer.predictor.expert_usage(data.valid),
            whole(table, table.weight, processes),
            len(table.weight),
            [line for line in describe_setup(trainer.setup, data.train, None) if line.startswith(("tables", "model"))],
        )


def refused(processes: ProcessGroup) -> list[str]:
    """What several processes are told of what they cannot do."""
    data, found = data_for("MMOE"), []

    def attempt(*errors: type[Exception], by_owners: bool = False, **options: Any) -> None:
        with small_tables_count(), pytest.raises(errors) as error:
            trainer_of(processes, data, by_owners, **options).fit(data.train)
        found.append(str(error.value))

    attempt(CallbackError, callbacks=[Measuring(data.valid)])
    attempt(ValueError, by_owners=True, shard_tables=False)
    attempt(RunError, shard_tables=processes.rank == 0)
    with small_tables_count():
        trainer = trainer_of(processes, data)
    with pytest.raises(RuntimeError, match="trained by the rows that a step gathers") as error:
        trainer.model(next(recmtl.Loader(data.valid, 3).epoch()))
    return [*found, str(error.value)]


def pieces(processes: ProcessGroup, folder: Path) -> dict[str, Any]:
    """A table of 2 rows, one with lists that one process alone looks up, drawn rows, and rows that are put."""
    spread = processes.size > 1
    with small_tables_count(), recmtl.sharded_tables(processes):
        torch.manual_seed(1)
        tiny = EmbeddingTable([IdBlock(Categorical("day"), 2, 0, 1)], 3)
        block = IdBlock(Categorical("item"), 23, 0, 1)
        blocks = [block, IdBlock(MultiCategorical("seen", share_with="item"), 23, 0, 4)]
        table = EmbeddingTable(blocks, 2)
        data = data_for("MMOE")
        encoder = FeatureEncoder(data.schema, 4, {"user": folder / "vectors.csv"}, freeze=True)
    assert tiny.sharded == table.sharded == spread
    drawn = whole(table, table.weight, processes)
    with small_tables_count():
        torch.manual_seed(1)
        kept_whole = [EmbeddingTable([IdBlock(Categorical("day"), 2, 0, 1)], 3), EmbeddingTable(blocks, 2)]
    assert torch.equal(kept_whole[1].weight, drawn)
    assert kept_whole[0].weight.equal(whole(tiny, tiny.weight, processes))
    table.put_rows(block, torch.tensor([3, 22]), torch.tensor([[1.0, 2], [3, 4]]))
    count = 5 if processes.rank == processes.size - 1 else 0
    ids = torch.arange(count, dtype=torch.int32)[:, None]
    lists = (IdLists(torch.full((2 * count,), 22, dtype=torch.int32), torch.arange(0, 2 * count + 1, 2)),)
    for each in (tiny, table):
        each.start_row_mode()
    looked_up, of_tiny = table(ids, lists), tiny(ids % 2)
    again = table(ids[1:3], [own.rows(1, 3) if count else own for own in lists])
    assert torch.equal(again.singles, looked_up.singles[1:3])
    with torch.no_grad():
        assert torch.equal(table(ids, lists).lists[0].values, looked_up.lists[0].values)
    total = looked_up.singles.sum() + of_tiny.singles.sum() + 0 * again.singles.sum() + looked_up.lists[0].values.sum()
    through = [each.shared_tensors()[0].exchanged for each in (table, tiny)] if spread else []
    torch.autograd.backward([total, *through], [None, *map(torch.zeros_like, through)])
    gradients = [torch.zeros_like(each.weight) for each in (tiny, table)]
    for each, gradient in zip((tiny, table), gradients, strict=True):
        each.gathered.put(gradient, each.gathered.rows.grad)
    if spread:
        as_dtensor = table.as_dtensor(gradients[1])
        assert as_dtensor.shape == (23, 2)
        assert as_dtensor.to_local().data_ptr() == gradients[1].data_ptr()
        (chunk,) = as_dtensor.__create_chunk_list__()
        assert (chunk.offsets[0], chunk.sizes[0]) == (table.storage.places.start, len(table.weight))
    loaded = EmbeddingTable([block], 2)
    if spread:
        loaded.shard(processes)
    loaded.load_state_dict({"weight": drawn})  # as a run of one process has it
    frozen = encoder.tables[-1]
    with torch.no_grad():
        users = frozen.rows_of(next(b for b in data.schema.id_blocks if b.name == "user"))
    return {
        "drawn": drawn,
        "loaded": whole(loaded, loaded.weight, processes),
        "put": whole(table, table.weight, processes),
        "tiny": whole(tiny, gradients[0], processes),
        "gradient": whole(table, gradients[1], processes),
        "users": users,
        "found": torch.tensor(encoder.found["user"]),
    }


def everything(processes: ProcessGroup, settings: list[Setting], folder: Path, fit: bool) -> tuple[Any, ...]:
    fits = [fitted(processes, by_owners) for by_owners in (False, True)] if fit else []
    sentences = refused(processes) if fit and processes.size > 1 else []
    return trained(processes, settings), fits, pieces(processes, folder), sentences


@pytest.mark.slow
@pytest.mark.parametrize(("number", "settings"), [(2, BALANCERS), (3, MODELS), (4, OPTIONS)])
def test_equals_one_process(number: int, settings: list[Setting], tmp_path: Path) -> None:
    """With the balancers by two processes, with other models by three, with other options by four."""
    given = settings, tmp_path, number == 2
    vectors = pd.DataFrame({"user": [1, 4, 7], **{name: [1.0, 2, 3] for name in "abcd"}})
    vectors.to_csv(tmp_path / "vectors.csv", index=False)
    ((one, one_fitted, one_piece, _),) = together(1, tmp_path, everything, *given)
    for by_trainer, by_owners in [one_fitted] * bool(one_fitted):
        assert torch.equal(by_trainer.weight, by_owners.weight)
    several = together(number, tmp_path / "several", everything, *given)
    for setting, found, expected in zip(settings, several[0][0], one, strict=True):
        assert found.keys() == expected.keys()
        errors = {name: error(found[name], value) for name, value in expected.items()}
        assert max(errors.values()) <= LIMIT, (*map(str, setting), errors)
    for other, *_ in several[1:]:
        for found, mine in zip(several[0][0], other, strict=True):
            assert all(mine[name].equal(value) for name, value in found.items())
    for rank, (_, fits, piece, sentences) in enumerate(several):
        for fit, expected_fit in zip(fits, one_fitted, strict=True):
            check_fitted(fit, expected_fit, number)
        for name, value in one_piece.items():
            assert torch.equal(piece[name], value), (rank, name)
        if fits:
            check_refused(sentences, number)


def check_fitted(found: Fitted, expected: Fitted, number: int) -> None:
    """In float32 it is the same to rounding; the best weights were kept in memory and loaded."""
    for name, values in expected.predictions.items():
        np.testing.assert_allclose(found.predictions[name], values, atol=1e-5)
    for head, values in expected.usage.items():
        np.testing.assert_allclose(found.usage[head], values, atol=1e-5)
    assert found.best == pytest.approx(expected.best, abs=1e-3)
    assert found.auc == pytest.approx(expected.auc, abs=1e-3)
    torch.testing.assert_close(found.weight, expected.weight, rtol=0, atol=1e-5)
    assert found.own_rows <= -(-len(found.weight) // number)
    assert found.described[0] == expected.described[0]
    assert found.described[1].endswith(f" of these parameters are spread over {number} processes")


def check_refused(sentences: list[str], number: int) -> None:
    expected = [
        f"the tables of the model are spread over {number} processes, which look up rows together: one alone",
        "the model was built within `sharded_tables`, and `shard_tables` is false",
        "process 0 trains with `shard_tables` True, process 1 with False",
        "a table that is spread over processes is trained by the rows that a step gathers",
    ]
    assert len(sentences) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, sentences, strict=True)), sentences


def test_what_needs_whole_tables_says_so(small: recmtl.PreparedData, tmp_path: Path) -> None:
    """A copy has the same part; a part is not taken for another, nor for a whole table, nor pickled or exported."""

    def attempt(processes: ProcessGroup) -> tuple[list[str], dict[str, Tensor]]:
        model = recmtl.SharedBottom(small.schema, layers=[4], tower_layers=[2])
        trainer = recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False))
        for table in tables_of(model):
            table.shard(processes)
        copied = trainer.fold()
        assert [len(table.weight) for table in tables_of(copied)] == [len(table.weight) for table in tables_of(model)]
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        found = []
        states = processes.all_gather_object(model.state_dict())
        refused: list[Callable[[], object]] = [
            lambda: model.load_state_dict(states[1 - processes.rank]),
            lambda: pickle.dumps(model),
            lambda: recmtl.export_model(trainer, tmp_path / "model"),
        ]
        for call in refused:
            with pytest.raises((RunError, RuntimeError, TypeError)) as error:
                call()
            found.append(str(error.value))
        return found, states[0]

    for found, part in in_threads(2, attempt):
        assert "weight has the rows at places " in found[0]
        assert "of a table that is spread over processes, expected those at " in found[0]
        assert found[1].startswith("a table that is spread over 2 processes cannot be pickled")
        assert "which one process can read" in found[2]
        with pytest.raises(RuntimeError, match=r"rows at places \[0, 5\] of a table that is spread over processes"):
            recmtl.SharedBottom(small.schema, layers=[4], tower_layers=[2]).load_state_dict(part)
    assert finite_by_tensor([torch.empty(0, 3), torch.tensor([torch.inf])]).tolist() == [True, False]


def test_tables_are_spread_where_memory_does_not_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam keeps two numbers for each weight: 1,000 take 12,000 bytes. Half of the memory may be taken."""
    spread = functools.partial(sharding.TableSpread, optimizer=torch.optim.Adam, processes=ProcessGroup())
    monkeypatch.setattr(sharding, "available_memory", lambda processes: 30_000)
    each = spread(None, device=torch.device("cpu"))
    assert [each(rows, 10) for rows in (100, 100, 20)] == [False, True, False]
    assert [spread(option, device=torch.device("cpu"))(100, 10) for option in (True, False)] == [True, False]
    held = spread(None, device=torch.device("cpu"), held=2_000)
    assert [held(100, 10), held(100, 10)] == [False, True]
    by_row = spread(None, optimizer=recmtl.RowWiseAdagrad, device=torch.device("cpu"))
    assert [by_row(1_000, 2), by_row(251, 2), by_row(250, 2)] == [False, True, False]  # 12 bytes a row
    sizes = {"Adam": (2, 0), "SGD": (0, 0), "RowWiseAdagrad": (0, 1), "Adagrad": (1, 0)}
    for name, numbers in sizes.items():
        assert sharding.numbers_kept(getattr(torch.optim, name, recmtl.RowWiseAdagrad)) == numbers
    for optimizer in (torch.optim.LBFGS, torch.optim.SparseAdam):  # one wants losses, one sparse gradients
        with pytest.raises(ValueError, match=rf"^the optimizer cannot train a ranking model: {optimizer.__name__}"):
            sharding.numbers_kept(optimizer)
