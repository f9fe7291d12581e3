"""Untrusted and damaged run folders: none of their code runs, and errors are one line."""

import copy
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import yaml

from recmtl import callbacks
from recmtl.cli.main import main
from recmtl.errors import UntrustedError
from recmtl.recipe.classes import known_names
from recmtl.recipe.continue_run import continued_recipe
from recmtl.recipe.load import load_run, resumed_recipe
from recmtl.recipe.options import recipe_parser
from recmtl.recipe.recipe import read_recipe
from recmtl.recipe.trust import check_trust, is_data_option
from recmtl.runs.checkpoint_file import append_checksum, read_checkpoint
from recmtl.schema import Schema, SchemaError
from recmtl.schema.serialization import FITTED_FILES
from recmtl.train import RunError, RunFolder

Change = Callable[[dict[str, Any]], Any]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small MMOE, and the prepared dataset beside it."""
    folder = tmp_path_factory.mktemp("trained")
    files = [f"--{split}={csv}/{split}.csv" for split in ("train", "valid", "test")]
    assert main(["prepare", "--card", "aliexpress", *files, "--out", str(folder / "data")]) == 0
    model = ["--model", "MMOE", "--model.layers", "[8,4]", "--model.experts", "2", "--trainer.epochs", "1"]
    options = ["--trainer.run.progress", "false", "--trainer.run.tensorboard", "false"]
    assert main(["train", "--data.train", str(folder / "data"), *model, *options, "--run", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in an empty folder, in which the command is called."""
    shutil.copytree(trained / "run", tmp_path / "here" / "run")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "run"


