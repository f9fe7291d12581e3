"""Several processes that share each batch train as one process with the whole of it.

10 steps in float64. Of four tasks one has its valid rows in the first process's share alone, two in the last one's; in
some batches one is absent. Of two data sets the last batch has 7 rows, and 2: with three processes one then gets none.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES, Case
from together import together
from torch import Tensor

import recmtl
from recmtl.balance import (
    Balancer,
    ProcessGroup,
    RepresentationBalancer,
    RotationBalancer,
    Sizes,
    TaskGradientBalancer,
)
from recmtl.data import Batch, Loader
from recmtl.layers import CrossLayers, FinalMLP, GatedCrossLayers, Interaction, MaskNet
from recmtl.models import RankingModel
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module

BATCH, LIMIT = 30, 1e-10
LAYERS = [12, 8]


def behind(interaction: type[Interaction]) -> functools.partial[recmtl.FeatureEncoder]:
    """Return an encoder with an interaction."""
    return functools.partial(recmtl.FeatureEncoder, interaction=interaction)


MODELS: dict[str, Callable[..., RankingModel]] = {
    **{c.__name__: functools.partial(c, layers=LAYERS) for c in (recmtl.SharedBottom, recmtl.MMOE, recmtl.SingleTask)},
    "ESMM": recmtl.ESMM,
}
# Of these the rows have a domain and histories, too.
OTHERS: dict[str, Callable[..., RankingModel]] = {
    "PLE": functools.partial(recmtl.PLE, layers=LAYERS, encoder=behind(CrossLayers)),
    "OMoE": functools.partial(recmtl.OMoE, layers=LAYERS, encoder=behind(GatedCrossLayers)),
    "STEM": functools.partial(recmtl.STEM, layers=LAYERS, encoder=behind(FinalMLP)),
    "AITM": functools.partial(recmtl.AITM, layers=LAYERS, encoder=behind(MaskNet)),
    "STAR": functools.partial(recmtl.STAR, layers=LAYERS),
    "PEPNet": functools.partial(recmtl.PEPNet, layers=LAYERS, personal=["user"]),
    "Ranked": functools.partial(recmtl.SharedBottom, layers=LAYERS),  # with losses and weights of each task's own
    "ESCM2 ips": functools.partial(recmtl.ESCM2, estimator="ips"),
    "ESCM2 dr": functools.partial(recmtl.ESCM2, estimator="dr"),
}
DEFAULTS = [case for case in CASES if not case.options and not case.cooperative]
Setting = tuple[str, Case, bool]  # model, balancer, whether tables are in row mode
# Every balancer by rows in two processes, and those with options by whole tables in three. SharedBottom has one
# view for all heads, which balancers read that work on views.
SETTINGS: list[Setting] = [
    *(("ESMM", case, True) for case in DEFAULTS),
    *(("SharedBottom", case, False) for case in DEFAULTS if issubclass(case.method, RepresentationBalancer)),
    *(("SharedBottom", Case(method, {}), False) for method in (recmtl.Sum, recmtl.GradNorm, recmtl.PCGrad)),
    *(("SingleTask", Case(recmtl.Sum, {}), by_rows) for by_rows in (False, True)),
]
# One of the options of each method; `test_spread_rows` has them all.
OPTIONS: list[Setting] = [
    ("MMOE", case, False) for case in {case.method: case for case in CASES if case not in DEFAULTS}.values()
]
OTHER_SETTINGS: list[Setting] = [
    ("PLE", Case(recmtl.MetaBalance, {}), True),
    ("OMoE", Case(recmtl.GradNorm, {}), False),
    ("STEM", Case(recmtl.PCGrad, {}), True),
    ("AITM", Case(recmtl.Sum, {}), False),
    ("AITM", Case(recmtl.MetaBalance, {}), True),
    ("STAR", Case(recmtl.PCGrad, {}), True),
    ("PEPNet", Case(recmtl.RotoGrad, {}), False),
    ("Ranked", Case(recmtl.Sum, {}), True),
    ("Ranked", Case(recmtl.MetaBalance, {}), False),
    ("ESCM2 ips", Case(recmtl.MetaBalance, {}), False),
    ("ESCM2 dr", Case(recmtl.NormalizedSplitter, {}), True),
]
SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def data_for(name: str) -> recmtl.PreparedData:
    """Rows for a model: 4 batches and 7 rows, and in place of validation rows 4 batches and 2."""
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "conversion", given="click")]
    tasks += [recmtl.Task("ctcvr", "conversion")] + [recmtl.Task("early", "early")] * (name[:4] not in ("ESMM", "ESCM"))
    features = [
        recmtl.Categorical("user", width=4),
        recmtl.MultiCategorical("genres", width=4),
        recmtl.Numeric("price"),
    ]
    if name in OTHERS:
        features += [recmtl.Categorical("country", width=2), recmtl.MultiCategorical("tags", pooling="self_attention")]
        followed = functools.partial(recmtl.MultiCategorical, "followed", pooling="target_attention")
        features.append(followed(share_with="user", target="user"))
    domain = "country" if name in OTHERS else None
    funnel = recmtl.Funnel("click", "conversion", *(["early"] if name == "AITM" else []))
    group = "search" if name == "Ranked" else None
    if group:
        options = [
            {"weight_column": "own", "ranking_loss": "pairwise"},
            {"pos_weight": 3.0},
            {"ranking_loss": "listwise"},
        ]
        tasks = [replace(task, **own) for task, own in zip(tasks, [*options, {"label_smoothing": 0.1}], strict=True)]
    schema = recmtl.Schema(features, tasks, funnel, group, weight="weight", domain=domain)
    return recmtl.prepare(schema, generated(4 * BATCH + 7), generated(4 * BATCH + 2))


def generated(count: int) -> pd.DataFrame:
    """In batches of 30 the conversions stand in the last rows alone, the label of `early` in the first ones."""
    rng = np.random.default_rng(count)
    place, batch = np.arange(count) % BATCH, np.arange(count) // BATCH
    left = count - np.arange(count)
    return pd.DataFrame(
        {
            "user": rng.integers(0, 9, count),
            "genres": ["|".join(rng.choice(list("abcd"), rng.integers(0, 4), replace=False)) for _ in range(count)],
            "price": rng.normal(size=count),
            "click": np.where(batch == 2, np.nan, place % 2),
            "conversion": np.where(((place > 24) & (batch != 1)) | (left == 1), rng.integers(0, 2, count), np.nan),
            "early": np.where(place < 4, rng.integers(0, 2, count), np.nan),
            "weight": rng.uniform(0.5, 2, count),
            "own": np.arange(count) % 3,
            "search": np.arange(count) % (count // 3),
            "country": np.where(place < 4, "FR", rng.choice(["US", "NL"], count)),
            "tags": ["|".join(rng.choice(list("abcd"), rng.integers(0, 4), replace=False)) for _ in range(count)],
            "followed": ["|".join(rng.choice(list("012345"), rng.integers(0, 7))) for _ in range(count)],
        }
    )


def built(name: str, case: Case, data: recmtl.PreparedData, processes: ProcessGroup) -> tuple[RankingModel, Balancer]:
    torch.manual_seed(0)
    model = (MODELS | OTHERS)[name](data.schema, tower_layers=[6]).double()
    parts, elements = (sum(getattr(t, size) for t in model.shared().tensors) for size in ("parts", "elements"))
    sizes = Sizes(len(model.objectives), len(model.heads), model.view_features, parts, elements)
    balancer = model.fork = case.balancer(sizes, [task.name for task in model.objectives])
    balancer.processes = processes
    return model, balancer


def batches(data: recmtl.PreparedData, processes: ProcessGroup) -> Iterator[Batch]:
    """10 batches."""
    for split in (data.train, data.valid):
        grouped = split.schema.schema.group is not None
        for batch in Loader(split, BATCH, processes=processes, grouped=grouped).epoch():
            yield replace(batch, numeric=batch.numeric.double())


def trained(processes: ProcessGroup, settings: list[Setting]) -> list[dict[str, Tensor]]:
    """Return weights, states, and the measured losses and gradients of each setting."""
    data = {name: data_for(name) for name in dict.fromkeys(name for name, _, _ in settings)}
    return [finished(data[name], name, case, by_rows, processes) for name, case, by_rows in settings]


def finished(
    data: recmtl.PreparedData, name: str, case: Case, by_rows: bool, processes: ProcessGroup
) -> dict[str, Tensor]:
    model, balancer = built(name, case, data, processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "ROW_MODE", 0 if by_rows else 1_000_000)
        step = Step(model, balancer, Optimization(BATCH, SGD, clip_norm=1.0, balancer_rate=0.02), 20)
    losses, norms, cosines = [], [], []
    for number, batch in enumerate(batches(data, processes)):
        sent = processes.sent
        losses.append(step(batch, with_stats=number % 5 == 0))
        if processes.size > 1 and number % 5:
            assert processes.sent - sent == 8 * numbers_sent(model, balancer, step) + bytes_of_ids(step, batch)
        if number % 5 == 4:
            balancer.end_epoch()
        if number % 5 == 0 and step.gradient_stats is not None:
            norms.append(step.gradient_stats.norms)
            cosines.append(step.gradient_stats.cosines)
    assert len(losses) == 10
    weights = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    return weights | {"losses": torch.stack(losses), "norms": torch.stack(norms), "cosines": torch.stack(cosines)}


def numbers_sent(model: RankingModel, balancer: Balancer, step: Step) -> int:
    """Return the documented size of a step's messages, here in float64."""
    objectives, heads = len(model.objectives), len(model.heads)
    shared = model.shared()
    S, W = sum(t.tensor.numel() for t in shared.tensors), sum(t.numel() for t in shared.last)
    by_rows = {id(table.weight): table.gathered.rows.numel() for table in step._tables}
    P = sum(by_rows.get(id(p), p.numel()) for p in model.parameters()) - sum(p.numel() for p in balancer.parameters())
    means = objectives + sum(task.ranking_loss is not None for task in model.objectives)
    means += len(model._later) if isinstance(model, recmtl.ESCM2) else 0
    sent = (objectives + means) * (1 + balancer.needs_losses_after_step) + P
    if "penalty" in model.loss_names:
        sent += 2 + P * (not isinstance(balancer, recmtl.Sum))
    if isinstance(balancer, recmtl.GradNorm):
        sent += (objectives - 1) * W
    elif isinstance(balancer, TaskGradientBalancer):
        sent += (objectives - 1) * S
    elif isinstance(balancer, recmtl.NormalizedSplitter):
        sent += 4 * heads + heads * (balancer.projection == "before")
    elif isinstance(balancer, recmtl.GradDrop):
        sent += heads * (model.view_features + 2)
    elif isinstance(balancer, RotationBalancer):
        sent += 2 * heads + 2 + balancer.rotation().numel() * (1 + balancer.cooperative)
        sent += objectives * balancer.normalize_losses
    return sent


def bytes_of_ids(step: Step, batch: Batch) -> int:
    """Return the documented size of the messages by which processes learn each other's ids."""
    assert batch.share is not None
    own = [len(table._ids_in_table(batch.ids, batch.lists).unique()) for table in step._tables]
    return sum(8 + 4 * max(counts) for counts in zip(*batch.share.processes.all_gather_object(own), strict=True))


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the expected."""
    assert expected.isfinite().all()
    difference, size = (found - expected).norm().item(), expected.norm().item()
    return difference / size if difference else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (2, [s for s in SETTINGS if s[0] == "ESMM"]),
        (3, [s for s in SETTINGS if s[0] != "ESMM"] + OPTIONS + OTHER_SETTINGS),
    ],
)
def test_equals_one_process(number: int, settings: list[Setting], tmp_path: Path) -> None:
    (one,) = together(1, tmp_path / "one", trained, settings)
    first, *others = together(number, tmp_path / "several", trained, settings)
    for index, (setting, expected) in enumerate(zip(settings, one, strict=True)):
        errors = {name: error(first[index][name], value) for name, value in expected.items()}
        assert max(errors.values()) <= LIMIT, (*map(str, setting), errors)
        assert all(other[index][name].equal(value) for other in others for name, value in first[index].items())
