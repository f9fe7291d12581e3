"""What holds for every model, and every family of balancers, where tasks have losses and weights of their own."""

import dataclasses
import inspect
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import recmtl
from recmtl import balance, models
from recmtl.data import Batch, Loader
from recmtl.layers import LayerStyle
from recmtl.serving.encoder_files import encoder_dict
from recmtl.train import Optimization, Step
from recmtl.train.describe import untrained_weights_note

MODELS = [c for c in (getattr(models, n) for n in models.__all__) if isinstance(c, type) and not inspect.isabstract(c)]
MODELS = [c for c in MODELS if issubclass(c, models.RankingModel)]
# Of each family of balancers one, of which losses, gradients or views are changed.
BALANCERS = (balance.Sum, balance.GradNorm, balance.FAMO, balance.PCGrad, balance.MetaBalance, balance.RotoGrad)
ONE_NETWORK = (models.PEPNet, models.STAR)
SMALL = {"layers": [8], "tower_layers": [8]}


def own(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(2 * logits, labels, reduction="none")


OPTIONS = [
    {"pos_weight": 3.0, "label_smoothing": 0.1, "weight_column": "own", "ranking_loss": "pairwise"},
    {"loss": own, "ranking_loss": "listwise", "ranking_weight": 0.5},
]


@pytest.fixture(scope="module")
def data(csv: Path) -> recmtl.PreparedData:
    """The generated rows with a domain and a group, and every option of losses and weights."""
    card = recmtl.card("aliexpress")
    tasks = [dataclasses.replace(task, **options) for task, options in zip(card.tasks, OPTIONS, strict=True)]
    schema = dataclasses.replace(card, tasks=tasks, domain="categorical_2")
    frame = pd.read_csv(csv / "train.csv").head(900)
    frame["own"] = np.random.default_rng(0).uniform(0, 2, len(frame))
    return recmtl.prepare(schema, frame.head(600), frame.tail(300))


@pytest.fixture(scope="module")
def batch(data: recmtl.PreparedData) -> Batch:
    return next(Loader(data.train, 256, seed=0, grouped=True).epoch())


@pytest.fixture(scope="module")
def conditional(csv: Path) -> recmtl.PreparedData:
    """The generated rows with weights of the rows of a conditional rate."""
    card = recmtl.card("aliexpress")
    task = recmtl.Task("cvr", "conversion", given="click", weight_column="own", weight=2.0)
    frame = pd.read_csv(csv / "train.csv").head(600)
    frame["own"] = np.random.default_rng(0).uniform(0, 2, len(frame))
    schema = dataclasses.replace(card, tasks=[card.tasks[0], task], domain="categorical_2")
    return recmtl.prepare(schema, frame, holdout=0)


CASES = [(model, balance.Sum, LayerStyle()) for model in MODELS]
CASES += [(model, balance.Sum, LayerStyle(ensemble=3)) for model in MODELS if model not in ONE_NETWORK]
CASES += [(models.MMOE, balancer, LayerStyle()) for balancer in BALANCERS[1:]]


def setup_of(
    data: recmtl.PreparedData, cls: type, balancer: type, style: LayerStyle, **options: object
) -> recmtl.Trainer:
    torch.manual_seed(0)
    sizes = {name: sizes for name, sizes in SMALL.items() if name in inspect.signature(cls).parameters}
    run = recmtl.RunConfig(progress=False, device="cpu")
    return recmtl.Trainer(cls(data.schema, **sizes, style=style), balancer(), run=run, **options)


@pytest.mark.parametrize(
    ("cls", "balancer", "style"), CASES, ids=[f"{m.__name__}-{b.__name__}-{s.ensemble}" for m, b, s in CASES]
)
def test_losses_fall(cls: type, balancer: type, style: LayerStyle, data: recmtl.PreparedData, batch: Batch) -> None:
    """In bf16 and in fp32, and bit for bit from the state of the first steps."""
    for precision in ("fp32", "bf16") if cls is models.MMOE else ("fp32",):
        trainer = setup_of(data, cls, balancer, style)
        step = Step(trainer.model, trainer.balancer, Optimization(precision=precision), 20)
        first = step(batch)
        for _ in range(11):
            last = step(batch)
        assert (last < first)[: len(trainer.model.objectives)].all()
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("balancer", BALANCERS[:-1], ids=lambda c: c.__name__)
def test_domains_are_balanced(balancer: type, data: recmtl.PreparedData, batch: Batch) -> None:
    trainer = setup_of(data, models.SharedBottom, balancer, LayerStyle(), balance_domains=True)
    whole = setup_of(data, models.SharedBottom, balancer, LayerStyle())
    losses = trainer.model.losses(trainer.model(batch), batch)
    assert len(losses) > 4
    by_task = trainer.model.task_losses.by_objective({name: loss.item() for name, loss in losses.items()})
    for name, loss in whole.model.losses(whole.model(batch), batch).items():
        assert by_task[name] == pytest.approx(loss.item(), rel=1e-5)
    assert Step(trainer.model, trainer.balancer, Optimization(), 20)(batch).isfinite().all()


def test_a_ranking_loss_of_a_rate_whose_loss_a_model_replaces_is_refused_before_any_row_is_read() -> None:
    """By the schema alone, as a recipe is checked; a funnel and a domain are asked for likewise."""
    tasks = [recmtl.Task("cvr", "conversion", given="click", ranking_loss="pairwise")]
    schema = dataclasses.replace(recmtl.card("aliexpress"), tasks=tasks)
    with pytest.raises(ValueError, match="ESCM2 has a loss of its own for the conditional rate 'cvr': leave out its"):
        models.ESCM2.check_schema(schema)
    plain = dataclasses.replace(schema, tasks=[recmtl.Task("ctr", "click")], funnel=None)
    for cls in MODELS:
        needed = {"ESMM": "funnel", "AITM": "funnel", "ESCM2": "funnel", "STAR": "domain", "PEPNet": "domain"}
        needed = needed.get(cls.__name__)
        with pytest.raises(ValueError, match=f"`{needed}`") if needed else nullcontext():
            cls.check_schema(plain)


@pytest.mark.parametrize("cls", MODELS, ids=lambda c: c.__name__)
def test_options_of_a_conditional_task_count_or_are_refused(cls: type, conditional: recmtl.PreparedData) -> None:
    """With every model: its rows' weights change its loss, or a note says that they count in metrics alone."""
    style = LayerStyle(ensemble=1 if cls in ONE_NETWORK else 2)
    if cls in (models.ESMM, models.AITM):
        with pytest.raises(ValueError, match=r"has no loss of task 'cvr', .* `weight` .* ctr \(label 'click'\), ctcvr"):
            setup_of(conditional, cls, balance.Sum, style)
        tasks = [dataclasses.replace(task, weight=1.0) for task in conditional.schema.schema.tasks]
        schema = dataclasses.replace(
            conditional.schema, schema=dataclasses.replace(conditional.schema.schema, tasks=tasks)
        )
        (note,) = untrained_weights_note(cls(schema))
        assert note == f"task 'cvr': {cls.__name__} has no loss of it, so its `weight_column` counts in metrics alone"
        return
    batch = next(Loader(conditional.train, 600).epoch())
    trainer = setup_of(conditional, cls, balance.Sum, style)
    ones = dataclasses.replace(batch, task_weights=torch.ones_like(batch.task_weights))
    found, plain = (trainer.model.losses(trainer.model(rows), rows)["cvr"].item() for rows in (batch, ones))
    assert math.isfinite(found)
    assert found != pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_a_run_is_saved_and_continued(data: recmtl.PreparedData, csv: Path, tmp_path: Path) -> None:
    """What is saved predicts the same, needs no weight to score, and trains on the next day's rows."""
    options = {"epochs": 1, "optimization": Optimization(64)}
    trainer = setup_of(data, models.SharedBottom, balance.MetaBalance, LayerStyle(), **options)
    trainer.fit(data.train, data.valid).save(tmp_path / "run")
    rows = pd.read_csv(csv / "test.csv").head(50)
    pd.testing.assert_frame_equal(recmtl.load_run(tmp_path / "run").predict(rows), trainer.predict(rows))
    assert "own" in encoder_dict(data.schema)["ignored"]
    more = pd.read_csv(csv / "train.csv").tail(300).assign(own=1.0)
    given = {"folder": tmp_path / "next", "trust": __name__, "note": lambda _: None}
    assert recmtl.continue_run(tmp_path / "run", more, **given).result.records


def shown_by_price(seed: int, groups: int = 250, size: int = 8) -> pd.DataFrame:
    """Rows of users who are shown dear items click more, each of them on the cheaper ones."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(groups) + groups * seed, size)
    mean = np.repeat(rng.normal(size=groups), size)
    offset = 2 * (0.9 * mean + 0.44 * np.repeat(rng.normal(size=groups), size))
    taste, price = rng.normal(size=groups * size), mean + 0.7 * rng.normal(size=groups * size)
    probability = 1 / (1 + np.exp(-(0.6 * taste - 0.8 * (price - mean) + offset)))
    click = (rng.random(groups * size) < probability).astype(int)
    return pd.DataFrame({"user": user, "taste": taste, "price": price, "click": click})


@pytest.mark.slow
def test_an_offset_of_the_group_does_not_mislead_a_ranking_loss() -> None:
    """Over three seeds the AUC within users is far above that of the point-wise loss alone."""
    found: dict[str | None, list[float]] = {None: [], "pairwise": [], "listwise": []}
    for seed in range(3):
        for loss, values in found.items():
            task = recmtl.Task("ctr", "click", ranking_loss=loss, ranking_weight=2.0)
            schema = recmtl.Schema([recmtl.Numeric("taste"), recmtl.Numeric("price")], [task], group="user")
            data = recmtl.prepare(schema, shown_by_price(seed), shown_by_price(seed + 100))
            torch.manual_seed(seed)
            run = recmtl.RunConfig(progress=False, device="cpu", seed=seed)
            model = recmtl.SharedBottom(data.schema, layers=[8], tower_layers=[4])
            stopping, options = (
                recmtl.EarlyStopping(evaluations=1),
                Optimization(64, partial(torch.optim.Adam, lr=5e-3)),
            )
            trainer = recmtl.Trainer(model, epochs=3, run=run, stopping=stopping, optimization=options)
            values.append(trainer.fit(data.train).evaluate(data.valid).loc["ctr", "gauc"])
    for loss in ("pairwise", "listwise"):
        assert min(np.subtract(found[loss], found[None])) > 0.03, found
