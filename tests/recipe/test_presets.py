"""Every shipped recipe and card can be used."""

import re
import shutil
from dataclasses import replace
from inspect import isabstract, isclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jsonargparse import ArgumentParser

import recmtl
from recmtl import models
from recmtl.io.untrusted import from_yaml
from recmtl.recipe.classes import known_names
from recmtl.recipe.load import without_vector_files
from recmtl.recipe.options import add_recipe, parse_recipe, recipe_parser
from recmtl.recipe.presets import find_card, find_recipe
from recmtl.recipe.recipe import build, complete_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p.stem for p in (ROOT / "models").glob("*.yaml"))
CARDS = sorted(p.stem for p in (ROOT / "data").glob("*.yaml"))


def test_shipped_cards_and_recipes() -> None:
    assert {
        "aliexpress_aitm",
        "aliexpress_dcn",
        "aliexpress_escm2",
        "aliexpress_esmm",
        "aliexpress_mmoe",
        "aliexpress_pepnet",
        "aliexpress_shared_bottom",
        "aliexpress_star",
        "census_mmoe",
        "census_shared_bottom",
        "interests_din",
    } <= set(RECIPES)
    assert {"aliexpress", "aliexpress_countries", "census_income", "planted_interests"} <= set(CARDS)


@pytest.fixture(scope="module")
def countries(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> recmtl.PreparedData:
    """The generated rows as those of two countries, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("countries")
    for country, file in {"NL": "train", "ES": "valid"}.items():
        (folder / f"country={country}").mkdir()
        shutil.copy(csv / f"{file}.csv", folder / f"country={country}" / "train.csv")
    return recmtl.prepare(recmtl.card("aliexpress_countries"), folder, holdout=0)


def test_each_country_is_a_domain(countries: recmtl.PreparedData) -> None:
    assert countries.schema.domain.categories == ("NL", "ES")


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.startswith(("census", "interests"))])
def test_recipe_builds_its_model(name: str, aliexpress: recmtl.PreparedData, countries: recmtl.PreparedData) -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_recipe(parser)
    config = parser.parse_path(find_recipe(name))
    assert find_card(config.data.card).is_file()
    data = countries if config.data.card == "aliexpress_countries" else aliexpress
    trainer = build(parser, config, data.schema)
    assert type(trainer.model).__name__.lower() in name.replace("_", "") or name in ("demo", "aliexpress_dcn")
    assert (type(trainer.model.encoder.interaction).__name__ == "CrossLayers") == name.endswith("dcn")


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith("census")])
def test_census_recipe_builds_its_model(name: str, small: recmtl.PreparedData) -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_recipe(parser)
    trainer = build(parser, parser.parse_path(find_recipe(name)), small.schema)
    assert type(trainer.model).__name__.lower() in name.replace("_", "")


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> recmtl.PreparedData:
    """Rows with the columns of Census-Income."""
    card, rng = recmtl.card("census_income"), np.random.default_rng(0)
    names = [*(feature.name for feature in card.features), *card.labels]
    rows = pd.DataFrame({name: rng.integers(0, 2, 100) for name in names})
    return recmtl.prepare(card, rows, holdout=0)


@pytest.fixture(scope="module")
def interests(tmp_path_factory: pytest.TempPathFactory) -> recmtl.PreparedData:
    """Rows with planted interests."""
    folder = tmp_path_factory.mktemp("interests")
    recmtl.plant(folder, "interests", rows=200)
    return recmtl.prepare(recmtl.card("planted_interests"), folder / "train.csv", holdout=0)


def test_attention_is_all_that_a_card_of_planted_interests_adds(interests: recmtl.PreparedData, tmp_path: Path) -> None:
    recmtl.plant(tmp_path, "interests", rows=20)
    written, shipped = recmtl.Schema.load(tmp_path / "card.yaml"), recmtl.card("planted_interests")
    attended = [
        replace(feature, pooling="target_attention", target="item") if feature.name == "history" else feature
        for feature in written.features
    ]
    assert shipped == replace(written, features=tuple(attended), description=shipped.description)


OF_FUNNELS, OF_DOMAINS = {"AITM", "ESCM2", "ESMM"}, {"PEPNet", "STAR"}


@pytest.mark.parametrize(
    ("recipe", "data", "unfit"),
    [
        ("aliexpress_star", "countries", set()),
        ("census_mmoe", "census", OF_FUNNELS | OF_DOMAINS),
        ("interests_din", "interests", OF_FUNNELS | OF_DOMAINS),
    ],
)
def test_a_recipe_takes_every_model_that_its_data_have_the_columns_for(
    recipe: str, data: str, unfit: set[str], request: pytest.FixtureRequest
) -> None:
    """As the quickstart says: by the name of the model alone, with the recipe's options that the model has."""
    prepared: recmtl.PreparedData = request.getfixturevalue(data)
    parser, batch = recipe_parser("test"), next(recmtl.Loader(prepared.train, 4).epoch())
    written = from_yaml(find_recipe(recipe).read_text())["model"]
    given = written["init_args"] if isinstance(written, dict) else {}
    for name in known_names("model"):
        config = parse_recipe(parser, ["--config", recipe, "--model", name, "--balancer", "Sum"])
        if name in unfit:
            with pytest.raises(ValueError, match=rf"^{name} needs a schema with a `(funnel|domain)`"):
                build(parser, config, prepared.schema)
            continue
        model = build(parser, config, prepared.schema).model
        assert type(model).__name__ == name
        assert all(logits.isfinite().all() for logits in model.eval()(batch).values())
        kept = given.keys() & {"layers", "tower_layers"} & {*config.model.init_args.keys()}
        assert all(config.model.init_args[option] == given[option] for option in kept)


@pytest.mark.parametrize("name", CARDS)
def test_card_says_where_to_get_the_data(name: str) -> None:
    assert re.search("https://|`recmtl synth", recmtl.card(name).description)


def is_model(exported: object) -> bool:
    return isclass(exported) and issubclass(exported, models.RankingModel) and not isabstract(exported)


def test_known_names() -> None:
    assert known_names("model") == sorted(name for name in models.__all__ if is_model(getattr(models, name)))
    assert "PiecewiseLinearEmbeddings" in known_names("model.encoder.numeric")
    assert known_names("model.encoder.interaction") == ["CrossLayers", "FinalMLP", "GatedCrossLayers", "MaskNet"]
    assert {"Sum", "GradNorm", "MetaBalance", "NormalizedSplitter"} <= set(known_names("balancer"))


@pytest.mark.parametrize("given", ["file", "options"])
def test_a_model_starts_at_its_own_defaults(given: str, tmp_path: Path) -> None:
    """Not at those of the model that there is without any, which has arguments of the same names."""
    (tmp_path / "recipe.yaml").write_text("model: ESMM\nbalancer: MetaBalance\n")
    parser = recipe_parser("test")
    options = ["--config", str(tmp_path / "recipe.yaml")] if given == "file" else ["--model", "ESMM"]
    recipe = complete_recipe(parser, parse_recipe(parser, options))
    assert recipe["model"]["init_args"]["tower_layers"] == [256, 128, 64]
    plain = complete_recipe(parser, parse_recipe(parser, []))
    assert plain["model"]["class_path"] == "recmtl.MMOE"
    assert plain["balancer"]["class_path"] == "recmtl.Sum"


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(recmtl.SchemaError, match="no recipe 'nope': give a file or one of aliexpress_aitm"):
        find_recipe("nope")
    with pytest.raises(
        recmtl.SchemaError,
        match="no dataset card 'nope': give a file or one of aliccp, aliexpress, aliexpress_countries",
    ):
        find_card("nope")


def test_only_files_of_pretrained_vectors_are_dropped() -> None:
    def recipe(vectors: object) -> dict[str, object]:
        encoder = {"class_path": "FeatureEncoder", "init_args": {"width": 8, "pretrained": vectors}}
        own = {"pretrained": {"item": "mine"}, "encoder": encoder}
        return {"model": {"class_path": "my.Model", "init_args": own}, "pretrained": {"a": "b"}}

    assert without_vector_files(recipe({"item": "v.csv", "x": None})) == recipe({"item": None, "x": None})
    for other in (None, [], {}, {"model": None}, recipe(None), recipe("v.csv"), {"model": {"init_args": ["encoder"]}}):
        assert without_vector_files(other) == other
