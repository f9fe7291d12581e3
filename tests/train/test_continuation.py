"""A training that starts where another ended: before its first step old rows are predicted bit for bit as before."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl import balance, models
from recmtl.runs.folder import OPTIMIZERS
from recmtl.schema.fitted import FIRST
from recmtl.train import RunFolder, Step
from recmtl.train import step as step_module
from recmtl.train.continuation import load_optimizers
from recmtl.train.trained_run import TrainedRun

TRANSFORMS = ("knots", "standardize", "min_max", "log1p", "quantile", "none")
FEATURES = [
    recmtl.Categorical("item", min_count=2),
    recmtl.Categorical("seen", share_with="item"),
    recmtl.Categorical("hashed", hash_buckets=7),
    recmtl.Categorical("place"),
    recmtl.Categorical("filled"),
    recmtl.MultiCategorical("history", share_with="item", pooling="target_attention", target="item"),
    recmtl.MultiCategorical("tags", pooling="self_attention"),
    *(recmtl.Numeric(transform, transform) for transform in TRANSFORMS),
    recmtl.Binned("age", bins=4),
    recmtl.Timestamp("time"),
]
SCHEMA = recmtl.Schema(
    FEATURES, [recmtl.Task("ctr", "click"), recmtl.Task("spent", "spent", kind="regression")], domain="place"
)
ROWS = 160


def day(seed: int, items: str, places: str = "AB", missing: float = 0.0, start: str = "2024-01-01") -> pd.DataFrame:
    random = np.random.default_rng(seed)
    lists = [[*random.choice(list(items), random.integers(0, 4))] for _ in range(ROWS)]
    numbers = {transform: random.gamma(2, 2, ROWS).round(2) for transform in TRANSFORMS}
    filled = random.choice(list("pq"), ROWS).astype(object)
    filled[: int(missing * ROWS)] = None
    return pd.DataFrame(
        {
            "item": random.choice(list(items), ROWS),
            "seen": random.choice(list(items), ROWS),
            "hashed": random.integers(0, 50, ROWS),
            "place": random.choice(list(places), ROWS),
            "filled": filled,
            "history": lists,
            "tags": ["|".join(own) for own in lists],
            **numbers,
            "age": random.integers(18, 60, ROWS),
            "time": pd.Timestamp(start) + pd.to_timedelta(random.integers(0, 86400, ROWS), unit="s"),
            "click": random.integers(0, 2, ROWS),
            "spent": random.normal(5, 2, ROWS),
        }
    )


FIRST_DAY = day(1, "abcdefgh")
SECOND_DAY = day(2, "efghijklm", "ABC", missing=0.1, start="2024-01-02")
LATER = day(3, "efghijklxyz", "ABCD", start="2024-03-05")


@pytest.fixture(scope="module")
def days() -> tuple[recmtl.PreparedData, recmtl.PreparedData]:
    first = recmtl.prepare(SCHEMA, FIRST_DAY, holdout=0)
    return first, recmtl.prepare(None, SECOND_DAY, holdout=0, extend=first)


Make = Callable[..., recmtl.Trainer]


def trainer(schema: recmtl.FittedSchema, folder: Path, model: type = models.MMOE, **options: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    sizes = {"layers": [6], "tower_layers": [4], "experts": 2}
    known = {k: v for k, v in sizes.items() if k in model.__init__.__annotations__}
    optimization = recmtl.Optimization(batch_size=40, **options.pop("optimization", {}))
    run = recmtl.RunConfig(folder, progress=False, tensorboard=False, device="cpu", predictions=False)
    balancer = options.pop("balancer", None)
    return recmtl.Trainer(
        model(schema, **known), balancer and balancer(), epochs=1, optimization=optimization, run=run, **options
    )


def trained(data: recmtl.PreparedData, folder: Path, **options: object) -> recmtl.Trainer:
    found = trainer(data.schema, folder, **options).fit(data.train)
    found.finish({})
    return found


def predictions(trainer: recmtl.Trainer, rows: pd.DataFrame) -> np.ndarray:
    encoded = trainer.encode(rows, note=lambda sentence: None)
    return np.stack([*trainer.predictor.outputs(encoded).values()])


OPTIMIZATIONS = {
    "adam": {},
    "adagrad": {"optimizer": partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.1)},
    "no average": {"ema": 0.0, "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9)},
    "bf16": {"precision": "bf16"},
}
CASES = [
    *((models.MMOE, balance.Sum, name, False) for name in OPTIMIZATIONS),
    *((models.MMOE, balance.Sum, name, True) for name in ("adam", "adagrad", "no average")),
    *((models.MMOE, balancer, "adam", False) for balancer in (balance.RotoGrad, balance.GradNorm, balance.DBMTL)),
    (models.STAR, balance.Sum, "adam", False),
    (models.PEPNet, balance.Sum, "adam", True),
]


@pytest.mark.parametrize(("model", "balancer", "optimization", "sparse"), CASES)
def test_before_its_first_step_it_predicts_what_the_run_did(
    model: type,
    balancer: type,
    optimization: str,
    sparse: bool,
    days: tuple[recmtl.PreparedData, recmtl.PreparedData],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sparse:
        monkeypatch.setattr(step_module, "ROW_MODE", 10)
    first, second = days
    options = {"model": model, "balancer": balancer, "optimization": OPTIMIZATIONS[optimization]}
    run = trained(first, tmp_path / "run", **options)
    again = trainer(second.schema, tmp_path / "new", init_from=tmp_path / "run", **options)
    for rows in (FIRST_DAY, SECOND_DAY, LATER):  # new categories, missing values and later months were "unknown"
        assert (predictions(again, rows) == predictions(run, rows)).all()
    assert_rows_keep_their_state(TrainedRun.open(tmp_path / "run"), again, sparse)
    again.fit(second.train)
    assert again.folder.parent()["schema"] == first.schema.fingerprint


def assert_rows_keep_their_state(run: TrainedRun, again: recmtl.Trainer, sparse: bool) -> None:
    """Compare the state of each row of a table, feature by feature and category by category, with that of the run."""
    step, notes = Step(again.model, again.balancer, again.setup.optimization, 10), list[str]()
    assert bool(step.row_optimizers) == sparse
    load_optimizers(run, step, again.setup, notes.append)
    assert notes == []
    before = run.folder.load_checkpoint(OPTIMIZERS)["optimizers"][0]["state"]
    now = step.optimizer_states()["optimizers"][0]["state"]
    assert before.keys() == now.keys()
    table = again.model.encoder.tables[0]
    for key, value in now["encoder.tables.0.weight"].items():
        old = before["encoder.tables.0.weight"][key]
        if key == "step" or value is None:
            assert value == old
            continue
        start, own = 0, iter(table.by_owner(value))
        for owner in dict.fromkeys(block.owner for block in (*table.singles, *table.lists)):
            size = next(b.size for b in run.schema.id_blocks if b.owner == owner)
            rows = next(own)
            if owner[0] in ("item", "tags", "hashed", "age"):
                assert torch.equal(rows[FIRST:size], old[start + FIRST : start + size]), (owner, key)
            if owner[0] == "item":
                assert (rows[size:] == rows[size]).all()  # new rows have a new state
                assert not torch.equal(rows[size], old[start + FIRST])
            start += size


def test_the_state_of_a_table_that_outgrows_a_cache_moves_to_its_rows(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(days[0], tmp_path / "run")
    monkeypatch.setattr(step_module, "ROW_MODE", 10)
    again = trainer(days[1].schema, tmp_path / "new", init_from=tmp_path / "run")
    assert_rows_keep_their_state(TrainedRun.open(tmp_path / "run"), again, sparse=True)


@pytest.fixture(scope="module")
def run(days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("continuation") / "run"
    trained(days[0], folder, balancer=balance.GradNorm)
    return folder


def test_the_state_of_the_balancer_is_kept_or_begins_anew(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], run: Path
) -> None:
    schema = days[1].schema
    before = RunFolder(run).load_checkpoint("best")["model"]
    kept, fresh = (trainer(schema, None, init_from=run, balancer_state=state) for state in ("keep", "fresh"))
    assert isinstance(kept.balancer, balance.GradNorm)
    state = kept.balancer.state_dict()
    assert all(torch.equal(value, before[f"fork.{name}"]) for name, value in state.items())
    assert not all(torch.equal(value, state[name]) for name, value in fresh.balancer.state_dict().items())
    with pytest.raises(recmtl.RunError, match="was balanced by GradNorm, not PCGrad: leave out the options of the bal"):
        trainer(schema, None, init_from=run, balancer=balance.PCGrad)
    other = trainer(schema, None, init_from=run, balancer=balance.PCGrad, balancer_state="fresh")
    assert (predictions(other, FIRST_DAY) == predictions(kept, FIRST_DAY)).all()


def test_another_balancer_may_not_replace_rotations(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path: Path
) -> None:
    trained(days[0], tmp_path / "run", balancer=balance.RotoGrad)
    with pytest.raises(recmtl.RunError, match="were trained behind the rotations of RotoGrad"):
        trainer(days[1].schema, None, init_from=tmp_path / "run", balancer=balance.Sum, balancer_state="fresh")


def test_a_run_that_does_not_fit_is_named(days: tuple[recmtl.PreparedData, recmtl.PreparedData], run: Path) -> None:
    other = recmtl.prepare(SCHEMA, SECOND_DAY, holdout=0)
    with pytest.raises(recmtl.RunError, match=r"the model.s schema does not extend that of .*extend=run"):
        trainer(other.schema, None, init_from=run)
    with pytest.raises(recmtl.RunError, match=r"the run .* does not fit the model: .*experts"):
        trainer(days[1].schema, None, model=models.SharedBottom, init_from=run)
    with pytest.raises(recmtl.DataError, match="is not a run"):
        trainer(days[1].schema, None, init_from=run.parent)


def test_an_unfinished_run_is_resumed_first(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path: Path
) -> None:
    trainer(days[0].schema, tmp_path / "run").fit(days[0].train)
    with pytest.raises(recmtl.RunError, match="holds an unfinished run: resume it first"):
        trainer(days[1].schema, None, init_from=tmp_path / "run")


def test_another_optimizer_begins_anew_and_says_so(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], run: Path
) -> None:
    again = trainer(days[1].schema, None, init_from=run, optimization={"optimizer": torch.optim.Adagrad})
    with pytest.warns(UserWarning, match="the optimizer is Adagrad, the run's was Adam: it starts anew"):
        again.fit(days[1].train)


def test_a_run_without_states_of_its_optimizer_says_so(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path: Path
) -> None:
    found = trainer(days[0].schema, tmp_path / "run")
    found.setup = type(found.setup)(
        **vars(found.setup)
        | {"run": recmtl.RunConfig(tmp_path / "run", progress=False, tensorboard=False, device="cpu", optimizers=False)}
    )
    found.fit(days[0].train)
    found.finish({})
    with pytest.warns(UserWarning, match="has no state of its optimizer: it starts anew"):
        trainer(days[1].schema, None, init_from=tmp_path / "run").fit(days[1].train)


def test_domains_that_are_balanced_are_the_run_s_or_begin_anew(
    days: tuple[recmtl.PreparedData, recmtl.PreparedData], tmp_path: Path
) -> None:
    options = {"balancer": balance.GradNorm, "balance_domains": True}
    trained(days[0], tmp_path / "run", **options)
    with pytest.raises(recmtl.RunError, match=r"balanced ctr@., ctr@., ctr@other, spent@.*, not ctr@., ctr@., ctr@C"):
        trainer(days[1].schema, None, init_from=tmp_path / "run", **options)
    trainer(days[1].schema, None, init_from=tmp_path / "run", balancer_state="fresh", **options).fit(days[1].train)