@pytest.fixture
def evil(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a mark when it is imported, and files of options that name it."""
    here = run.parent
    monkeypatch.syspath_prepend(str(here))
    (here / "evil_module.py").write_text("from pathlib import Path\nPath('mark').touch()\nclass Sum: pass\n")
    for folder in (here, run):
        (folder / "evil").write_text("class_path: evil_module.Sum\n")
        (folder / "evil.yaml").write_text("balancer: {class_path: evil_module.Sum}\n")
    yield here / "mark"
    sys.modules.pop("evil_module", None)


def model(**options: Any) -> Change:
    return lambda recipe: recipe["model"]["init_args"].update(options)


def named(name: str, options: Any = None) -> dict[str, Change]:
    """A name everywhere where a recipe names a class."""
    entry = {"class_path": name, "dict_kwargs": options or {}}
    return {
        "model": lambda recipe: recipe.update(model=entry),
        "balancer": lambda recipe: recipe.update(balancer=entry),
        "optimizer": lambda recipe: recipe["trainer"]["optimization"].update(optimizer=entry),
        "encoder": model(encoder=entry),
        "tower": model(towers={"ctr": entry}),
    }


IMPORTED = [
    ("recmtl.data.store.cache.os.system", {"command": "touch"}),
    ("recmtl.comparison.jobs.subprocess.Popen", {"args": ["touch", "mark"]}),
    ("recmtl.comparison.jobs.shutil.rmtree", {"path": "run"}),
    ("recmtl.__main__.main", {}),
    ("torch.nn.modules.module.torch.load", {"f": "pickled", "weights_only": False}),
    ("torch.optim.optimizer.torch.hub.load", {"repo_or_dir": "here", "source": "local", "model": "entry"}),
    ("torch.hub.load", {"repo_or_dir": "here"}),
    ("torch.utils.cpp_extension.load", {"name": "x"}),
    ("torch.jit.load", {"f": "x"}),
    ("torch.nn.init.uniform_", {}),
    ("evil_module.Sum", {}),
    ("run.evil_module.Sum", {}),
    ("os.system", {"command": "touch"}),
]
ELSEWHERE: dict[str, Change] = {
    "style is a file": model(style="evil"),
    "layers are a file": model(layers="evil"),
    "options are a file": lambda recipe: recipe["model"].update(init_args="evil"),
    "data is a file": lambda recipe: recipe.update(data="evil"),
    "a second recipe": lambda recipe: recipe.update(config="evil.yaml"),
    "its own trust": lambda recipe: recipe.update(trust=["evil_module"]),
    "data is a class": lambda recipe: recipe.update(data={"class_path": "evil_module.Sum", "init_args": {}}),
    "stopping is a class": lambda recipe: recipe["trainer"].update(stopping={"class_path": "evil_module.Sum"}),
    "run is a class": lambda recipe: recipe["trainer"]["run"].update(class_path={"class_path": "evil_module.Sum"}),
    "monitor is a class": lambda recipe: recipe["trainer"]["stopping"].update(monitor={"class_path": "evil_module.X"}),
    "another key of an entry": lambda recipe: recipe["model"].update(__path__="evil"),
    "YAML in text": model(style="{class_path: evil_module.Sum}"),
}
IN_CALLBACKS: dict[str, Change] = {
    "a callback": lambda recipe: recipe["trainer"].update(callbacks=[{"class_path": "evil_module.Sum"}]),
    "a function for a callback": lambda recipe: recipe["trainer"].update(callbacks=[{"class_path": "torch.load"}]),
    "a callback's option": lambda recipe: recipe["trainer"].update(
        callbacks=[{"class_path": "own.Callback", "init_args": {"what": "evil_module.Sum"}}]
    ),
    "a callback's keywords": lambda recipe: recipe["trainer"].update(
        callbacks=[{"class_path": "recmtl.PrintMetrics", "dict_kwargs": {"what": {"class_path": "evil_module.Sum"}}}]
    ),
    "a callback in an option": lambda recipe: recipe["trainer"].update(
        callbacks=[{"class_path": "recmtl.PrintMetrics", "init_args": {"every": {"class_path": "evil_module.Sum"}}}]
    ),
    "callbacks are text": lambda recipe: recipe["trainer"].update(callbacks="evil.yaml"),
}
CASES = {f"{name} as {place}": change for name, o in IMPORTED for place, change in named(name, o).items()}
EVERYWHERE = CASES | ELSEWHERE | IN_CALLBACKS


@pytest.mark.parametrize(
    "change", [*(CASES | ELSEWHERE | IN_CALLBACKS).values()], ids=[*(CASES | ELSEWHERE | IN_CALLBACKS)]
)
def test_a_recipe_runs_no_code(run: Path, evil: Path, change: Change) -> None:
    recipe = read_recipe(RunFolder(run))
    change(recipe)
    with pytest.raises(RunError, match=r"recipe\.yaml (names|is not the recipe of a run)"):
        check_trust(recipe, (), run / "recipe.yaml")
    assert not evil.exists()


@pytest.mark.parametrize("change", [*list(CASES.values())[:2], *ELSEWHERE.values()], ids=[*list(CASES)[:2], *ELSEWHERE])
def test_no_command_uses_such_a_recipe(run: Path, csv: Path, evil: Path, change: Change, capsys: Capture) -> None:
    recipe = read_recipe(RunFolder(run))
    change(recipe)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    (run / "metrics.json").unlink()
    assert main(["train", "--run", str(run), "--resume"]) == 2
    assert capsys.readouterr().err.count(f"recmtl: {run}/recipe.yaml ") == 2
    assert not evil.exists()


@pytest.mark.parametrize("change", IN_CALLBACKS.values(), ids=IN_CALLBACKS)
def test_callbacks_are_left_out_unless_training_goes_on(
    run: Path, csv: Path, evil: Path, change: Change, capsys: Capture
) -> None:
    recipe = read_recipe(RunFolder(run))
    change(recipe)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert load_run(run).setup.callbacks == ()
    (run / "metrics.json").unlink()
    assert main(["train", "--run", str(run), "--resume"]) == 2
    assert capsys.readouterr().err.count(f"recmtl: {run}/recipe.yaml ") == 1
    assert not evil.exists()


def test_a_recipe_names_layers_and_what_is_trusted(run: Path, evil: Path) -> None:
    recipe = read_recipe(RunFolder(run))
    check_trust(recipe, (), run)
    for name in ("torch.optim.Adagrad", "torch.optim.adagrad.Adagrad", "torch.nn.Linear", "recmtl.balance.PCGrad"):
        for change in named(name).values():
            changed = copy.deepcopy(recipe)
            change(changed)
            check_trust(changed, (), run)
    named("evil_module.Sum")["balancer"](recipe)
    check_trust(recipe, ["evil_module"], run)
    assert evil.exists()
    named("evil_module.Path")["balancer"](recipe)  # what a trusted module imports is not its own
    with pytest.raises(RunError, match=r"names 'evil_module\.Path', which is no layer"):
        check_trust(recipe, ["evil_module"], run)


def test_a_run_with_vectors_from_a_file_can_be_resumed(run: Path) -> None:
    recipe = read_recipe(RunFolder(run))
    recipe["model"]["init_args"]["encoder"]["init_args"]["pretrained"] = {"categorical_1": "vectors/of.csv"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    encoder = resumed_recipe(recipe_parser("test"), [], run).model.init_args.encoder
    assert encoder.init_args.pretrained == {"categorical_1": "vectors/of.csv"}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "&a [*a]",
        "[" * 5_000,
        "a: 2001-99-99",
        "a: 2001-01-01",
        "a: !!set {x}",
        "a: !!binary aGk=",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: !!python/object/apply:os.system [touch mark]",
        "a: !!int x",
        "\x00",
    ],
    ids=lambda text: text[:20].strip(),
)
def test_yaml_other_than_plain_data_is_refused(run: Path, csv: Path, text: str, capsys: Capture) -> None:
    (run / "recipe.yaml").write_text(text)
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    assert capsys.readouterr().err.startswith(f"recmtl: {run}/recipe.yaml is damaged: ")
    with pytest.raises(SchemaError, match=r"recipe\.yaml is not YAML"):
        Schema.load(run / "recipe.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 10**9}, "memory does not hold the model"),
        ({"layers": [10**12]}, "memory does not hold the model"),
        ({"layers": [10**30]}, "memory does not hold the model"),
        (
            {"encoder": {"class_path": "recmtl.FeatureEncoder", "init_args": {"width": 10**9}}},
            "give the feature fewer `hash_buckets`",
        ),
    ],
)
def test_sizes_that_memory_does_not_hold(run: Path, csv: Path, options: Any, message: str, capsys: Capture) -> None:
    recipe = read_recipe(RunFolder(run))
    model(**options)(recipe)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class Harmful:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path("mark").touch, ()


def test_a_checkpoint_executes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"

    def refused(message: str) -> None:
        with pytest.raises(RunError, match=rf"the checkpoint {path} is damaged: {message}"):
            read_checkpoint(path)
        assert not (tmp_path / "mark").exists()

    torch.save({"model": Harmful()}, path)
    append_checksum(path)
    refused("Weights only load failed")
    path.write_bytes(pickle.dumps(Harmful()) + bytes(100))
    append_checksum(path)
    refused("")
    path.unlink()
    os.mkfifo(path)
    refused("its content does not match its checksum")


def test_a_tensor_does_not_reach_beyond_its_storage(tmp_path: Path) -> None:
    path, other = tmp_path / "checkpoint.pt", tmp_path / "other.pt"
    torch.save({"a": torch.arange(70_000.0)}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(other, "w") as changed:
        for member in whole.namelist():
            content = whole.read(member)
            if member.endswith("data.pkl"):
                assert content.count(struct.pack("<i", 70_000)) == 2  # of the storage and of the tensor
                content = content.replace(struct.pack("<i", 70_000), struct.pack("<i", 2_000_000_000))
            changed.writestr(member, content)
    append_checksum(other)
    with pytest.raises(RunError, match="is damaged"):
        read_checkpoint(other)


def test_a_run_writes_nowhere_else(run: Path, trained: Path, tmp_path: Path, capsys: Capture) -> None:
    """Neither through links in the folder, nor into a cache that its recipe names."""
    recipe = read_recipe(RunFolder(run))
    recipe["data"]["cache"] = str(tmp_path / "elsewhere")
    recipe["trainer"]["run"]["folder"] = str(tmp_path / "elsewhere")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert resumed_recipe(recipe_parser("test"), [], run).data.cache is None
    victim = tmp_path / "victim"
    victim.touch()
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(victim)
    (run / "metrics.json").unlink()
    assert main(["train", "--run", str(run), "--resume"]) == 2
    assert f"{run}/metrics.jsonl is a link" in capsys.readouterr().err
    assert victim.read_bytes() == b""
    assert not (tmp_path / "elsewhere").exists()


FILES = [
    "recipe.yaml",
    *(f"schema/{name}" for name in FITTED_FILES),
    "checkpoints/best/checkpoint.pt",
]


@pytest.mark.parametrize("file", FILES)
def test_damaged_files_of_a_run_that_is_read(run: Path, trained: Path, file: str, capsys: Capture) -> None:
    """Cut, or with bytes changed: one line that names the file, or the same metrics."""
    rng, whole, path = np.random.default_rng(len(file)), (run / file).read_bytes(), run / file
    evaluate = ["evaluate", str(run), "--rows", str(trained / "data"), "--draws", "0", "--json"]
    capsys.readouterr()
    assert main(evaluate) == 0
    right = json.loads(capsys.readouterr().out)
    for place in (None, *rng.integers(0, len(whole), 2)):
        content = bytearray(whole)
        if place is None:
            del content[len(content) // 2 :]
        else:
            content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        status = main(evaluate)
        printed = capsys.readouterr()
        assert status == 2 or file == "recipe.yaml" or json.loads(printed.out) == right
        assert printed.err.count("\n") == (status == 2)
        assert status == 0 or str(run / Path(file).parent) in printed.err


@pytest.mark.parametrize("file", ["metrics.json", "metrics.jsonl", "usage.json", "predictions/test.parquet"])
def test_damaged_files_of_a_run_that_is_reported(run: Path, file: str, capsys: Capture) -> None:
    """Every changed byte is told, also one that would be another number."""
    rng, whole, path = np.random.default_rng(len(file)), (run / file).read_bytes(), run / file
    report = ["report", str(run), "--out", str(run.parent / "report.html"), "--draws", "0"]
    capsys.readouterr()
    for place in rng.integers(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        assert main(report) == 2
        said = f"recmtl: {path} is damaged: its content does not match its checksum in checksums.json\n"
        assert capsys.readouterr().err == said
    path.write_bytes(whole)
    assert main(report) == 0
    for text in ("{", "[]", "[" * 100_000):
        (run / "checksums.json").write_text(text)
        assert main(report) == 2
        assert f"recmtl: {run}/checksums.json is damaged: " in capsys.readouterr().err


@pytest.mark.parametrize("file", ["metrics.jsonl", "usage.json", "predictions/test.parquet", "metrics.json"])
def test_reported_files_without_checksums(run: Path, file: str, capsys: Capture) -> None:
    """A run from elsewhere need not have any."""
    (run / "checksums.json").unlink()
    (run / file).write_text("[1]\nx")
    if file == "metrics.json":
        with pytest.raises(RunError, match=rf"{run / file} is damaged: "):
            RunFolder(run).result()
        return
    capsys.readouterr()
    assert main(["report", str(run), "--out", str(run.parent / "report.html"), "--draws", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(run / file) in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (model(expertz=2), "MMOE has no option `model.expertz`; did you mean `model.experts`?"),
        (model(experts="many"), "`model.experts` must be an integer, got 'many'"),
        (
            lambda recipe: recipe["trainer"].update(epoch=1),
            "has no option `trainer.epoch`; did you mean `trainer.epochs`",
        ),
    ],
)
def test_options_of_another_version(run: Path, csv: Path, change: Change, message: str, capsys: Capture) -> None:
    recipe = read_recipe(RunFolder(run))
    change(recipe)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"recmtl: {run}/recipe.yaml cannot be used: ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("labels", ["click", "os.system"], True),
        ("drop", [], True),
        ("kinds", {"zip": "categorical", "class_path": "drop"}, True),
        ("train", "a.csv", True),
        ("labels", "click", False),
        ("labels", [["click"]], False),
        ("drop", {"class_path": "os.system"}, False),
        ("nulls", ["unknown"], True),
        ("header", ["user", "os.system"], True),
        ("header", "user", False),
        ("decimal", ",", True),
        ("nulls", [{"class_path": "os.system"}], False),
        ("kinds", {"zip": {"class_path": "os.system"}}, False),
        ("kinds", {1: "drop"}, False),
        ("train", ["a.csv"], False),
    ],
)
def test_the_columns_of_a_recipe_are_plain_text(run: Path, name: str, value: object, plain: bool) -> None:
    assert is_data_option(name, value) == plain
    recipe = read_recipe(RunFolder(run))
    recipe["data"][name] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if plain:
        load_run(run)
    else:
        with pytest.raises(RunError, match=r"recipe\.yaml is not the recipe of a run"):
            load_run(run)


def test_the_options_of_shipped_callbacks_are_plain() -> None:
    """So that texts in them import nothing and choose no file, and need no trust."""
    for name in known_names("trainer.callbacks"):
        if name != "OptunaPruning":  # it takes a trial, which no recipe names
            hints = get_type_hints(getattr(callbacks, name).__init__)
            assert {*hints.values()} <= {int, str, str | None, bool, NoneType}, name


def test_callbacks_of_a_trusted_module_may_have_any_text(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run.parent))
    (run.parent / "own_callbacks.py").write_text("import recmtl\nclass Web(recmtl.Callback): pass\n")
    recipe = read_recipe(RunFolder(run))
    entry = {"class_path": "own_callbacks.Web", "init_args": {"address": "http://here:5000", "seconds": 3}}
    recipe["trainer"]["callbacks"] = [entry, {"class_path": "recmtl.PrintMetrics"}]
    check_trust(recipe, ("own_callbacks",), run / "recipe.yaml")
    with pytest.raises(RunError, match=r"names 'own_callbacks.Web', which is not trusted"):
        check_trust(recipe, (), run / "recipe.yaml")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    load_run(run)  # which has no callbacks


@pytest.mark.parametrize("spelling", [["--trainer.callbacks", "[]"], ["--config", "{trainer: {callbacks: []}}"]])
def test_what_options_replace_needs_no_trust(run: Path, evil: Path, spelling: list[str]) -> None:
    recipe = read_recipe(RunFolder(run))
    recipe["trainer"]["callbacks"] = [{"class_path": "evil_module.Sum"}]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    parser = recipe_parser("test")
    assert resumed_recipe(parser, spelling, run).trainer.callbacks == []
    assert continued_recipe(parser, [*spelling, "--data.train", "day.csv"], run).trainer.callbacks == []
    for given in ([], ["--trainer.callbacks+", "[]"], ["--trainer.callbacks+=PrintMetrics"]):
        with pytest.raises(UntrustedError, match=r"names 'evil_module.Sum'"):
            resumed_recipe(parser, given, run)
    recipe["balancer"] = {"class_path": "evil_module.Sum"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UntrustedError, match=r"names 'evil_module.Sum'"):
        resumed_recipe(parser, spelling, run)
    assert not evil.exists()


def test_own_metrics_that_options_replace_need_no_trust(run: Path, evil: Path) -> None:
    recipe = read_recipe(RunFolder(run))
    recipe["trainer"]["stopping"]["metrics"] = {"all": ["evil_module.hits"]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    parser, rows = recipe_parser("test"), ["--data.train", "day.csv"]
    config = continued_recipe(parser, [*rows, "--trainer.stopping.metrics", "{}"], run)
    assert config.trainer.stopping.metrics == {}
    with pytest.raises(RunError, match=r"was begun with `trainer.stopping.metrics.*evil_module.hits"):
        resumed_recipe(parser, ["--trainer.stopping.metrics", "{}"], run)
    for given in (rows, [*rows, "--trainer.stopping.metrics.ctr", "[recmtl.evaluate.auc]"]):
        with pytest.raises(UntrustedError, match=r"names 'evil_module.hits'"):
            continued_recipe(parser, given, run)
    assert not evil.exists()
