"""A recipe is checked before anything is built from it."""

from pathlib import Path

import pytest

from recmtl.cli.main import main
from recmtl.recipe.options import check_text

BOMB = "a1: &a1 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(2, 12))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("data: {train: a.csv}".encode("utf-16"), "is not a recipe: 'utf-8' codec can't decode byte"),
        (b"a: [", "is not a recipe: while parsing"),
        (b"a: " + b"[" * 20_000, "is not a recipe: it is nested too deeply"),
        (BOMB.encode(), "is not a recipe: it has more than 1,048,576 values"),
        (b'data: {cache: "\\0"}', "is not a recipe: '\\x00' has a NUL character"),
        (b"", "is not a recipe: expected keys such as `data` and `model`"),
        (b"- 1", "is not a recipe: expected keys"),
        (b"data:", ": `data` must be a mapping, got 'None'"),
        (b"trainer: {run: 1.5}", ": `trainer.run` must be a mapping, got '1.5'"),
    ],
)
def test_bad_files(content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    for command in (["train"], ["compare", "--models", "MMOE", "--out", str(tmp_path / "out")]):
        assert main([*command, "--config", str(tmp_path / "r.yaml")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"recmtl: {tmp_path}/r.yaml")
        assert said in error
        assert error.count("\n") == 1


def test_yaml_aliases_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: &d {card: aliexpress}\ntrainer: {epochs: 1}\nmodel: MMOE\nbalancer: Sum\n")
    check_text(tmp_path / "r.yaml")


NULLS = {
    "trainer.run.log_every": "trainer: {run: {log_every: null}}",
    "trainer.epochs": "trainer: {epochs: null}",
    "data.holdout": "data: {holdout: null}",
    "model.experts": "model: {class_path: MMOE, init_args: {experts: null}}",
    "trainer.optimization.optimizer.eps": "trainer: {optimization: {optimizer: {class_path: Adam, init_args: "
    "{eps: null}}}}",
}


@pytest.mark.parametrize("option", NULLS)
def test_only_optional_options_may_be_null(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(NULLS[option])
    assert main(["train", "--config", str(tmp_path / "r.yaml")]) == 2
    assert f"`{option}` must not be null" in capsys.readouterr().err
    (tmp_path / "r.yaml").write_text("trainer: {run: {window: null}, stopping: {patience: null}}")
    assert main(["train", "--config", str(tmp_path / "r.yaml")]) == 2
    assert "there are no training rows" in capsys.readouterr().err
