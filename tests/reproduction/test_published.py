"""Each published figure has its source, its setting and its dataset."""

import json

import pytest

import recmtl
from recmtl.data.raw import find_reader
from recmtl.errors import DataError
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import complete_recipe
from recmtl.reproduction import find_preset
from recmtl.reproduction.published import datasets, sources

FIGURES = [(n, m, s) for s, found in sources().items() for n, models in found.figures.items() for m in models]


def test_every_figure_can_be_trained():
    for name, model, source in FIGURES:
        preset = find_preset(name, model, source)
        assert preset.source.url.startswith("https://")
        assert preset.source.known
        assert preset.source.runs > 1
        card = recmtl.card(preset.dataset.card)
        assert preset.figures.keys() <= {task.name for task in card.reported_tasks}
        assert all(0.5 < figure < 1 for figure in preset.figures.values())
        reader = find_reader(preset.dataset.layout)
        assert preset.dataset.part in (reader.parts or (None,))
        assert preset.dataset.card in reader.cards


@pytest.mark.parametrize("model", sorted({model for _, model, _ in FIGURES}))
def test_the_recipe_of_a_setting_is_one(model):
    preset = next(find_preset(*figure) for figure in FIGURES if figure[1] == model)
    parser = recipe_parser("test")
    recipe = complete_recipe(parser, parse_recipe(parser, [f"--config={json.dumps(preset.recipe)}"]))
    optimization = recipe["trainer"]["optimization"]
    assert optimization["optimizer"]["init_args"]["lr"] == 0.001
    assert optimization["batch_size"] == 2048
    assert recipe["model"]["init_args"]["style"]["dropout"] == 0.2


def test_figures_as_they_were_read():
    assert find_preset("aliexpress-nl", "mmoe").figures == {"ctr": 0.7234, "ctcvr": 0.8606}
    assert find_preset("aliexpress-us", "ple").figures == {"ctr": 0.7138, "ctcvr": 0.8675}
    assert find_preset("aliexpress-nl", "esmm").source_name == "noah"
    assert find_preset("aliexpress-nl", "mmoe", "noah").figures["cvr"] == 0.7870


def test_unknown_names():
    for arguments, said in (
        (("aliexpress-nl", "mmo"), "no published figure of aliexpress-nl for the model 'mmo'; did you mean"),
        (("aliexpress-de", "mmoe"), "no published figures of 'aliexpress-de'"),
        (("aliexpress-nl", "mmoe", "me"), "no source 'me'"),
        (("aliexpress-nl", "omoe", "noah"), "noah has no figure of omoe on aliexpress-nl: leave out `source`"),
    ):
        with pytest.raises(DataError) as caught:
            find_preset(*arguments)
        assert said in str(caught.value)
    assert [*datasets()] == ["aliexpress-nl", "aliexpress-es", "aliexpress-fr", "aliexpress-us"]
