"""Output that cannot print a character, is closed, or is full: a command that did its work ends well."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recmtl.cli.main import main
from recmtl.runs.folder import RunFolder

CITY = "städte→東京"  # a column name that Latin-1 and ASCII lack
DATA = ["--data.train", "train.csv", "--data.test", "test.csv", "--data.labels", "[click]"]
SMALL = ["--trainer.epochs=1", "--model.layers=[4]", "--trainer.run.device=cpu"]
TRAIN = ["train", "--model=SharedBottom", *SMALL, *DATA]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("train.csv", "test.csv")):
        rng = np.random.default_rng(seed)
        columns = {CITY: rng.choice(["東京·1", "b"], 80), "x": rng.normal(size=80), "click": rng.integers(0, 2, 80)}
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed_in(encoding: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints to a standard output of an encoding; it must succeed."""
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in written.items():
            patch.setattr(sys, name, io.TextIOWrapper(stream, encoding))
        assert main(arguments) == 0
        assert written["stderr"].getvalue().decode(encoding).count("Traceback") == 0
        return written["stdout"].getvalue().decode(encoding)


def test_every_command_prints_on_a_narrow_terminal(
    place: Path, warm_jobs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ASCII, which lacks all that Latin-1 lacks; that a stream has another encoding, two commands show."""

    def shown(*arguments: str, encoding: str = "ascii") -> str:
        return printed_in(encoding, list(arguments), monkeypatch)

    assert "rows/s" in shown(*TRAIN, "--run", "run")
    for encoding in ("ascii", "latin-1"):
        assert "auc" in shown("evaluate", "run", "--rows", "test.csv", "--draws", "0", encoding=encoding)
        escaped = "->" + json.dumps("東京")[1:-1]
        assert escaped in shown("describe", "train.csv", "--label", "click", encoding=encoding)
    assert "80 predictions" in shown("predict", "run", "--rows", "test.csv", "--out", "p.csv")
    assert "report in" in shown("report", "run", "--out", "r.html", "--draws", "0", "--slice", CITY)
    compared = shown("compare", "--models", "SharedBottom", "--seeds", "1", "--out", "grid", *SMALL, *DATA)
    assert "SharedBottom" in compared
    assert "--data.train" in shown("train", "--help")
    assert CITY in (place / "r.html").read_text(encoding="utf-8")


def test_json_on_a_narrow_terminal_is_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["describe", "train.csv", "--label", "click", "--json"]
    found = [json.loads(printed_in(encoding, command, monkeypatch)) for encoding in ("utf-8", "ascii")]
    assert found[0] == found[1]
    assert any(value["value"] == "東京·1" for value in found[0]["values"])


def closed_pipe() -> io.TextIOWrapper:
    """A stream that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "w", encoding="utf-8")


def test_a_training_ends_well_although_nobody_reads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_pipe() as out, closed_pipe() as error:  # to close them writes what is left, which must not fail
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        assert main([*TRAIN, "--run", "run"]) == 0
    assert RunFolder("run").finished


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["nothing"], 2), (["train", "--help"], 0)])
def test_streams_may_be_closed_from_the_start(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(arguments) == status
    assert sys.stdout is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_finds_no_space_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["--help"]) == 2
    assert capsys.readouterr().err == "recmtl: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_progress_that_finds_no_space_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main([*TRAIN, "--run", "run"]) == 0


def test_an_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--run", os.fsdecode(b"run\xff")]) == 2
    assert r"'run\udcff' is no UTF-8" in capsys.readouterr().err
