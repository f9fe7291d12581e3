"""`Trainer.save`: a run made in Python is loaded, predicted with and continued like one of the command."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from own_models import Bottom, narrow_tower

import recmtl

ROWS = pd.DataFrame(
    {
        "item": [f"i{i % 7}" for i in range(120)],
        "price": np.arange(120.0) % 11,
        "click": np.arange(120) % 2,
        "buy": np.arange(120) % 3 == 0,
    }
).astype({"buy": int})
SCHEMA = recmtl.Schema(
    [recmtl.Categorical("item"), recmtl.Numeric("price")], [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
)
NEXT = ROWS.assign(item=[f"i{i % 9}" for i in range(120)])


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    return recmtl.prepare(SCHEMA, ROWS, holdout=0.2)


def quiet(**options: object) -> recmtl.RunConfig:
    return recmtl.RunConfig(progress=False, tensorboard=False, device="cpu", **options)


def fitted(data: recmtl.PreparedData, model: recmtl.RankingModel, **options: object) -> recmtl.Trainer:
    trainer = recmtl.Trainer(model, epochs=1, **{"run": quiet(), **options})
    return trainer.fit(data.train, data.valid)


MODELS = {
    "arguments of all kinds": lambda schema: recmtl.MMOE(
        schema,
        2,
        layers=(8,),
        style=recmtl.LayerStyle("layer", dropout=0.1),
        towers={"cvr": narrow_tower},
        encoder=partial(recmtl.FeatureEncoder, width=8, interaction=partial(recmtl.CrossLayers, layers=1)),
    ),
    "one's own class": lambda schema: Bottom(schema, width=6),
    "a class of encoders": lambda schema: recmtl.SharedBottom(schema, [6], encoder=recmtl.FeatureEncoder),
}
OPTIONS = {
    "balancer": recmtl.GradNorm(alpha=0.5),
    "optimization": recmtl.Optimization(optimizer=partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.9)), batch_size=16),
    "stopping": recmtl.EarlyStopping(monitor="ctr.auc"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_run_predicts_and_is_continued(name: str, data: recmtl.PreparedData, tmp_path: Path) -> None:
    options = OPTIONS if name == "arguments of all kinds" else {}
    trainer = fitted(data, MODELS[name](data.schema), **options)
    trainer.save(tmp_path / "saved")
    loaded = recmtl.load_run(tmp_path / "saved", trust="own_models")
    assert loaded.predict(ROWS).equals(trainer.predict(ROWS))
    assert repr(loaded.model) == repr(trainer.model)
    assert vars(loaded.setup.stopping) == vars(trainer.setup.stopping)
    notes = list[str]()
    again = recmtl.continue_run(
        tmp_path / "saved", NEXT, folder=tmp_path / "next", trust="own_models", note=notes.append
    )
    assert len(again.model.schema.vocabularies["item"]) == 9
    assert not any("starts anew" in note for note in notes)
    if options:
        defaults = again.setup.optimization.optimizer([torch.zeros(1, requires_grad=True)]).defaults
        assert (defaults["lr"], tuple(defaults["betas"])) == (0.01, (0.8, 0.9))
    again.save(tmp_path / "copy")  # a run of a recipe has that recipe
    assert recmtl.load_run(tmp_path / "copy", trust="own_models").predict(ROWS).equals(again.predict(ROWS))


def test_a_trainer_with_a_run_folder_saves_its_optimizers_too(data: recmtl.PreparedData, tmp_path: Path) -> None:
    trainer = fitted(data, recmtl.SharedBottom(data.schema, [6]), run=quiet(folder=tmp_path / "run"))
    trainer.finish({"valid": data.valid})
    trainer.save(tmp_path / "saved")
    files = [
        folder / "checkpoints" / "optimizers" / "checkpoint.pt" for folder in (tmp_path / "run", tmp_path / "saved")
    ]
    assert len({file.read_bytes() for file in files}) == 1
    with pytest.raises(recmtl.RunError, match="holds a finished run: choose another folder"):
        trainer.save(tmp_path / "saved")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"towers": {"ctr": lambda width: torch.nn.Linear(width, 1)}},
            r"`model\.towers\.ctr`, which is a lambda or of",
        ),
        (
            {"encoder": lambda schema: recmtl.FeatureEncoder(schema, 8)},
            "`model.encoder`, which is a lambda or of a fun",
        ),
        (
            {"encoder": partial(recmtl.FeatureEncoder, numeric=lambda fitted: recmtl.PlainNumbers(fitted))},
            r"`model\.encoder\.numeric`, which is a lambda",
        ),
        ({"layers": np.array([6])}, "a recipe cannot say what `model.layers` is"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(
    options: dict[str, object], said: str, data: recmtl.PreparedData, tmp_path: Path
) -> None:
    model = recmtl.SharedBottom(data.schema, **options)
    with pytest.raises(recmtl.RunError, match=said):
        recmtl.Trainer(model, run=quiet()).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
