"""What holds for every exported model, with every exported balancer, as one network and as an ensemble."""

import copy
import inspect
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl import balance, models
from recmtl.balance import SharedTensor
from recmtl.balance.weighting.base import LossValueBalancer
from recmtl.data import Batch, Loader
from recmtl.layers import CrossLayers, FinalMLP, GatedCrossLayers, Gates, LayerStyle, MaskNet
from recmtl.models.links import predictions_of
from recmtl.serving.network import ServedNetwork, inputs_of
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module

MODELS = [
    c
    for c in (getattr(models, name) for name in models.__all__)
    if isinstance(c, type) and issubclass(c, models.RankingModel) and not inspect.isabstract(c)
]
BALANCERS = [
    c
    for c in (getattr(balance, name) for name in balance.__all__)
    if isinstance(c, type) and issubclass(c, balance.Balancer) and not inspect.isabstract(c)
]
# Every balancer is tried with two models, and every model with one balancer of each kind: whole losses by their values,
# by gradients and by losses after the step; tasks' gradients with state by part, without, and by element; the views.
WITH_EVERY_BALANCER = (models.SharedBottom, models.MMOE)
WITH_EVERY_MODEL = (
    balance.Sum,
    balance.GradNorm,
    balance.FAMO,
    balance.MetaBalance,
    balance.PCGrad,
    balance.DBMTL,
    balance.GradDrop,
    balance.NormalizedSplitter,
    balance.RotoGrad,
)
PAIRS = [(m, b) for m in MODELS for b in BALANCERS if m in WITH_EVERY_BALANCER or b in WITH_EVERY_MODEL]
# Where no tensor is shared there is nothing to balance.
PAIRS = [(m, b) for m, b in PAIRS if m is not models.SingleTask or b is balance.Sum]
ONE_NETWORK = (models.PEPNet, models.STAR)  # have no ensembles
STYLES = {"one": LayerStyle(), "ensemble": LayerStyle(ensemble=3)}
ENSEMBLE_BALANCERS = (balance.Sum, balance.GradNorm, balance.MetaBalance, balance.RotoGrad)  # one of each family


def in_styles(*cases: tuple[type, ...]) -> list[pytest.ParameterSet]:
    """Each case as one network and, where the model has one and the balancer is of those chosen, as an ensemble."""
    return [
        pytest.param(*case, style, id="-".join([*(c.__name__ for c in case), name]))
        for case in cases
        for name, style in STYLES.items()
        if name == "one" or (case[0] not in ONE_NETWORK and {*case[1:]} <= {*ENSEMBLE_BALANCERS})
    ]


each_model = pytest.mark.parametrize(("cls", "style"), in_styles(*((model,) for model in MODELS)))
each_training = pytest.mark.parametrize(("cls", "balancer", "style"), in_styles(*PAIRS))
# What is saved, loaded and computed in bfloat16 depends on the balancer or on the model, of which the balancer sees its
# views, heads and objectives: every balancer is tried with MMOE, those above with the model whose heads read one view
# and with the one that has more objectives than tasks, and every model with one balancer of each family.
WITH_MORE = (models.SharedBottom, models.ESCM2)
FEWER = [
    (m, b)
    for m, b in PAIRS
    if m is models.MMOE or b in ENSEMBLE_BALANCERS or (m in WITH_MORE and b in WITH_EVERY_MODEL)
]
each_pair = pytest.mark.parametrize(("cls", "balancer"), FEWER, ids=[f"{m.__name__}-{b.__name__}" for m, b in FEWER])
# Where it stands in a file does not: every balancer with MMOE, and every model with the one that holds most.
EACH_ONCE = [
    (m, b) for m, b in FEWER if m is models.MMOE or b is (balance.Sum if m is models.SingleTask else balance.RotoGrad)
]
each_once = pytest.mark.parametrize(
    ("cls", "balancer"), EACH_ONCE, ids=[f"{m.__name__}-{b.__name__}" for m, b in EACH_ONCE]
)
each_saved = pytest.mark.parametrize(
    ("cls", "balancer", "style"),
    [
        case
        for case in in_styles(*FEWER)
        if case.values[0] is models.MMOE
        or case.values[1] is balance.Sum
        or (case.values[0] in WITH_MORE and "-one" in str(case.id))
    ],
)


