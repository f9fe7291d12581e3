"""Runs of MLflow, in a stand-in for its client."""

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import recmtl
from recmtl.callbacks import FitResult, TrainingContext, records
from recmtl.cli.main import main


@dataclass
class Server:
    """What an MLflow server holds; runs by their ids."""

    experiments: dict[str, str] = field(default_factory=dict)
    names: dict[str, str | None] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    params: dict[str, dict[str, str]] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    points: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment: str, run_name: str | None) -> Any:
        run_id = f"run{len(self.names)}"
        self.names[run_id], self.status[run_id], self.points[run_id] = run_name, "RUNNING", defaultdict(list)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(metrics={n: p[-1].value for n, p in self.points[run_id].items()}))

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return self.points[run_id][name]

    def update_run(self, run_id: str, status: str) -> None:
        self.status[run_id] = status

    set_terminated = update_run

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self.tags[run_id, name] = value

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.params.setdefault(run_id, {}).update({p.key: p.value for p in params})
        for metric in metrics:
            self.points[run_id][metric.key].append(metric)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that the stand-in's clients talk to."""
    server = Server()
    metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # noqa: E731
    modules: dict[str, dict[str, Any]] = {
        "mlflow": {},
        "mlflow.tracking": {"MlflowClient": lambda: server},
        "mlflow.entities": {"Metric": metric, "Param": lambda key, value: SimpleNamespace(key=key, value=value)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(records, "find_spec", lambda name: object())
    return server


def record(step: int, **content: Any) -> dict[str, Any]:
    return {"step": step, "epoch": 1, **content}


def test_a_run_holds_the_numbers_and_the_options(server: Server, context: Callable[..., TrainingContext]) -> None:
    logger = recmtl.MLflow("ads")
    logger.on_fit_start(context(step=0, options={"epochs": 3, "digest of the training rows": "x" * 600}))
    logger.on_record(context(), record(4, loss={"ctr@US": 0.5, "cvr": None}, valid={"ctr": {"ndcg@10": 0.25}}))
    logger.on_fit_end(context(), FitResult(best=0.7, stopped="enough"))
    logger.close()
    assert server.experiments == {"ads": "0"}
    assert list(server.names.values()) == [context().folder.name]
    assert server.params["run0"] == {"epochs": "3", "digest of the training rows": "x" * 500}
    points = {name: [(p.step, p.value) for p in found] for name, found in server.points["run0"].items()}
    assert points == {"loss/ctr_US": [(4, 0.5)], "valid/ctr/ndcg_10": [(4, 0.25)]}
    assert {name: value for (_, name), value in server.tags.items()} == {
        "recmtl.monitor": "auc",
        "recmtl.best": "0.7",
        "recmtl.stopped": "enough",
    }
    assert server.status == {"run0": "FINISHED"}
    logger.on_fit_start(context(step=0))  # another training
    logger.close()
    assert server.status == {"run0": "FINISHED", "run1": "KILLED"}


@pytest.mark.parametrize(("broken", "after"), [("create_run", {}), ("log_batch", {"run1": "KILLED"})])
def test_a_run_that_cannot_be_created_leaves_the_one_before_as_it_ended(
    server: Server, context: Callable[..., TrainingContext], broken: str, after: dict[str, str]
) -> None:
    logger = recmtl.MLflow()
    logger.on_fit_start(context(step=0))
    logger.on_fit_end(context(), FitResult(best=0.7, stopped=None))
    logger.close()

    def fail(*given: Any, **named: Any) -> None:
        raise OSError("no connection")

    setattr(server, broken, fail)
    with pytest.raises(OSError, match="no connection"):
        logger.on_fit_start(context(step=0))
    logger.close()
    assert server.status == {"run0": "FINISHED", **after}


def test_a_resumed_training_writes_each_point_once(server: Server, context: Callable[..., TrainingContext]) -> None:
    """The process was killed after step 3, and its checkpoint was that of step 2; of step 1 a point is missing."""
    first = recmtl.MLflow()
    first.on_fit_start(context(step=0))
    history = [record(1, loss={"ctr": 1.0}), record(1, valid={"ctr": {"auc": 0.5}}), record(2, loss={"ctr": 0.8})]
    first.on_record(context(), history[0])
    first.on_record(context(), history[2])
    state = first.state_dict()
    first.on_record(context(), record(3, loss={"ctr": 0.6}))
    second = recmtl.MLflow()
    second.load_state_dict(state)
    second.on_fit_start(context(step=2, records=history))
    assert server.status == {"run0": "RUNNING"}
    for step, loss in ((3, 0.6), (4, 0.4)):
        second.on_record(context(), record(step, loss={"ctr": loss}))
    points = {name: [(p.step, p.value) for p in found] for name, found in server.points["run0"].items()}
    assert points == {"loss/ctr": [(1, 1.0), (2, 0.8), (3, 0.6), (4, 0.4)], "valid/ctr/auc": [(1, 0.5)]}


@pytest.mark.parametrize(("logger", "extra"), [(recmtl.MLflow, "mlflow"), (recmtl.WandB, "wandb")])
def test_the_extra_is_named_where_it_is_missing(logger: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    said = rf"^{logger.__name__} needs '{extra}': pip install 'recmtl\[{extra}\]'$"
    with pytest.raises(recmtl.RunError, match=said):
        logger()


def test_a_missing_extra_is_told_before_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    arguments = ["--data.train", str(tmp_path / "no.csv"), "--label", "click", "--run", str(tmp_path / "run")]
    assert main(["train", *arguments, "--trainer.callbacks", "[MLflow]"]) == 2
    assert capsys.readouterr().err == "recmtl: MLflow needs 'mlflow': pip install 'recmtl[mlflow]'\n"
    assert not (tmp_path / "run").exists()
