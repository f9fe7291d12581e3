"""Resumed training equals uninterrupted training, bit for bit."""

import inspect
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl import balance, models
from recmtl.data import loader as loader_module
from recmtl.data import loader as windows_module
from recmtl.runs.checkpoint_file import has_valid_checksum, write_checkpoint
from recmtl.train import DivergenceError, EarlyStopping, Interrupted, Optimization, RunConfig, RunFolder, Step
from recmtl.train import step as step_module
from recmtl.train.predictor import Predictor

MODELS = [c for c in (getattr(models, n) for n in models.__all__) if isinstance(c, type) and not inspect.isabstract(c)]
MODELS = [c for c in MODELS if issubclass(c, models.RankingModel)]
BALANCERS = [c for c in (getattr(balance, name) for name in balance.__all__) if isinstance(c, type)]
BALANCERS = [c for c in BALANCERS if issubclass(c, balance.Balancer) and not inspect.isabstract(c)]
# Every balancer with one model; every model with the balancer that has parameters, rotations of views and a burn-in.
PAIRS = [(m, b) for m in MODELS for b in BALANCERS if m is models.MMOE or b is balance.RotoGrad]
PAIRS = [(m, b if m is not models.SingleTask else balance.Sum) for m, b in PAIRS]
STEPS = 6  # of an epoch of the 200 rows in batches of 34
STYLE = recmtl.LayerStyle(normalization="batch", dropout=0.2)
SMALL = {"layers": [6, 4], "tower_layers": [4], "experts": 2, "style": STYLE}

Make = Callable[..., recmtl.Trainer]


def maker(data: recmtl.PreparedData, **changes: object) -> Make:
    """Return a function that builds a trainer for a run folder; the seed decides the initial weights."""

    def make(folder: Path | None, seed: int = 0, **run: object) -> recmtl.Trainer:
        torch.manual_seed(seed)
        model = changes.get("model", recmtl.SharedBottom)
        model = model(data.schema, **{k: v for k, v in SMALL.items() if k in inspect.signature(model).parameters})
        return recmtl.Trainer(
            model,
            changes.get("balancer", recmtl.Sum)(),
            epochs=changes.get("epochs", 2),
            gradient_stats_every=4,
            optimization=Optimization(batch_size=34, **changes.get("optimization", {})),
            stopping=EarlyStopping(**changes.get("stopping", {"evaluations": 2})),
            run=RunConfig(folder, progress=False, tensorboard=False, device="cpu", log_every=4, **run),
        )

    return make