@pytest.fixture
def batch(aliexpress: recmtl.PreparedData) -> Batch:
    return next(Loader(aliexpress.train, 256, seed=0).epoch())


SMALL = {"layers": [24, 16], "tower_layers": [16]}  # every model times every balancer is many trainings


def built(
    cls: type[models.RankingModel], data: recmtl.PreparedData, seed: int = 0, **options: object
) -> models.RankingModel:
    torch.manual_seed(seed)
    sizes = {name: sizes for name, sizes in SMALL.items() if name in inspect.signature(cls).parameters}
    return cls(data.schema, **sizes, **options)


def trained_by_several(model: models.RankingModel, batch: Batch) -> set[str]:
    """The parameters before the heads of which an element has a non-zero gradient of two objectives or more.

    It is element by element, as layers of several heads may be stacked in one weight, a gate of each for one.
    """
    before = {name: p for name, p in model.named_parameters() if not name.startswith("heads.")}
    objectives = [torch.zeros(p.shape, dtype=torch.int64) for p in before.values()]
    for loss in model.losses(model(batch), batch).values():
        gradients = torch.autograd.grad(loss, list(before.values()), retain_graph=True, allow_unused=True)
        for count, gradient in zip(objectives, gradients, strict=True):
            count += 0 if gradient is None else gradient != 0
    return {name for name, count in zip(before, objectives, strict=True) if count.max() > 1}


def said_to_be_shared(model: models.RankingModel) -> set[str]:
    """The names of the parameters that a model names as shared."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(shared.tensor)] for shared in model.shared().tensors}


@each_model
def test_logits_of_every_objective(cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    logits = built(cls, aliexpress, style=style)(batch)
    assert {t.name for t in built(cls, aliexpress, style=style).objectives} <= set(logits)
    shape = (256,) if style.ensemble == 1 else (256, style.ensemble)
    assert all(v.shape == shape and v.dtype == torch.float32 and v.isfinite().all() for v in logits.values())


@each_model
def test_predictions_start_at_the_label_rates(
    cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    logits = built(cls, aliexpress, style=style).eval()(batch)
    for task in aliexpress.schema.schema.tasks:
        mean = torch.sigmoid(logits[task.name]).mean().item()
        assert mean == pytest.approx(aliexpress.schema.rate(task).mean, rel=0.35)


@each_model
def test_views_have_the_width_that_is_said(
    cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(cls, aliexpress, style=style)
    views = model.trunk(batch)
    assert [view.shape for view in views] == [(256 * style.ensemble, model.view_features)] * len(model.heads)


@each_model
def test_shared_tensors_are_those_that_several_losses_reach_before_the_heads(
    cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(cls, aliexpress, style=style)
    assert batch.labels.isfinite().all()
    assert (batch.labels > 0).any(0).all()
    assert trained_by_several(model, batch) == said_to_be_shared(model)


@pytest.mark.parametrize("cls", [models.SharedBottom, models.MMOE], ids=lambda c: c.__name__)
@pytest.mark.parametrize("interaction", [CrossLayers, GatedCrossLayers, FinalMLP, MaskNet], ids=lambda c: c.__name__)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_interactions_are_shared_and_trained_before_any_trunk(
    cls: type,
    interaction: type,
    style: LayerStyle,
    aliexpress: recmtl.PreparedData,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a step that gathers rows of the tables, too, and an ensemble has one for all its members."""
    encoder = partial(recmtl.FeatureEncoder, width=2, interaction=interaction)
    model = built(cls, aliexpress, style=style, encoder=encoder)
    assert trained_by_several(model, batch) == said_to_be_shared(model)
    dense, before = copy.deepcopy(model), copy.deepcopy(model.encoder.interaction)
    for most, trained in ((0, model), (10**9, dense)):
        monkeypatch.setattr(step_module, "ROW_MODE", most)
        trainer = recmtl.Trainer(trained, run=recmtl.RunConfig(progress=False, device="cpu"))
        Step(trained, trainer.balancer, Optimization(), 20)(batch)
    blocks = (before, model.encoder.interaction, dense.encoder.interaction)
    for start, by_rows, whole in zip(*(block.parameters() for block in blocks), strict=True):
        assert not torch.equal(start, by_rows)
        torch.testing.assert_close(by_rows, whole)


