"""A model written against the public contract alone works with balancers, row mode and checkpoints."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl import balance
from recmtl.balance import Balancer
from recmtl.train import Step
from recmtl.train import step as step_module

BALANCERS = [
    c
    for c in (getattr(balance, name) for name in balance.__all__)
    if isinstance(c, type) and issubclass(c, Balancer) and not getattr(c, "__abstractmethods__", None)
]


class CrossNet(recmtl.RankingModel):
    """One cross layer (DCN-v2), stacked experts within a module of the user's, and a gate for the second task alone."""

    def __init__(self, schema: recmtl.FittedSchema, width: int = 8) -> None:
        super().__init__(schema)
        inputs = self.encoder.out_features
        self.cross = nn.Linear(inputs, inputs)
        self.body = nn.ModuleDict({"experts": recmtl.Experts(inputs, 2, [width, width], recmtl.LayerStyle())})
        self.gate = nn.Linear(inputs, 2)
        self.build_heads(self.objectives, view_features=width)

    def trunk(self, batch: recmtl.Batch) -> tuple[Tensor, ...]:
        x = self.encoder(batch)  # [B, W]
        experts = self.body["experts"](x + x * self.cross(x))  # [B, 2, D]
        gate = self.gate(x).softmax(1)  # [B, 2]
        return experts.mean(1), (gate[:, :, None] * experts).sum(1)

    def shared(self) -> recmtl.Shared:
        return recmtl.Shared.of(self.encoder, self.cross, self.body)


def run(data: recmtl.PreparedData, balancer: Balancer, **options: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    optimization = recmtl.Optimization(batch_size=256)
    config = recmtl.RunConfig(progress=False, device="cpu", **options)
    return recmtl.Trainer(CrossNet(data.schema), balancer, epochs=1, optimization=optimization, run=config)


def test_a_model_without_a_gradient_is_refused(aliexpress: recmtl.PreparedData) -> None:
    class Detached(recmtl.SharedBottom):
        def forward(self, batch: recmtl.Batch) -> dict[str, Tensor]:
            return {name: logits.detach() for name, logits in super().forward(batch).items()}

    model = Detached(aliexpress.schema, layers=[4])
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(progress=False, device="cpu"))
    with pytest.raises(recmtl.RunError, match="no loss of the model has a gradient, but it has weights to train"):
        trainer.fit(aliexpress.train)


def test_shared_tensors_have_a_part_per_feature_and_expert(aliexpress: recmtl.PreparedData) -> None:
    model = CrossNet(aliexpress.schema)
    parts = {id(s.tensor): s.parts for s in model.shared().tensors}
    own = {name: parts.get(id(p)) for name, p in model.named_parameters() if not name.startswith("heads.")}
    tables = [name for name in own if name.startswith("encoder.tables")]
    assert sum(own.pop(name) for name in tables) == len(aliexpress.schema.vocabularies)
    assert own.pop("encoder.numeric.weight") == len(aliexpress.schema.numeric)
    assert own.pop("body.experts.wide.weight") == own.pop("body.experts.wide.bias") == 2
    assert own.pop("gate.weight") is own.pop("gate.bias") is None
    assert own
    assert set(own.values()) == {1}


def test_a_tensor_that_two_modules_share_is_collected_once() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    assert [id(s.tensor) for s in recmtl.Shared.of(one, other).tensors] == [
        id(one.weight),
        id(one.bias),
        id(other.bias),
    ]


@pytest.mark.parametrize(
    ("method", "row_mode"),
    [
        *((method, True) for method in BALANCERS),
        *((method, False) for method in (balance.Sum, balance.GradNorm, balance.PCGrad, balance.RotoGrad)),
    ],
)
def test_trains_with_every_balancer(
    method: type[Balancer], row_mode: bool, aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 10**9)
    trainer = run(aliexpress, method())
    before = copy.deepcopy(trainer.model.state_dict())
    step = Step(trainer.model, trainer.balancer, trainer.setup.optimization, 20)
    batch = next(recmtl.Loader(aliexpress.train, 256, seed=0).epoch())
    first = step(batch)
    for _ in range(15):
        last = step(batch)
    assert (last < first).all()
    assert all(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters() if p.grad is not None)


def test_weights_and_rotations_come_back_from_a_run_folder(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    trained = run(aliexpress, recmtl.RotoGrad(), folder=tmp_path / "run").fit(aliexpress.train, aliexpress.valid)
    loaded = run(aliexpress, recmtl.RotoGrad(), folder=tmp_path / "run").load()
    pd.testing.assert_frame_equal(loaded.predict(aliexpress.test), trained.predict(aliexpress.test))
    folded = trained.model.fold()
    batch = next(recmtl.Loader(aliexpress.test, 64).epoch())
    for name, logits in trained.model(batch).items():
        torch.testing.assert_close(folded(batch)[name], logits, rtol=1e-4, atol=1e-5)


class OneTensor(CrossNet):
    def trunk(self, batch: recmtl.Batch) -> Tensor:
        return super().trunk(batch)[0]


class OneView(CrossNet):
    def trunk(self, batch: recmtl.Batch) -> tuple[Tensor, ...]:
        return super().trunk(batch)[:1]


class NoOutput(CrossNet):
    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"ctr": logits["ctr"]}


BROKEN = [
    (OneTensor, r"one view per head: expected 2, got a tensor of shape \[8, 8\]"),
    (OneView, "one view per head: expected 2, got 1 views"),
    (NoOutput, r"logits of all objectives: expected \['ctcvr'\], too, got \['ctr'\]"),
]


@pytest.mark.parametrize(("model", "message"), BROKEN)
def test_says_which_part_of_the_contract_is_broken(
    model: type[recmtl.RankingModel], message: str, aliexpress: recmtl.PreparedData
) -> None:
    with pytest.raises(ValueError, match=message):
        model(aliexpress.schema)(next(recmtl.Loader(aliexpress.train, 8).epoch()))
