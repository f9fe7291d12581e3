"""Tables that are spread over processes by TorchRec train as in one process, in float32 with SiLU: a ReLU may flip.

Batches, tables and processes are those of `test_sharded_tables`: lists, parts of batches without rows, and, of three
processes, one that owns no row of a table.
"""

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_distributed import BATCH, generated
from test_sharded_tables import SGD, small_tables_count, tables_of, whole
from together import place, together
from torch import Tensor

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.errors import RunError
from recmtl.features import EmbeddingTable, TorchRecRows, torchrec_rows
from recmtl.features.sharded_rows import ShardedRows
from recmtl.train import Optimization, Step
from recmtl.train.distributed import storage_of

LIMIT = 1e-6
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SETTINGS = [(recmtl.PCGrad, SGD), (recmtl.MetaBalance, SGD), (recmtl.PCGrad, ADAM)]
TorchRec = pytest.mark.skipif(not importlib.util.find_spec("torchrec"), reason="no TorchRec")


def prepared() -> recmtl.PreparedData:
    width = {"width": 4}
    features = [recmtl.Categorical("user", **width), recmtl.MultiCategorical("genres", **width)]
    features += [recmtl.Categorical("country", hash_buckets=3, width=8), recmtl.Numeric("price")]
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "conversion", given="click")]
    schema = recmtl.Schema(features, tasks, weight="weight")
    return recmtl.prepare(schema, generated(5 * BATCH), generated(BATCH))


def trained(processes: ProcessGroup, options: list[Any]) -> list[dict[str, Tensor]]:
    """Weights, optimizer states, losses and predictions of each setting, with each option of `shard_tables`."""
    data, run = prepared(), recmtl.RunConfig(device="cpu", progress=False)
    return [finished(data, run, processes, option, *setting) for option in options for setting in SETTINGS]


def finished(
    data: recmtl.PreparedData,
    run: recmtl.RunConfig,
    processes: ProcessGroup,
    option: Any,
    method: Callable[[], recmtl.Balancer],
    optimizer: Callable[..., torch.optim.Optimizer],
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    optimization, style = Optimization(BATCH, optimizer, clip_norm=1.0), recmtl.LayerStyle(activation="silu")
    with small_tables_count():
        model = recmtl.MMOE(data.schema, layers=[8], tower_layers=[6], style=style)
        trainer = recmtl.Trainer(model, method(), optimization=optimization, run=run, shard_tables=option)
        step = Step(model, trainer.balancer, optimization, 10)
    state = torch.get_rng_state()
    batches = [*recmtl.Loader(data.train, BATCH, processes=processes).epoch()] * 2
    found = {f"losses {number}": step(batch) for number, batch in enumerate(batches)}
    assert torch.equal(torch.get_rng_state(), state)
    found |= {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    tables = {f"{n}.weight": m for n, m in model.named_modules() if m in tables_of(model)}
    found |= {name: whole(table, table.weight, processes) for name, table in tables.items()}
    for index, rows in enumerate(step.row_optimizers):
        found |= {f"{n} {index}": whole(rows.table, value, processes) for n, value in rows.elements.items()}
    if option == "torchrec":
        check_sent(next(iter(tables.values())))
    (valid,) = recmtl.Loader(data.valid, BATCH).epoch()
    with torch.no_grad():
        return found | {f"predicted {task}": values for task, values in model.eval()(valid).items()}


def check_sent(table: EmbeddingTable) -> None:
    """What it says that it sent, TorchRec sent, and as much as the documentation says."""
    processes, real, found = table.storage.processes, dist.all_to_all_single, []

    def counted(*arguments: Any, **named: Any) -> Any:
        found.append(named["input"] if "input" in named else arguments[1])
        return real(*arguments, **named)

    kept, zeros = table.weight.clone(), torch.zeros_like(table.weight)
    assert not copy.deepcopy(table.storage).read(zeros, torch.arange(table.rows)).any()  # a copy has rows of its own
    assert torch.equal(table.weight, kept)
    before, ids = processes.sent, torch.arange(table.rows).repeat(2)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(dist, "all_to_all_single", counted)
        table.storage.read(table.weight, ids)
    sent = processes.sent - before
    given = processes.size * len(table.weight) * table.width
    assert sent == sum(tensor.nbytes for tensor in found) == 4 * table.rows + 28 * processes.size + 4 * given


@TorchRec
@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_equals_one_process(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And, bit for bit, tables that are spread without TorchRec."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(number))  # as torchrun does
    one = trained(ProcessGroup(), [None])
    for own in together(number, tmp_path / "several", trained, [True, "torchrec"]):
        spread, by_torchrec = own[: len(one)], own[len(one) :]
        for (_, optimizer), expected, other, found in zip(SETTINGS, one, spread, by_torchrec, strict=True):
            assert all(torch.equal(found[name], value) for name, value in other.items())
            errors = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
            # Adam divides by the size of the gradient, so that the rounding of a small one counts as much.
            assert max(errors.values()) <= (LIMIT if optimizer is SGD else 100 * LIMIT), errors


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


def test_what_holds_the_rows_is_named() -> None:
    assert [storage_of(option) for option in (None, True, "torchrec")] == [ShardedRows, ShardedRows, TorchRecRows]
    with pytest.raises(ValueError, match=r"must be true, false or one of \['torchrec'\], got 'ray'"):
        storage_of("ray")  # type: ignore[arg-type]
