"""Rows whose predictions lie in shares: metrics, files and calibrations are those of all rows in one process."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from recmtl.balance import ProcessGroup
from recmtl.evaluate import MEASURES, Metrics, Predictions, domain_metrics, domain_scores, own_metrics
from recmtl.evaluate.predictions import complete
from recmtl.schema import Categorical, Funnel, Numeric, Schema, Task
from recmtl.train.prediction_shares import PredictionShares
from recmtl.train.share_exchange import ShareExchange

SCHEMA = Schema(
    [Numeric("x"), Categorical("country")],
    [
        Task("ctr", "click"),
        Task("cvr", "buy", given="click"),
        Task("like", "like", weight_column="own"),
        Task("stars", "stars", kind="multiclass", classes=("a", "b", "c")),
        Task("stay", "stay", kind="regression"),
        Task("spent", "spent", kind="amount"),
    ],
    Funnel("click", "buy"),
    group="search",
    domain="country",
)
ROWS = 2400


class Threads:
    """Stands in for a process group: so many threads that meet at each message; counts the rows that one receives."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.places = size, threading.Barrier(size, timeout=60), [None] * size
        self.most, self.sent = 0, 0  # rows that one received at once, bytes that the first sent

    def meet(self, rank: int, value: Any) -> list[Any]:
        self.places[rank] = value
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found

    def run(self, work: Callable[[ShareExchange], Any]) -> list[Any]:
        found: list[Any] = [None] * self.size
        errors: list[BaseException] = []

        def of(rank: int) -> None:
            try:
                found[rank] = work(ShareExchange(Thread(self, rank), torch.device("cpu")))
            except BaseException as error:
                self.barrier.abort()
                errors.append(error)

        threads = [threading.Thread(target=of, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return found


class Thread(ProcessGroup):
    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank, self.size = threads, rank, threads.size

    def all_gather_object(self, value: Any) -> list[Any]:
        return self.threads.meet(self.rank, value)

    def broadcast_object(self, value: Any) -> Any:
        return self.threads.meet(self.rank, value)[0]

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return self.threads.meet(self.rank, tensor)

    def all_to_all(self, tensor: Tensor, given: list[int], taken: list[int]) -> Tensor:
        parts = [parts[self.rank] for parts in self.threads.meet(self.rank, tensor.split(given))]
        assert [len(part) for part in parts] == taken
        self.threads.sent += tensor.nbytes * self.first
        self.threads.most = max(self.threads.most, sum(taken)) if tensor.dtype == torch.float64 else self.threads.most
        return torch.cat(parts)


def spread_of(predictions: np.ndarray, labels: np.ndarray, weight: np.ndarray, groups: np.ndarray) -> float:
    """A metric of one's own, which depends on the order of rows."""
    return float(np.abs(np.diff(predictions.reshape(len(labels), -1)[:, 0])) @ weight[1:] + len(np.unique(groups)))


def refused(predictions: np.ndarray, labels: np.ndarray, weight: np.ndarray, groups: np.ndarray) -> float:
    raise KeyError("no")


def predictions(kind: str) -> Predictions:
    rng = np.random.default_rng(0)
    click, like = rng.integers(0, 2, ROWS).astype(float), rng.choice([0.0, 1.0, np.nan], ROWS)
    labels = {"click": click, "buy": np.where(rng.random(ROWS) < 0.4, click, 0.0), "like": like}
    labels |= {
        "stars": rng.choice([0.0, 1, 2, np.nan], ROWS),
        "stay": rng.normal(5, 1, ROWS),
        "spent": rng.exponential(1, ROWS),
    }
    stars = rng.dirichlet([1, 2, 3], ROWS)
    values = {
        "ctr": rng.random(ROWS),
        "ctcvr": rng.random(ROWS) ** 2,
        "like": rng.integers(0, 5, ROWS) / 4,
        "stars": stars,
    }
    values |= {"stay": labels["stay"] + rng.normal(size=ROWS), "spent": rng.exponential(1, ROWS)}
    keys = pa.table(
        {
            "search": pa.array([f"s{n}" if n else None for n in rng.integers(0, 300, ROWS)]),
            "country": pa.array(rng.choice(["NL", "ES", "FR", None], ROWS, p=[0.3, 0.5, 0.1, 0.1])),
        }
    )
    found = Predictions(SCHEMA, values, labels, None, keys, task_weights={"own": rng.uniform(0, 2, ROWS)})
    if kind == "weighted":
        sampling = np.where(click == 1, 1.0, 4.0)
        labels["like"] = np.where(rng.random(ROWS) < 0.3, 0.25, like)  # soft
        return replace(found, weight=rng.integers(0, 3, ROWS) / 2.0, sampling_weight=sampling)
    if kind == "own":
        return replace(found, own=own_metrics({"all": [spread_of], "ctr": [refused]}))
    if kind == "undefined":
        labels |= {
            "click": np.zeros(ROWS),
            "like": np.full(ROWS, np.nan),
            "stay": np.full(ROWS, 0.1),
            "stars": np.ones(ROWS),
        }
        values["ctcvr"][5], values["spent"][7] = 1.5, np.inf
    return found


def share(given: Predictions, rank: int, size: int) -> Predictions:
    """The first process has no row, the second a single one."""
    ends = [0, 0, 1, *np.linspace(1, ROWS, size - 1).astype(int)[1:]] if size > 2 else [0, 1000, ROWS]
    place = np.arange(ROWS)
    return given.select((place >= ends[rank]) & (place < ends[rank + 1]))


def assert_equal(found: Metrics, expected: Metrics, exact: bool) -> None:
    one, other = found.to_dict(), expected.to_dict()
    assert one.keys() == other.keys()
    for name, value in other.items():
        exactly = not isinstance(value, float) or (exact and name in ("auc", "macro_auc", "accuracy"))
        assert one[name] == (value if exactly else pytest.approx(value, rel=1e-12)), name


@pytest.mark.parametrize(
    ("kind", "size"), [("plain", 2), ("plain", 5), ("weighted", 2), ("weighted", 4), ("own", 3), ("undefined", 3)]
)
def test_metrics_of_shares_are_those_of_all_rows(kind: str, size: int) -> None:
    given = predictions(kind)
    expected, domains = given.metrics(), domain_metrics(domain_scores(given))
    quick = given.metrics(["auc", "logloss", "r2", "gini", "macro_auc"])

    def measured(exchange: ShareExchange) -> tuple[Any, ...]:
        own = PredictionShares(share(given, exchange.rank, size), exchange)
        return own.metrics(), own.domain_metrics(), own.metrics(["auc", "logloss", "r2", "gini", "macro_auc"])

    everyone = Threads(size).run(measured)
    assert all(one == everyone[0] for one in everyone)  # bit by bit: the monitor decides alike
    for task, metrics in expected.items():
        exact = kind in ("plain", "own") and task != "like"
        assert_equal(everyone[0][0][task], metrics, exact)
        assert_equal(everyone[0][2][task], quick[task], exact)
    assert list(everyone[0][0]) == list(expected)
    assert {task: list(found) for task, found in everyone[0][1].items()} == {t: list(d) for t, d in domains.items()}
    for task, of_task in domains.items():
        for domain, metrics in of_task.items():
            assert_equal(everyone[0][1][task][domain], metrics, kind == "plain" and task != "like")
    if kind == "plain":
        assert expected["cvr"].capped > 0
        assert expected["ctr"].groups > 250
        assert "ndcg@10" in expected["spent"].values


def test_no_process_holds_all_rows() -> None:
    given, names = predictions("plain"), {n for kind in MEASURES.values() for n in kind.metrics}
    threads = Threads(4)
    threads.run(lambda exchange: PredictionShares(share_evenly(given, exchange), exchange).metrics(names))
    assert threads.most <= 1.2 * ROWS / 4
    first = given.select(np.arange(ROWS) * 4 // ROWS == 0).scores().values()
    orders = [h for s in first for h in MEASURES[s.task.kind](s, MEASURES[s.task.kind].metrics).histograms().values()]
    assert threads.sent == sum(24 * len(order.values) + 4 * 8 for order in orders)


def share_evenly(given: Predictions, exchange: ShareExchange) -> Predictions:
    return given.select(np.arange(ROWS) * exchange.size // ROWS == exchange.rank)


def test_files_and_calibrations_take_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = predictions("weighted")
    monkeypatch.setattr("recmtl.train.prediction_shares.CHUNK", 700)

    def work(exchange: ShareExchange) -> Predictions | None:
        own = PredictionShares(share(given, exchange.rank, 3), exchange)
        own.write(tmp_path / "found.parquet" if exchange.rank == 0 else None)
        return own.gathered()

    first, *others = Threads(3).run(work)
    assert others == [None, None]
    given.write(tmp_path / "expected.parquet")
    found, expected = (pa.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("found", "expected"))
    assert found.equals(expected)
    assert first.table().equals(given.table())
    assert complete(SCHEMA, first.values)[1].keys() == complete(SCHEMA, given.values)[1].keys()
