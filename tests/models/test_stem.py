"""STEM beside the equations of its paper, and whose gradients reach which embeddings."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl.data import Batch, Loader
from recmtl.features import EmbeddingTable
from recmtl.train import Step
from recmtl.train import step as step_module
from recmtl.train.options import Optimization
from tests.models.one_by_one import expert, gate, mixture, same_in_value_and_gradient

OWN, COMMON = 2, 3
SIZES = {"task_experts": OWN, "shared_experts": COMMON, "layers": [8, 5], "tower_layers": [4]}


@pytest.fixture
def batch(aliexpress: recmtl.PreparedData) -> Batch:
    found = next(Loader(aliexpress.train, 64, seed=0).epoch())
    return dataclasses.replace(found, numeric=found.numeric.double(), labels=found.labels.double())


def built(data: recmtl.PreparedData) -> recmtl.STEM:
    """A model whose embeddings are of the size of 1, so that every gradient counts."""
    torch.manual_seed(0)
    model = recmtl.STEM(data.schema, **SIZES).double()
    for module in model.modules():
        if isinstance(module, EmbeddingTable):
            nn.init.normal_(module.weight)
    return model


def outputs_of(model: recmtl.STEM, batch: Batch) -> tuple[list[list[Tensor]], list[Tensor]]:
    own = [
        [expert(experts, i, encoder(batch)) for i in range(OWN)]
        for experts, encoder in zip(model.task_experts, model.task_encoders, strict=True)
    ]
    return own, [expert(model.shared_experts, i, model.encoder(batch)) for i in range(COMMON)]


def test_views_and_gradients_are_those_of_the_equations(aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    """All forward, task-specific backward: a task mixes copies of the other tasks' experts without a gradient."""
    model = built(aliexpress)
    own, common = outputs_of(model, batch)
    twins = []
    for k in range(2):
        weights = gate(model.gates[k], 0, model.task_encoders[k](batch) + model.encoder(batch))
        read = [[o if j == k else o.detach() for o in group] for j, group in enumerate(own)]
        twins.append(mixture(weights, [*read[0], *read[1], *common]))
    before = [p for name, p in model.named_parameters() if not name.startswith("heads.")]
    same_in_value_and_gradient(list(model.trunk(batch)), twins, before)


def test_a_task_reads_all_embeddings_and_trains_its_own_and_the_shared(
    aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(aliexpress)
    tables = [encoder.tables[0].weight for encoder in (*model.task_encoders, model.encoder)]
    for k in range(2):
        view = model.trunk(batch)[k]
        gradients = torch.autograd.grad(view.sum(), tables, materialize_grads=True)
        assert [bool(g.any()) for g in gradients] == [k == 0, k == 1, True]
        for table in tables:
            saved = table.detach().clone()
            with torch.no_grad():
                table += 1
                assert not torch.allclose(model.trunk(batch)[k], view)
                table.copy_(saved)


def test_every_encoder_is_one_of_its_own(aliexpress: recmtl.PreparedData) -> None:
    model = built(aliexpress)
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    widths = len(model.encoder.tables)
    assert len({table.weight.data_ptr() for table in tables}) == len(tables) == 3 * widths


def test_all_encoders_train_in_row_mode(
    aliexpress: recmtl.PreparedData, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under plain SGD they train as in dense mode."""
    weights = []
    for rows in (10**9, 0):
        monkeypatch.setattr(step_module, "ROW_MODE", rows)
        model = built(aliexpress)
        trainer = recmtl.Trainer(model, recmtl.PCGrad(seed=0), run=recmtl.RunConfig(progress=False, device="cpu"))
        step = Step(model, trainer.balancer, Optimization(optimizer=lambda p: torch.optim.SGD(p, lr=0.5)), 10)
        assert len(step._tables) == (0 if rows else 3 * len(model.encoder.tables))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for _ in range(3):
            step(batch)
        weights.append(list(model.parameters()))
        assert not any(map(torch.equal, before, weights[-1]))
    for dense, by_rows in zip(*weights, strict=True):
        torch.testing.assert_close(dense, by_rows, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_experts": 0}, "`task_experts` must be at least 1, got 0"),
        ({"shared_experts": 0}, "`shared_experts` must be at least 1, got 0"),
        ({"layers": []}, "`layers` must hold at least one layer, got none"),
    ],
)
def test_bad_sizes_of_the_experts(options: dict[str, object], said: str, aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=said):
        recmtl.STEM(aliexpress.schema, **options)
