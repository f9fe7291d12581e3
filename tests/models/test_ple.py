"""PLE beside the equations of its paper, and what each of its levels shares."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor

import recmtl
from recmtl.data import Batch, Loader
from recmtl.models.ple import LastLevel, LowerLevel
from tests.contracts.test_models import said_to_be_shared, trained_by_several
from tests.models.one_by_one import expert, gate, mixture, same_in_value_and_gradient

OWN, COMMON = 2, 3
SIZES = {"task_experts": OWN, "shared_experts": COMMON, "layers": [8, 5], "tower_layers": [4]}


@pytest.fixture
def batch(aliexpress: recmtl.PreparedData) -> Batch:
    return next(Loader(aliexpress.train, 256, seed=0).epoch())


def built(data: recmtl.PreparedData, levels: int, **options: object) -> recmtl.PLE:
    torch.manual_seed(0)
    return recmtl.PLE(data.schema, levels, **SIZES, **options)


def experts_of(
    level: LowerLevel | LastLevel, tasks: int, inputs: list[Tensor]
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The outputs of each task's experts, and of the shared ones, each for its group's input."""
    modules = level.experts if isinstance(level, LowerLevel) else [*level.own, level.common]
    every = [partial(expert, module, i) for module in modules for i in range(module.experts)]
    own = [[every[k * OWN + i](inputs[k]) for i in range(OWN)] for k in range(tasks)]
    return own, [run(inputs[-1]) for run in every[tasks * OWN :]]


def twin(model: recmtl.PLE, x: Tensor) -> list[Tensor]:
    """Equations 1 to 6 of the paper, expert by expert."""
    tasks = len(model.heads)
    inputs = [x] * (tasks + 1)
    for level in (*model.levels, model.last):
        own, common = experts_of(level, tasks, inputs)
        gates = [partial(gate, module, head) for module in level.gates for head in range(module._shape[0])]
        mixtures = [mixture(gates[k](inputs[k]), own[k] + common) for k in range(tasks)]
        if isinstance(level, LowerLevel):
            every = [output for group in (*own, common) for output in group]
            mixtures.append(mixture(gate(level.shared_gate, 0, inputs[-1]), every))
        inputs = mixtures
    return inputs


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_views_and_gradients_are_those_of_the_equations(
    levels: int, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(aliexpress, levels).double()
    batch = dataclasses.replace(batch, numeric=batch.numeric.double())
    views, twins = model.trunk(batch), twin(model, model.encoder(batch))
    before = [p for name, p in model.named_parameters() if not name.startswith("heads.")]
    same_in_value_and_gradient(views, twins, before)


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_what_is_shared_by_level(levels: int, ensemble: int, aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    """Of a task are its experts of the last level, and its gates of the last two."""
    model = built(aliexpress, levels, style=recmtl.LayerStyle(ensemble=ensemble))
    before = {name for name, _ in model.named_parameters() if not name.startswith("heads.")}
    own = ("last.own.", "last.gates.", f"levels.{levels - 2}.gates.")
    shared = {name for name in before if not name.startswith(own)}
    assert said_to_be_shared(model) == shared == trained_by_several(model, batch)


def test_one_level_is_a_mixture_of_own_and_shared_experts_alone(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    """With equal gates and experts that say constants: own 1 and 3 (or 5 and 7), shared 10, 20 and 30."""
    model = built(aliexpress, 1)
    with torch.no_grad():
        for parameter in model.last.parameters():
            parameter.zero_()
        constants = (1, 3, 5, 7), (10, 20, 30)
        for experts, values in zip((model.last.own[0], model.last.common), constants, strict=True):
            for tower, value in zip(experts.towers, values, strict=True):
                tower.layers[0].bias.fill_(value)
    first, second = model.trunk(batch)
    torch.testing.assert_close(first, torch.full_like(first, (1 + 3 + 10 + 20 + 30) / 5))
    torch.testing.assert_close(second, torch.full_like(second, (5 + 7 + 10 + 20 + 30) / 5))
    usage = model.expert_usage(batch)
    assert all(torch.equal(weights, torch.full((256, 5), 0.2)) for weights in usage.values())


@pytest.mark.parametrize("levels", [1, 2])
def test_a_nan_of_one_task_reaches_no_expert_of_another(
    levels: int, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(aliexpress, levels)
    own = list(model.last.own.parameters())
    gradients = torch.autograd.grad(model.trunk(batch)[0].sum() * torch.nan, own, materialize_grads=True)
    parts = [1 if levels == 2 or len(g) == 5 else 2 for g in gradients]  # the first layers of one level are stacked
    halves = [half for g, count in zip(gradients, parts, strict=True) for half in g.chunk(count)]
    assert sum(bool(half.isnan().any()) for half in halves) == len(halves) // 2
    assert sum(not half.any() for half in halves) == len(halves) // 2


def test_experts_that_read_the_same_are_one_layer(aliexpress: recmtl.PreparedData) -> None:
    width = built(aliexpress, 1).encoder.out_features
    one, two = built(aliexpress, 1).last, built(aliexpress, 2)
    assert [tuple(e.wide.weight.shape) for e in (*one.own, one.common)] == [(4 * 8, width), (3 * 8, width)]
    assert [tuple(e.wide.weight.shape) for e in two.levels[0].experts] == [(7 * 8, width)]
    assert [tuple(e.wide.weight.shape) for e in (*two.last.own, two.last.common)] == [(16, 5), (16, 5), (24, 5)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": 0}, "`levels` must be at least 1, got 0"),
        ({"task_experts": 0}, "`task_experts` must be at least 1, got 0"),
        ({"shared_experts": 0}, "`shared_experts` must be at least 1, got 0"),
        ({"layers": []}, "`layers` must hold at least one layer, got none"),
    ],
)
def test_bad_sizes_of_a_model(options: dict[str, object], said: str, aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=said):
        recmtl.PLE(aliexpress.schema, **options)
