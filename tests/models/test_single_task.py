"""Single-task training is one training for each task."""

import copy
import dataclasses

import pytest
import torch

import recmtl
from recmtl.balance import Sum
from recmtl.data import Loader
from recmtl.features import EmbeddingTable
from recmtl.models import Losses
from recmtl.train import Step
from recmtl.train import step as step_module
from recmtl.train.options import Optimization

LAYERS = {"layers": [8, 4], "tower_layers": [3]}


def alone(data: recmtl.PreparedData, model: recmtl.SingleTask, task: int) -> recmtl.SharedBottom:
    """A shared-bottom of one task with the weights that a single-task model has for it."""
    one = recmtl.SharedBottom(data.schema, **LAYERS).double()
    one.objectives = one.objectives[task : task + 1]
    one.task_losses = Losses(one.schema, one.objectives)
    one.encoder.load_state_dict(model.encoders[task].state_dict())
    one.bottom.load_state_dict(model.bottoms[task].state_dict())
    one.heads.load_state_dict(model.heads.state_dict())
    return one


def balancer(objectives: int) -> Sum:
    made = Sum()
    made.setup(objectives=objectives, heads=2, features=LAYERS["layers"][-1], parts=0)
    return made


@pytest.mark.parametrize("row_mode", [False, True], ids=["dense", "rows"])
def test_a_step_is_that_of_each_task_by_itself(
    row_mode: bool, aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 10**9)
    torch.manual_seed(0)
    model = recmtl.SingleTask(aliexpress.schema, **LAYERS).double()
    singles = [alone(aliexpress, model, task) for task in range(len(model.objectives))]
    start = copy.deepcopy(model.state_dict())
    step, *steps = [Step(m, balancer(len(m.objectives)), Optimization(), 8) for m in (model, *singles)]
    widths = len(singles[0].encoder.tables)
    assert len(step._tables) == (len(singles) * widths if row_mode else 0)
    for batch in list(Loader(aliexpress.train, 64, seed=0).epoch())[:4]:
        batch = dataclasses.replace(batch, labels=batch.labels.double(), numeric=batch.numeric.double())
        losses = torch.cat([one(batch) for one in steps])
        torch.testing.assert_close(step(batch), losses, rtol=1e-10, atol=0)
    for task, single in enumerate(singles):
        name = model.objectives[task].name
        for mine, other in (
            (model.encoders[task], single.encoder),
            (model.bottoms[task], single.bottom),
            (model.heads[name], single.heads[name]),
        ):
            for key, weight in mine.state_dict().items():
                torch.testing.assert_close(weight, other.state_dict()[key], rtol=0, atol=1e-10)
    assert all(not torch.equal(start[name], weight) for name, weight in model.named_parameters())


def test_every_task_has_tables_of_its_own(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.SingleTask(aliexpress.schema, **LAYERS)
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    widths = len(model.encoders[0].tables)
    assert len({id(table.weight) for table in tables}) == len(tables) == len(model.objectives) * widths


def test_with_a_funnel_it_has_the_tasks_of_the_schema(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.SingleTask(aliexpress.schema, **LAYERS)
    assert [task.name for task in model.objectives] == list(model.heads) == ["ctr", "ctcvr"]
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(progress=False, device="cpu"))
    assert list(trainer.fit(aliexpress.train).evaluate(aliexpress.test).index) == ["ctr", "cvr", "ctcvr"]


def test_needs_a_layer(aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        recmtl.SingleTask(aliexpress.schema, layers=[])
