"""Settings and data that many tests share."""

import contextlib
import dataclasses
import gc
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import recmtl
from recmtl.data.synthetic.generate import synthesize
from recmtl.train import artifacts
from tests import unseen  # noqa: F401
from tests.warm_python import warm_python as started

LONGEST = ("test_first_gpu", "test_claims", "test_distributed", "test_readme")  # minutes each; first, for even ends

NUMBERS = itertools.count()

torch.set_num_threads(1)  # tests run side by side, one process a core
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests are collected, nor among them later: they are a million objects."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a CUDA device where there is none, and start with slow tests that take longest."""
    items.sort(key=lambda item: not (item.path.stem in LONGEST and item.get_closest_marker("slow")))
    missing = pytest.mark.skip(reason="no CUDA device")
    for item in items if not torch.cuda.is_available() else ():
        if item.get_closest_marker("gpu"):
            item.add_marker(missing)


@pytest.fixture(autouse=True)
def _own_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or fills the user's cache.

    A test that has no `tmp_path` gets none made: thousands of folders take seconds.
    """
    has_own = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if has_own else tmp_path_factory.getbasetemp() / str(next(NUMBERS))
    monkeypatch.setenv("RECMTL_CACHE", str(folder / "cache"))


@pytest.fixture(autouse=True)
def _idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training prints does not depend on what else the machine does."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots of a run are drawn, which `tests.unseen` saves all other tests."""
    monkeypatch.setattr(artifacts, "Figure", Figure)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device whose tensors have shapes alone; torch has no autocast for it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    return "meta"


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all tensors for those of a GPU: no value is looked at, and what a GPU computes in its own way is so here."""
    for name, module in list(sys.modules.items()):
        if name.startswith("recmtl.") and hasattr(module, "on_host"):
            monkeypatch.setattr(module, "on_host", lambda _: False)


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program to call like `python`, whose processes start without the seconds that importing torch takes."""
    with started(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture
def warm_jobs(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainings of a comparison start warm."""
    monkeypatch.setattr("recmtl.comparison.jobs.TRAIN", (str(warm_python), "-m", "recmtl", "train"))
    monkeypatch.setattr("recmtl.comparison.jobs.FIT", (str(warm_python), "-m", "recmtl.comparison.baselines"))


@pytest.fixture
def warm_workers(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that train the trials of a search start warm."""
    monkeypatch.setattr("recmtl.tuning.workers.WORKER", (str(warm_python), "-m", "recmtl.tuning.worker"))


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, valid and test CSV in the layout of AliExpress, 3,000 rows in all."""
    folder = tmp_path_factory.mktemp("csv")
    synthesize(folder, 3000, seed=1, click_rate=0.2, conversion_rate=0.3)
    return folder


@pytest.fixture(scope="session")
def aliexpress(csv: Path) -> recmtl.PreparedData:
    """The generated rows, prepared by the AliExpress card."""
    return recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", csv / "valid.csv", csv / "test.csv")


@pytest.fixture(scope="session")
def with_domain(csv: Path) -> recmtl.PreparedData:
    """The generated rows, prepared by the AliExpress card, one of whose columns is taken for the domain."""
    card = dataclasses.replace(recmtl.card("aliexpress"), domain="categorical_2")
    return recmtl.prepare(card, csv / "train.csv", csv / "valid.csv", csv / "test.csv")


@pytest.fixture(scope="session")
def small() -> recmtl.PreparedData:
    """200 rows with every kind of feature, a funnel, a regression, missing labels and row weights."""
    rng = np.random.default_rng(0)
    rows = 200
    click = rng.integers(0, 2, rows).astype(float)
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 7, rows),
            "genres": ["|".join(rng.choice(list("abcd"), rng.integers(0, 4), replace=False)) for _ in range(rows)],
            "price": rng.normal(size=rows),
            "click": np.where(np.arange(rows) == 3, np.nan, click),
            "conversion": click * rng.integers(0, 2, rows),
            "stay": rng.exponential(size=rows),
            "weight": rng.uniform(0.5, 2, rows),
        }
    )
    schema = recmtl.Schema(
        features=[
            recmtl.Categorical("user", width=5),
            recmtl.MultiCategorical("genres"),
            recmtl.Numeric("price"),
        ],
        tasks=[
            recmtl.Task("ctr", "click"),
            recmtl.Task("cvr", "conversion", given="click"),
            recmtl.Task("stay", "stay", kind="regression"),
        ],
        funnel=recmtl.Funnel("click", "conversion"),
        weight="weight",
    )
    return recmtl.prepare(schema, frame, valid=frame.head(50), test=frame.tail(50))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real rows; the test is skipped where there is none."""
    folder = os.environ.get("RECMTL_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no data folder: RECMTL_REAL_DATA names none")
    return Path(folder)
