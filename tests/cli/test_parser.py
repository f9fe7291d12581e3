"""Wrong options are explained in the user's words, with the nearest name that there is."""

import json
import sys
from pathlib import Path

import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.errors import UsageError
from recmtl.recipe.options import parse_recipe, recipe_parser


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.layers", "x"], "`--model.layers` must be a list, got 'x'"),
        (["--model.expertz", "3"], "MMOE has no option `--model.expertz`; did you mean `--model.experts`?"),
        (
            ["--model.style.dropoot", "0.1"],
            "MMOE has no option `--model.style.dropoot`; did you mean `--model.style.dropout`?",
        ),
        (["--balancer.frobnicate", "1"], "Sum has no option `--balancer.frobnicate`: it has none"),
        (
            ["--model", "SingleTask", "--model.experts", "1"],
            "SingleTask has no option `--model.experts`: it has layers, tower_layers, style.normalization, "
            "style.dropout, style.activation, style.initialization, style.ensemble, towers, encoder",
        ),
        (["--model.style.dropout", "a"], "`--model.style.dropout` must be a number, got 'a'"),
        (["--model.towers", "x"], "`--model.towers` must be a mapping or null, got 'x'"),
        (["--trainer.epochs", "x"], "`--trainer.epochs` must be an integer, got 'x'"),
        (["--trainer.epochs", "1.5"], "`--trainer.epochs` must be an integer, got '1.5'"),
        (["--trainer.run.progress", "maybe"], "`--trainer.run.progress` must be true or false, got 'maybe'"),
        (
            ["--trainer.optimization.clip_norm", "a"],
            "`--trainer.optimization.clip_norm` must be a number or null, got 'a'",
        ),
        (
            ["--trainer.optimization.schedule", "step"],
            "`--trainer.optimization.schedule` must be one of constant, linear, cosine, got 'step'",
        ),
        (
            ["--balancer", "MetaBalance", "--balancer.strategy", "foo"],
            "`--balancer.strategy` must be one of both, reduce, enlarge, got 'foo'",
        ),
        (
            ["--model", "Nope"],
            "there is no model 'Nope': give one of AITM, ",
        ),
        (
            ["--trainer.optimization.optimizer", "Adm"],
            "there is no optimizer 'Adm'; did you mean 'Adam'?",
        ),
        (["--model", "MMEO"], "there is no model 'MMEO'; did you mean 'MMOE'?"),
        (["--balancer", "MetaBalanc"], "there is no balancer 'MetaBalanc'; did you mean 'MetaBalance'?"),
        (["--model", "recmtl.PCGrad"], "'recmtl.PCGrad' is no model: it must be a subclass of RankingModel"),
        (
            ["--model", "recmtl.MMEO"],
            "there is no model 'recmtl.MMEO': module 'recmtl' has no class 'MMEO'; ",
        ),
        (
            ["--model.encoder.wdth", "4"],
            "FeatureEncoder has no option `--model.encoder.wdth`; did you mean `--model.encoder.width`?",
        ),
        (
            ["--model.towers", "{ctr: torch.nn.Linea}"],
            "there is no module 'torch.nn.Linea': module 'torch.nn' has no class 'Linea'; ",
        ),
        (["--model.towers", "{ctr: "], "`--model.towers` is not YAML: while parsing"),
        (["--nope", "1"], "`test` has no option `--nope`: `test --help` lists them"),
    ],
)
def test_one_sentence(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(recipe_parser("test"), arguments)
    assert str(caught.value).startswith(said)
    assert said.endswith(" ") or str(caught.value) == said or "YAML" in said


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("trainer: {epoch: 3}", "`test` has no option `trainer.epoch`; did you mean `trainer.epochs`?"),
        ("data: {card: aliexpress, trian: a.csv}", "has no option `data.trian`; did you mean `data.train`?"),
        ("model: {class_path: MMOE, init_args: {expertz: 3}}", "MMOE has no option `model.expertz`; did you mean"),
        ("model: MMEO", "there is no model 'MMEO'; did you mean 'MMOE'?"),
        ("trainer: {epochs: many}", "`trainer.epochs` must be an integer, got 'many'"),
        ("trainer: {run: {tensorboard: 3}}", "`trainer.run.tensorboard` must be true or false, got 3"),
    ],
)
def test_one_sentence_about_a_recipe_names_its_file(recipe: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe)
    with pytest.raises(UsageError) as caught:
        parse_recipe(recipe_parser("test"), ["--config", str(path)])
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_options_are_those_of_the_class_that_a_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {class_path: SharedBottom, init_args: {layers: [8]}}\n")
    with pytest.raises(UsageError, match=r"^SharedBottom has no option `--model\.experts`: it has layers, "):
        parse_recipe(recipe_parser("test"), ["--config", str(tmp_path / "r.yaml"), "--model.experts", "3"])


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["--model.help"],
            ["usage: recmtl train --model MMOE ", "  --model.experts N  "],
        ),
        (["--model.help", "ESMM"], ["usage: recmtl train --model ESMM ", "  --model.tower_layers [N,…]  "]),
        (["--model.help=recmtl.ESMM"], ["usage: recmtl train --model ESMM "]),
        (["--config", "aliexpress_esmm", "--model.help"], ["usage: recmtl train --model ESMM "]),
        (["--balancer", "PCGrad", "--balancer.help"], ["usage: recmtl train --balancer PCGrad "]),
        (["--model.encoder.numeric.help", "PeriodicEmbeddings"], ["usage: recmtl train --model.encoder.numeric Per"]),
        (["--model.encoder.interaction.help", "CrossLayers"], ["  --model.encoder.interaction.rank N"]),
        (["--trainer.optimization.optimizer.help", "SGD"], ["  --trainer.optimization.optimizer.momentum NUMBER"]),
    ],
)
def test_help_on_a_class(arguments: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 0
    text = capsys.readouterr().out
    for line in lines:
        assert any(found.startswith(line) for found in text.splitlines()), text


OWN = """
import torch, recmtl

class MyModel(recmtl.SharedBottom):
    def __init__(self, schema: recmtl.FittedSchema, width: int = 4) -> None:
        super().__init__(schema, layers=(width,))

class MyTower(torch.nn.Linear):
    def __init__(self, in_features: int) -> None:
        super().__init__(in_features, 1)

class MyBalancer(recmtl.Sum):
    pass
"""


@pytest.fixture
def here(tmp_path: Path, csv: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A working directory with a module, and a command that would train in it."""
    (tmp_path / "own_classes.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "own_classes", raising=False)
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--run", "run"]
    return ["train", *data, "--trainer.epochs", "1", "--trainer.run.progress", "false"]


def test_own_classes_are_found_in_the_working_directory(
    here: list[str], csv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["--model", "own_classes.MyModel", "--model.width", "3", "--balancer", "own_classes.MyBalancer"]
    assert main([*here, *own]) == 0
    assert sys.path[-1] == str(Path.cwd())  # a file here takes no installed module's place
    monkeypatch.setattr("sys.path", sys.path[:-1])
    del sys.modules["own_classes"]
    evaluate = ["evaluate", "run", "--rows", f"{csv}/test.csv", "--draws", "0"]
    for command in (evaluate, ["train", "--run", "run", "--resume"]):
        capsys.readouterr()
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "names 'own_classes.MyModel', which is not trusted: if you trust its code, add `--trust own_cl" in said
    assert "own_classes" not in sys.modules
    with pytest.raises(recmtl.RunError, match=r"load the run by `load_run\('run', trust=\['own_classes'\]\)`"):
        recmtl.load_run("run")
    with pytest.raises(recmtl.RunError, match="there is no module 'own_classes', neither in the working directory '"):
        recmtl.load_run("run", trust=["own_classes"])
    assert main([*evaluate, "--trust", "own_classes"]) == 0
    assert type(recmtl.load_run("run", trust=["own_classes"]).model).__name__ == "MyModel"


def test_an_own_tower_is_found_in_the_working_directory(here: list[str]) -> None:
    assert main([*here, "--model", "SharedBottom", "--model.towers", "{ctr: own_classes.MyTower}"]) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "own_clases.MyModel",
            "there is no module 'own_clases', neither in the working directory '{here}' nor installed",
        ),
        ("own_classes.MyModl", "module 'own_classes' has no class 'MyModl'; did you mean 'MyModel'?"),
        ("own_classes.MyTower", "'own_classes.MyTower' is no model: it must be a subclass of RankingModel"),
        ("broken.MyModel", "module 'broken' cannot be imported: SyntaxError: "),
    ],
)
def test_an_own_class_that_is_not_found(
    here: list[str], name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text("class MyModel(:\n")
    assert main([*here, "--model", name]) == 2
    error = capsys.readouterr().err
    assert said.format(here=Path.cwd()) in error
    assert error.count("\n") == 1


def test_whole_numbers_are_integers() -> None:
    """As `1e9` where an integer alone is asked for; text stays as it is."""
    said = ["--trainer.epochs", "2e1", "--trainer.optimization.batch_size=1.5e+3", "--trainer.run.seed", "1_000"]
    config = parse_recipe(recipe_parser("test"), [*said, "--data.labels+", "1e2", "--data.group", "1e9"])
    found = config.trainer
    assert (found.epochs, found.optimization.batch_size, found.run.seed) == (20, 1500, 1000)
    assert (config.data.labels, config.data.group) == (["1e2"], "1e9")


class Counted(recmtl.callbacks.Callback):
    """A callback of one's own with an integer option."""

    def __init__(self, every: int = 1, share: float = 1.0) -> None:
        self.every, self.share = every, share


COUNTS = """
data: {nulls: ["1e5"], group: 1e3}
model: {class_path: MMOE, init_args: {experts: 1e1, layers: [1e2, 64], encoder: {width: 1_6}}}
balancer: {class_path: RLW, init_args: {seed: 2e1}}
trainer: {epochs: 1e1, optimization: {batch_size: 1.5e+3, clip_norm: 1e1},
          callbacks: [{class_path: CLASS, init_args: {every: 1e3, share: 1e1}}]}
""".replace("CLASS", f"{__name__}.Counted")


def test_whole_numbers_of_classes_and_in_recipes_are_integers(tmp_path: Path) -> None:
    (tmp_path / "counts.yaml").write_text(COUNTS)
    parser, file = recipe_parser("test"), ["--config", str(tmp_path / "counts.yaml")]
    config = parse_recipe(parser, file)
    model, trainer = config.model.init_args, config.trainer
    found = (model.experts, model.layers, model.encoder.init_args.width, config.balancer.init_args.seed)
    assert repr(found) == "(10, [100, 64], 16, 20)"
    assert repr((trainer.epochs, trainer.optimization.batch_size)) == "(10, 1500)"
    assert trainer.optimization.clip_norm == 10.0
    assert repr(trainer.callbacks[0].init_args.every) == "1000"
    assert trainer.callbacks[0].init_args.share == 10.0
    assert (config.data.nulls, config.data.group) == (["1e5"], "1e3")
    said = ["--model.experts", "2e1", "--model.layers=[2e2,3]", "--balancer", "RLW", "--balancer.seed=1_000"]
    said += ["--trainer.callbacks+", json.dumps({"class_path": f"{__name__}.Counted", "init_args": {"every": "2e2"}})]
    config = parse_recipe(parser, [*file, *said])
    found = (config.model.init_args.experts, config.model.init_args.layers, config.balancer.init_args.seed)
    assert repr(found) == "(20, [200, 3], 1000)"
    assert repr([callback.init_args.every for callback in config.trainer.callbacks]) == "[1000, 200]"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("experts: 1e1", "experts: 1.5", "`model.experts` must be an integer, got 1.5"),
        ("experts: 1e1", "experts: 15e-1", "`model.experts` must be an integer, got '15e-1'"),
        ("seed: 2e1", "seed: 2.5e0", "`balancer.seed` must be an integer, got '2.5e0'"),
        ("epochs: 1e1", "epochs: 1.5", "`trainer.epochs` must be an integer, got 1.5"),
        ("every: 1e3", "every: 0.5", "`trainer.callbacks.every` must be an integer, got 0.5"),
        ("clip_norm: 1e1", "clip_norm: x", "`trainer.optimization.clip_norm` must be a number or null, got 'x'"),
    ],
)
def test_other_numbers_are_no_integers(old: str, new: str, said: str, tmp_path: Path) -> None:
    """The message names the file, and not the whole numbers that are accepted."""
    path = tmp_path / "counts.yaml"
    path.write_text(COUNTS.replace(old, new))
    with pytest.raises(UsageError) as error:
        parse_recipe(recipe_parser("test"), ["--config", str(path)])
    assert str(error.value) == f"{path}: {said}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--data.train", "a.csv", "--label", "view", "click"], "`--label view --label click`"),
        (["train", "--data.train", "a.csv", "--drop=x", "y", "--group", "g"], "`--drop x --drop y`"),
        (
            ["train", "--data.train", "a.csv", "--data.labels", "view", "a b"],
            "`--data.labels view --data.labels 'a b'`",
        ),
        (["train", "--data.train", "a.csv", "--label", "view", "--trust", "a", "b"], "`--trust a --trust b`"),
        (["describe", "a.csv", "--label", "view", "click"], "`--label view --label click`"),
        (["describe", "a.csv", "--label=view", "--drop", "x", "y"], "`--drop x --drop y`"),
        (["prepare", "--label=view", "click", "--out", "b"], "`--label view --label click`"),
    ],
)
def test_several_values_of_an_option_that_is_repeated(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"takes one value and is repeated for further ones, {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "right"), [("--data.label", "--label"), ("--data.drops", "--drop"), ("--data.cards", "--data.card")]
)
def test_an_option_is_proposed_as_its_help_spells_it(
    wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", wrong, "view"]) == 2
    assert f"has no option `{wrong}`; did you mean `{right}`?" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"did you mean `{right}`"):
        parse_recipe(recipe_parser("test"), [wrong, "view"])
    with pytest.raises(UsageError, match=r"no option `data\.label`; did you mean `data\.labels`"):
        parse_recipe(recipe_parser("test"), ["--config", '{"data": {"label": "view"}}'])