@each_model
def test_gates_are_said_by_head(cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch) -> None:
    """Found without asking the model: it has gates, or it says nothing."""
    model = built(cls, aliexpress, style=style)
    usage = model.expert_usage(batch)
    gated = any(isinstance(module, Gates) for module in model.modules())
    assert list(usage) == (list(model.heads) if gated else [])
    for weights in usage.values():
        assert weights.shape[0] == 256
        torch.testing.assert_close(weights.sum(1), torch.ones(256))


@each_model
def test_what_shares_nothing_is_trained_with_the_sum_alone(
    cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData
) -> None:
    shares = bool(built(cls, aliexpress, style=style).shared().tensors)
    assert shares == (len([model for model, _ in PAIRS if model is cls]) > 1)
    for balancer in BALANCERS:
        if not shares and balancer is not balance.Sum:
            said = f"the tasks of {cls.__name__} share no tensor that {balancer.__name__} could balance"
            with pytest.raises(ValueError, match=said):
                recmtl.Trainer(built(cls, aliexpress, style=style), balancer())


@each_model
def test_parts_divide_their_tensors(cls: type, style: LayerStyle, aliexpress: recmtl.PreparedData) -> None:
    shared = built(cls, aliexpress, style=style).shared()
    for tensor, parts, part_of_row, bounds, _ in shared.tensors:
        if part_of_row is None:
            assert tensor.shape[0] % parts == 0
        else:
            assert part_of_row.equal(torch.arange(parts).repeat_interleave(bounds.diff()))
            assert bounds.diff().min() > 0
            assert len(part_of_row) == len(tensor)
    assert {id(t) for t in shared.last} <= {id(s.tensor) for s in shared.tensors}


