"""Exported models of classes and amounts: arrays, DataFrames, lines of JSON, and a server's answer."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.serving.reader import Model, score_lines
from recmtl.serving.server.app import answer_body
from recmtl.serving.server.served import Contract

TASKS = [
    recmtl.Task("stars", "stars", kind="multiclass"),
    recmtl.Task("spent", "spent", kind="amount", loss="ziln"),
    recmtl.Task("views", "views", kind="amount"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, recmtl.Trainer, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": rng.integers(0, 9, 300).astype(str), "x": rng.normal(size=300)})
    frame = frame.assign(stars=rng.choice(["a", "b", "c"], 300), spent=rng.exponential(size=300) * (frame.x > 0))
    frame = frame.assign(views=rng.poisson(2, 300))
    schema = recmtl.Schema([recmtl.Categorical("user"), recmtl.Numeric("x")], TASKS)
    data = recmtl.prepare(schema, frame, holdout=0)
    style = recmtl.LayerStyle(ensemble=2)
    model = recmtl.SharedBottom(data.schema, layers=[8], tower_layers=[4], style=style)
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(progress=False)).fit(data.train)
    folder = tmp_path_factory.mktemp("served") / "model"
    recmtl.export_model(trainer, folder, rows=frame)
    return folder, trainer, frame


def test_scores_are_those_of_the_run(exported: tuple[Path, recmtl.Trainer, pd.DataFrame]) -> None:
    folder, trainer, frame = exported
    scorer, expected = recmtl.Scorer(folder), trainer.predict(frame)
    assert scorer.classes == {"stars": ("a", "b", "c")}
    found = scorer.score(frame)
    assert list(found) == ["stars_a", "stars_b", "stars_c", "spent", "views"]
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    rows = frame[["user", "x"]].head(3).to_dict("records")
    arrays = scorer.score(rows)
    assert {name: values.shape for name, values in arrays.items()} == {"stars": (3, 3), "spent": (3,), "views": (3,)}
    assert scorer.score(rows[:0])["stars"].shape == (0, 3)
    lines = io.StringIO("".join(json.dumps(row) + "\n" for row in rows))
    first = json.loads(next(score_lines(Model(folder), lines)))
    assert first["stars"] == pytest.approx(dict(zip("abc", arrays["stars"][0], strict=True)))
    assert first["spent"] == pytest.approx(arrays["spent"][0])


def test_a_server_answers_by_class_and_takes_no_model_of_others(
    exported: tuple[Path, recmtl.Trainer, pd.DataFrame],
) -> None:
    scorer = recmtl.Scorer(exported[0])
    contract = Contract.of(scorer.metadata)
    scores = scorer.score([{"user": "1", "x": 0.5}, {"user": "2", "x": None}])
    answer = json.loads(answer_body((scores, SimpleNamespace(version="v", contract=contract))))
    assert list(answer["tasks"]["stars"]) == ["a", "b", "c"]
    assert answer["tasks"]["stars"]["b"] == scores["stars"][:, 1].tolist()
    tasks = [t | ({"classes": ["a", "b"]} if "classes" in t else {}) for t in scorer.metadata["tasks"]]
    other = Contract.of(scorer.metadata | {"tasks": tasks})
    assert contract.breach(other) == "its task 'stars' has other classes than clients read"