@contextmanager
def signals(step: int, number: int) -> Iterator[None]:
    """Raise a signal during a step, counted from 1."""
    taken, plain = [], Step.__call__

    def call(self: Step, *arguments: object) -> torch.Tensor:
        taken.append(1)
        if len(taken) == step:
            signal.raise_signal(number)
        return plain(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", call)
        yield


def stopped(make: Make, data: recmtl.PreparedData, step: int, number: int = signal.SIGTERM, **run: object) -> None:
    """Resume or start the run in `run["folder"]`, and stop it after so many steps."""
    trainer = make(**run, seed=99 if run["folder"].exists() else 0)
    with signals(step, number), pytest.raises(Interrupted):
        trainer.fit(data.train, data.valid, resume=True)


def lasting(record: object) -> object:
    """Return a record without times."""
    return {k: v for k, v in record.items() if k != "rows_per_second"}


def assert_same(found: recmtl.Trainer, whole: recmtl.Trainer, data: recmtl.PreparedData) -> None:
    mine, theirs = found.model.state_dict(), whole.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert (found.result.best, found.result.skipped) == (whole.result.best, whole.result.skipped)
    assert list(map(lasting, found.folder.records())) == list(map(lasting, whole.folder.records()))
    predictions = found.predictor.outputs(data.test), whole.predictor.outputs(data.test)
    assert all(np.array_equal(predictions[0][name], predictions[1][name]) for name in predictions[1])
    last = [trainer.folder.load_checkpoint("last") for trainer in (found, whole)]
    for name in ("model", "training", "generators"):
        torch.testing.assert_close(last[0][name], last[1][name], rtol=0, atol=0, equal_nan=True)


def check(make: Make, data: recmtl.PreparedData, tmp_path: Path, *steps: int) -> recmtl.Trainer:
    """Compare a training that is stopped repeatedly, each time after so many steps, with an uninterrupted one."""
    whole = make(tmp_path / "whole").fit(data.train, data.valid)
    for step in steps:
        stopped(make, data, step, folder=tmp_path / "run")
    found = make(tmp_path / "run", seed=99).fit(data.train, data.valid, resume=True)
    assert_same(found, whole, data)
    return found


@pytest.fixture(scope="module")
def tiny(with_domain: recmtl.PreparedData) -> recmtl.PreparedData:
    """200 training rows, and 100 to measure, of tasks that every model takes."""
    sizes = {"train": 200, "valid": 100, "test": 100}
    rows = {
        n: recmtl.Rows(with_domain.schema, with_domain.splits[n].table.slice(0, size), n) for n, size in sizes.items()
    }
    return recmtl.PreparedData(with_domain.schema, rows)


@pytest.mark.parametrize(("model", "balancer"), PAIRS, ids=[f"{m.__name__}-{b.__name__}" for m, b in PAIRS])
def test_each_model_with_each_balancer(model: type, balancer: type, tiny: recmtl.PreparedData, tmp_path: Path) -> None:
    """Stopped within the first epoch, and at its end."""
    first = int(np.random.default_rng(PAIRS.index((model, balancer))).integers(1, STEPS))
    make = maker(tiny, model=model, balancer=balancer)
    check(make, tiny, tmp_path, first, STEPS - first)


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
OPTIMIZERS = [torch.optim.Adam, partial(torch.optim.Adagrad, lr=0.1), SGD, partial(torch.optim.SGD, lr=0.1)]


@pytest.mark.parametrize("rows", [False, True], ids=["dense", "rows"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["Adam", "Adagrad", "momentum", "SGD"])
def test_each_optimizer_and_row_mode(
    optimizer: object, rows: bool, small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if rows else 1_000_000)
    options = {"optimizer": optimizer, "schedule": "cosine", "warmup": 0.3, "clip_norm": 1.0}
    make = maker(small, model=recmtl.MMOE, balancer=recmtl.MetaBalance, optimization=options)
    assert check(make, small, tmp_path, 2, 7).result.skipped == {}


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("balancer", [recmtl.GradNorm, recmtl.RotoGrad, recmtl.PCGrad], ids=lambda c: c.__name__)
def test_schedules(schedule: str, balancer: type, small: recmtl.PreparedData, tmp_path: Path) -> None:
    check(maker(small, balancer=balancer, optimization={"schedule": schedule}), small, tmp_path, 3)


@pytest.mark.parametrize("window", [None, 64])
def test_groups_are_in_the_same_batches(window: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranking losses, weights and windows of rows."""
    monkeypatch.setattr(windows_module, "BLOCK_ROWS", 32)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "search": np.arange(200) // 3, "y": rng.integers(0, 2, 200)})
    options = {"ranking_loss": "pairwise", "weight_column": "own", "pos_weight": 2.0}
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("ctr", "y", **options)], group="search")
    data = recmtl.prepare(schema, frame.assign(own=rng.uniform(0, 2, 200)), *[frame.assign(own=1.0).head(50)] * 2)
    make = maker(data)
    check(partial(make, window=window), data, tmp_path, 2, 7)


class Broken(torch.nn.Module):
    """A tower whose output is not a number in training, from its third step on, up to a later one."""

    def __init__(self, features: int, last: int) -> None:
        super().__init__()
        self.linear, self.last = torch.nn.Linear(features, 1), last
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        broken = (self.calls >= 3) & (self.calls <= self.last) & self.training
        return torch.where(broken, torch.nan, 1.0) * self.linear(view)


def broken(data: recmtl.PreparedData, last: int) -> Make:
    model = partial(recmtl.SharedBottom, towers={"ctr": partial(Broken, last=last)})
    return maker(data, model=model, balancer=recmtl.PCGrad, optimization={"nonfinite_steps": 5})


@pytest.mark.filterwarnings("ignore:step [0-9]+:UserWarning")
def test_nonfinite_counts_are_resumed(small: recmtl.PreparedData, tmp_path: Path) -> None:
    assert check(broken(small, last=6), small, tmp_path, 4, 4).result.skipped["ctr"] == 4


@pytest.mark.filterwarnings("ignore:step [0-9]+:UserWarning")
def test_consecutive_nonfinite_steps_are_counted_across_a_stop(small: recmtl.PreparedData, tmp_path: Path) -> None:
    """Steps 3 to 7 are not finite, with a stop after step 5; the check follows step 8."""
    make, said = broken(small, last=8), r"^not finite in 5 steps in a row, up to step 7: task ctr: "
    with pytest.raises(DivergenceError, match=said):
        make(tmp_path / "whole").fit(small.train, small.valid)
    stopped(make, small, 5, folder=tmp_path / "run")
    with pytest.raises(DivergenceError, match=said):
        make(tmp_path / "run", seed=99).fit(small.train, small.valid, resume=True)


@pytest.mark.parametrize("given", [True, False])
def test_a_resumed_run_reads_the_same_windows(
    given: bool, small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much memory is free by then."""
    monkeypatch.setattr(windows_module, "BLOCK_ROWS", 8)
    enough = int(2 * (3 * 64 + 1) * small.train.bytes_per_row)  # for windows of 64 rows
    monkeypatch.setattr(loader_module, "available_memory", lambda: 1 << 40 if given else enough)
    make = partial(maker(small), window=64 if given else None)
    whole = make(tmp_path / "whole").fit(small.train, small.valid)
    stopped(make, small, 2, folder=tmp_path / "run")
    monkeypatch.setattr(loader_module, "available_memory", lambda: 1 << 40)
    stopped(make, small, 2, folder=tmp_path / "run")
    found = make(tmp_path / "run").fit(small.train, small.valid, resume=True)
    assert found.result.window == whole.result.window == 64
    assert_same(found, whole, small)
    found.finish({"test": small.test})
    assert json.loads((tmp_path / "run/metrics.json").read_text())["window"] == 64


@pytest.mark.parametrize("step", [5, 6, 11, 13])
def test_patience_is_resumed(step: int, small: recmtl.PreparedData, tmp_path: Path) -> None:
    """No evaluation improves on the first by `min_delta`: its weights are the best, and the patience runs out."""
    make = maker(small, epochs=9, stopping={"patience": 4, "evaluations": 2, "min_delta": 0.5})
    found = check(make, small, tmp_path, step)
    assert found.folder.records()[-1]["step"] == 15


def test_the_best_weights_are_those_of_the_checkpoint(small: recmtl.PreparedData, tmp_path: Path) -> None:
    """The first evaluation stays the best; the file of the best weights is damaged when training resumes."""
    make = maker(small, stopping={"evaluations": 2, "min_delta": 0.5})
    whole = make(tmp_path / "whole").fit(small.train, small.valid)
    stopped(make, small, 5, folder=tmp_path / "run")
    (tmp_path / "run/checkpoints/best/checkpoint.pt").write_bytes(b"another one's")
    assert_same(make(tmp_path / "run").fit(small.train, small.valid, resume=True), whole, small)


@pytest.mark.parametrize("monitor", ["ctr.gauc", "cvr.ndcg@10", "ctcvr.pr_auc", "ne"])
def test_every_monitor_fits_into_a_checkpoint(monitor: str, tiny: recmtl.PreparedData, tmp_path: Path) -> None:
    make = maker(tiny, epochs=1, stopping={"monitor": monitor})
    whole = make(tmp_path).fit(tiny.train, tiny.valid)
    assert whole.folder.load_checkpoint("last")["watch"]["best"] == whole.result.best


@pytest.mark.parametrize("evaluation", [1, 2, 4])
def test_a_signal_interrupts_an_evaluation(
    evaluation: int, small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = maker(small)
    whole = make(tmp_path / "whole").fit(small.train, small.valid)
    interrupted, begun = make(tmp_path / "run"), []
    plain = Predictor.measure

    def measure(*arguments: object, **options: object) -> object:
        begun.append(1)
        if len(begun) == evaluation:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the evaluation goes on")
        return plain(*arguments, **options)

    monkeypatch.setattr(Predictor, "measure", measure)
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {evaluation * STEPS // 2}, with"):
        interrupted.fit(small.train, small.valid)
    stopped(make, small, 1, folder=tmp_path / "run") if evaluation < 4 else None
    assert_same(make(tmp_path / "run").fit(small.train, small.valid, resume=True), whole, small)


def test_a_run_after_its_last_step_is_not_trained_again(
    small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = maker(small)
    whole = make(tmp_path / "run").fit(small.train, small.valid)
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("a step is taken"))
    again = make(tmp_path / "run", seed=1).fit(small.train, small.valid, resume=True)
    assert_same(again, whole, small)
    assert again.result.seconds >= whole.folder.load_checkpoint("last")["seconds"] > 0


class Died(BaseException):
    """Raised in place of a killed process: no checkpoint is written."""


def killed(make: Make, data: recmtl.PreparedData, folder: Path, step: int, **run: object) -> list[int]:
    """Start a run that is killed in a step, and return the steps of its checkpoints."""

    def die(*_: object) -> None:
        raise Died

    handler = signal.signal(signal.SIGUSR1, die)
    with signals(step, signal.SIGUSR1), pytest.raises(Died):
        make(folder, **run).fit(data.train, data.valid)
    signal.signal(signal.SIGUSR1, handler)
    return list(RunFolder(folder).steps())


def test_checkpoints_every_few_steps_or_minutes(small: recmtl.PreparedData, tmp_path: Path) -> None:
    make = maker(small)
    assert killed(make, small, tmp_path / "a", 12) == [6]
    assert killed(make, small, tmp_path / "b", 12, checkpoint_every=4, keep=9) == [4, 6, 8]
    assert killed(make, small, tmp_path / "c", 4, checkpoint_minutes=0, keep=2) == [2, 3]
    assert killed(make, small, tmp_path / "d", 4, checkpoint_minutes=5.0) == []
    make(tmp_path / "d").fit(small.train, small.valid, resume=True)  # from the beginning
    assert RunFolder(tmp_path / "d").records()[0]["step"] == 3


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": lambda folder: flip(folder / "checkpoint.pt"),
    "best-flipped": lambda folder: flip(folder / "best" / "checkpoint.pt"),
    "cut": lambda folder: os.truncate(folder / "checkpoint.pt", 1000),
    "empty": lambda folder: os.truncate(folder / "checkpoint.pt", 0),
    "gone": lambda folder: (folder / "checkpoint.pt").unlink(),
    "best-gone": lambda folder: (folder / "best" / "checkpoint.pt").unlink(),
    "foreign": lambda folder: write_checkpoint(folder / "checkpoint.pt", {"model": {}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_resumes_from_the_last_intact_checkpoint(
    damage: str, small: recmtl.PreparedData, tmp_path: Path
) -> None:
    """Better weights were found between the two checkpoints."""
    make = maker(small)
    whole = make(tmp_path / "whole").fit(small.train, small.valid)
    assert killed(make, small, tmp_path / "run", 12, checkpoint_every=4, keep=3) == [4, 6, 8]
    newest, older, _ = list(RunFolder(tmp_path / "run").steps().values())[::-1]
    DAMAGES[damage](newest)
    DAMAGES[damage](older)
    (tmp_path / "run/checkpoints/.step-0000000010.x.partial").mkdir()
    for place in ("checkpoints/best/.checkpoint.pt", ".metrics.jsonl", "plots/.learning_curves.png"):
        (tmp_path / f"run/{place}.7.partial").parent.mkdir(exist_ok=True)
        (tmp_path / f"run/{place}.7.partial").touch()
    notes: list[str] = []
    found = make(tmp_path / "run", seed=5, keep=9).fit(small.train, small.valid, resume=True, note=notes.append)
    assert len(notes) == 2
    assert all(" is damaged: " in note and str(path) in note for note, path in zip(notes, (newest, older), strict=True))
    assert list(found.folder.steps()) == [4, 6, 12]
    assert_same(found, whole, small)
    assert not list(tmp_path.rglob("*.partial"))


def test_training_does_not_start_over_if_all_checkpoints_are_damaged(
    small: recmtl.PreparedData, tmp_path: Path
) -> None:
    make = maker(small)
    killed(make, small, tmp_path, 8)
    (folder,) = RunFolder(tmp_path).steps().values()
    flip(folder / "checkpoint.pt")
    with (
        pytest.warns(UserWarning, match="is damaged: its content does not match its checksum; an older one"),
        pytest.raises(recmtl.RunError, match=r"all checkpoints of .* are damaged: begin a run in another folder"),
    ):
        make(tmp_path).fit(small.train, small.valid, resume=True)
    assert folder.is_dir()


@pytest.mark.parametrize("damage", ["gone", "cut", "overwritten"])
def test_a_damaged_log_is_reported_and_training_resumes(
    damage: str, small: recmtl.PreparedData, tmp_path: Path
) -> None:
    make = maker(small)
    whole = make(tmp_path / "whole").fit(small.train, small.valid)
    stopped(make, small, 8, folder=tmp_path / "run")
    log = tmp_path / "run/metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + (b"" if damage == "cut" else b"\0" * (len(lines[1]) - 20))
    log.write_bytes(b"".join(lines[:2] if damage == "cut" else lines))
    if damage == "gone":
        log.unlink()
    notes: list[str] = []
    found = make(tmp_path / "run").fit(small.train, small.valid, resume=True, note=notes.append)
    assert notes == [f"{log} is damaged: what it lacks of the steps up to 8 stays lost"]
    kept = {"gone": [], "cut": lines[:1], "overwritten": lines[:1] + lines[3:]}[damage]  # no end of a line
    assert found.finish({"valid": small.valid}) == whole.finish({"valid": small.valid})
    rest = whole.folder.records()[len(lines) :]
    assert [lasting(r) for r in found.folder.records()] == [lasting(r) for r in (*map(json.loads, kept), *rest)]


def test_a_finished_run_without_a_checkpoint_is_not_overwritten(small: recmtl.PreparedData, tmp_path: Path) -> None:
    make = maker(small)
    folder = make(tmp_path).fit(small.train, small.valid).folder
    folder.finish({})
    for path in folder.steps().values():
        shutil.rmtree(path)
    log = folder.records()
    with pytest.raises(recmtl.RunError, match="holds a finished run"):
        make(tmp_path).fit(small.train, small.valid, resume=True)
    assert folder.records() == log


def test_any_flipped_bit_is_detected(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", {"a": torch.arange(99.0), "b": [1, None, (True, "x")]})
    content = (tmp_path / "c.pt").read_bytes()
    assert has_valid_checksum(tmp_path / "c.pt")
    random = np.random.default_rng(0)
    for place, bit in zip(random.integers(len(content), size=200), random.integers(8, size=200), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(bit)
        (tmp_path / "d.pt").write_bytes(damaged)
        assert not has_valid_checksum(tmp_path / "d.pt")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 3}, "was begun with `epochs` 2, which is 3 now"),
        ({"balancer": recmtl.PCGrad}, "was begun with `balancer` 'Sum', which is 'PCGrad' now"),
        ({"stopping": {"patience": 1}}, "was begun with `patience` 3, which is 1 now"),
        ({"optimization": {"optimizer": SGD}}, r"was begun with `optimizer` 'Adam\(lr=0.001"),
    ],
)
def test_a_run_resumes_only_with_the_same_options_and_rows(
    changes: dict[str, object], said: str, small: recmtl.PreparedData, tmp_path: Path
) -> None:
    stopped(maker(small), small, 2, folder=tmp_path)
    with pytest.raises(recmtl.RunError, match=said):
        maker(small, **changes)(tmp_path).fit(small.train, small.valid, resume=True)
    with pytest.raises(recmtl.RunError, match="was begun with `validation rows` 50, which is 0 now"):
        maker(small)(tmp_path).fit(small.train, resume=True)
    with pytest.raises(recmtl.RunError, match="holds an unfinished run"):
        maker(small)(tmp_path).fit(small.train, small.valid)
    with pytest.raises(recmtl.RunError, match="there is no run folder to go on in"):
        maker(small)(None).fit(small.train, resume=True)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_other_rows_are_refused(name: str, small: recmtl.PreparedData, tmp_path: Path) -> None:
    stopped(maker(small), small, 2, folder=tmp_path)
    rows = small.splits[name]
    order = np.arange(len(rows))[::-1].copy()
    other = {**small.splits, name: recmtl.Rows(rows.schema, rows.table.take(order), name)}
    with pytest.raises(recmtl.RunError, match=r"was begun with `digest of the (training|validation) rows`"):
        maker(small)(tmp_path).fit(other["train"], other["valid"], resume=True)
    maker(small)(tmp_path).fit(small.train, small.valid, resume=True)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Restore the default handlers: a shell makes background processes ignore SIGINT, and `nohup` SIGHUP."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_are_caught_only_while_a_run_is_trained(
    number: int, status: int, small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    with signals(2, number), pytest.raises(KeyboardInterrupt) as caught:
        maker(small)(tmp_path).fit(small.train, small.valid)
    assert caught.value.status == status
    assert list(RunFolder(tmp_path).steps()) == [2]
    assert signal.getsignal(number) is before
    seen, plain = [], Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *a: seen.append(signal.getsignal(number)) or plain(*a))
    maker(small)(None).fit(small.train)  # nothing to go on from could be left
    thread = threading.Thread(target=maker(small)(tmp_path / "other").fit, args=(small.train,))
    thread.start()
    thread.join()
    assert seen == [before] * 4 * STEPS


@pytest.mark.usefixtures("interruptible")
def test_a_second_sigint_stops_at_once(
    small: recmtl.PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Step.__call__

    def call(self: Step, *arguments: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(Step, "__call__", call)
    with pytest.raises(KeyboardInterrupt) as caught:
        maker(small)(tmp_path).fit(small.train, small.valid)
    assert not isinstance(caught.value, Interrupted)
    assert RunFolder(tmp_path).steps() == {}