@each_training
def test_trains_and_a_plain_or_weighted_sum_of_gradients_reaches_the_heads(
    cls: type, balancer: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model, method = built(cls, aliexpress, style=style), balancer()
    plain = copy.deepcopy(model)
    trainer = recmtl.Trainer(model, method, run=recmtl.RunConfig(progress=False, device="cpu"))
    shared, losses = model.shared(), list(plain.losses(plain(batch), batch).values())
    weights = method.weights.clone() if isinstance(method, balance.LossWeightBalancer) else torch.ones(len(losses))
    method.backward(model.losses(model(batch), batch), [SharedTensor(*s) for s in shared.tensors], shared.last)
    weights = method.weights if isinstance(method, LossValueBalancer) else weights  # of this step
    sum(weight * loss for weight, loss in zip(weights, losses, strict=True)).backward()
    for mine, theirs in zip(model.heads.parameters(), plain.heads.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    model.zero_grad()
    step = Step(trainer.model, method, Optimization(), 20)
    first = step(batch)
    for _ in range(5):
        last = step(batch)
    assert (last < first)[: len(model.objectives)].all()  # a penalty may rise from 0


@each_saved
def test_bf16_trains(
    cls: type, balancer: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    model = built(cls, aliexpress, style=style)
    trainer = recmtl.Trainer(model, balancer(), run=recmtl.RunConfig(progress=False, device="cpu"))
    step = Step(trainer.model, trainer.balancer, Optimization(precision="bf16"), 20)
    first = step(batch)
    for _ in range(5):
        last = step(batch)
    assert (last < first)[: len(model.objectives)].all()  # a penalty may rise from 0
    assert all(p.dtype == torch.float32 for p in model.parameters())


@each_saved
def test_state_is_in_the_models_state_dict(
    cls: type, balancer: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    """A second model continues bit for bit from the first one's state."""
    runs = []
    for _ in range(2):
        model = built(cls, aliexpress, style=style)
        trainer = recmtl.Trainer(model, balancer(), run=recmtl.RunConfig(progress=False, device="cpu"))
        runs.append((model, Step(model, trainer.balancer, Optimization(), 20)))
    (model, step), (other, other_step) = runs
    for _ in range(3):
        step(batch)
    other.load_state_dict(model.state_dict())
    for mine, theirs in zip(step.optimizers, other_step.optimizers, strict=True):
        theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    for _ in range(2):
        assert torch.equal(step(batch), other_step(batch))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


OF_FUNNELS = (models.ESMM, models.ESCM2, models.AITM)  # take no other tasks
each_of_all_kinds = pytest.mark.parametrize(
    ("cls", "style"), in_styles(*((model,) for model in MODELS if model not in OF_FUNNELS))
)


@each_of_all_kinds
def test_kinds_of_tasks_start_at_the_training_rows_train_and_come_back(
    cls: type, style: LayerStyle, of_all_kinds: recmtl.PreparedData
) -> None:
    """With several outputs, too, in bfloat16, from saved state bit for bit, and as they are exported."""
    data = of_all_kinds
    batch, tasks = next(Loader(data.train, 512, seed=0).epoch()), data.schema.schema.tasks
    model = built(cls, data, style=style)
    start = predictions_of(data.schema, model.objectives, copy.deepcopy(model).eval()(batch))
    assert start["stars"].mean(0).tolist() == pytest.approx(data.schema.class_shares["stars"], rel=0.4, abs=0.03)
    assert start["views"].mean().item() == pytest.approx(data.schema.rate(tasks[2]).mean, rel=0.35)
    steps = []
    for precision in ("bf16", "fp32"):
        trained = copy.deepcopy(model)
        trainer = recmtl.Trainer(trained, balance.Sum(), run=recmtl.RunConfig(progress=False, device="cpu"))
        steps.append(Step(trained, trainer.balancer, Optimization(precision=precision), 30))
        first = steps[-1](batch)
        for _ in range(5):
            last = steps[-1](batch)
        assert (last < first).all()
    logits = trained(batch)
    width = {task.name: [task.outputs] * (task.outputs > 1) for task in tasks}
    members = [style.ensemble] * (style.ensemble > 1)
    assert {name: list(v.shape) for name, v in logits.items()} == {n: [512, *members, *w] for n, w in width.items()}
    other = built(cls, data, seed=1, style=style)
    trainer = recmtl.Trainer(other, balance.Sum(), run=recmtl.RunConfig(progress=False, device="cpu"))
    other.load_state_dict(trained.state_dict())
    again = Step(other, trainer.balancer, Optimization(), 30)
    for mine, theirs in zip(again.optimizers, steps[-1].optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert torch.equal(again(batch), steps[-1](batch))
    expected = trainer.predictor.outputs(data.test)
    network = ServedNetwork(other)
    inputs = inputs_of(data.schema, next(Loader(data.test, 512).epoch()))
    found = dict(zip([task.name for task in network.tasks], network(*inputs.values()), strict=True))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.from_numpy(values), rtol=1e-5, atol=1e-6)
        assert (found[name] >= 0).all() or name == "log_spent"
    torch.testing.assert_close(found["stars"].sum(1), torch.ones(100, dtype=torch.float64))


class ScalarTower(nn.Module):
    """An own tower that gives `[B]`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, view: Tensor) -> Tensor:
        return view @ self.weight


@each_saved
def test_own_towers(
    cls: type, balancer: type, style: LayerStyle, aliexpress: recmtl.PreparedData, batch: Batch
) -> None:
    name = list(built(cls, aliexpress, style=style).heads)[1]
    model = built(cls, aliexpress, style=style, towers={name: ScalarTower})
    trainer = recmtl.Trainer(model, balancer(), run=recmtl.RunConfig(progress=False, device="cpu"))
    before = model.heads[name].tower.weight.clone()
    Step(model, trainer.balancer, Optimization(), 20)(batch)
    assert not torch.equal(before, model.heads[name].tower.weight)
