"""SIGTERM and SIGHUP end a command: what is half written is removed, and one line and the status name the signal."""

import signal
from collections.abc import Callable
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from recmtl.cli.main import main
from recmtl.data.preparation import prepare
from recmtl.data.synthetic.folder import GeneratedFolder
from recmtl.io.table_writer import TableWriter
from recmtl.runs.folder import RunFolder

SMALL = ["--model", "SharedBottom", "--model.layers", "[2]", "--model.tower_layers", "[2]", "--trainer.epochs", "1"]


def asking(number: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """Work after which a signal has come, twice: the second does not disturb what the first one starts."""

    def asked(*arguments: Any, **options: Any) -> Any:
        found = work(*arguments, **options)
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)
        return found

    return asked


def test_commands_clean_up(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, run = ["--data.card", "aliexpress", "--data.train", csv / "valid.csv"], tmp_path / "run"
    train = ["train", *rows, *SMALL, "--trainer.run.tensorboard", "false"]
    assert main([*map(str, train), "--run", str(run)]) == 0
    commands: dict[tuple[Any, str], list[Any]] = {
        (prepare, "save_fitted"): ["prepare", "--card", "aliexpress", "--train", csv / "valid.csv", "--out"],
        (GeneratedFolder, "write_truth"): ["synth", "--rows", 100, "--out"],
        (RunFolder, "begin"): [*train, "--run"],
        (TableWriter, "write"): ["predict", run, "--rows", csv / "test.csv", "--out"],
    }
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests are run by nohup
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    numbers = cycle([signal.SIGTERM, signal.SIGHUP])
    for number, ((place, name), arguments) in zip(numbers, commands.items(), strict=False):
        out = tmp_path / f"{arguments[0]}.parquet"
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, asking(number, getattr(place, name)))
            assert main([*map(str, arguments), str(out)]) == 128 + number
        assert capsys.readouterr().err.splitlines()[-1] == f"recmtl: ended by {number.name}"
        left = [path for path in tmp_path.rglob("*") if path.name.startswith(".") or out in (path, *path.parents)]
        assert left == [out] * (arguments[0] == "synth"), left  # a folder in which other files may be
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("command", "work", "said"),
    [
        ("compare", "run_grid", "resumes it"),
        ("replay", "run_replay", "resumes it"),
        ("tune", "run_tuning", "goes on with the next trial"),
    ],
)
def test_commands_that_keep_what_is_finished_say_so(
    command: str,
    work: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def asked(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(import_module(f"recmtl.cli.{command}"), work, asked)
    models = ["--models", "MMOE"] if command == "compare" else []
    assert main([command, *models, "--data.train", "days", "--label", "click", "--out", str(tmp_path)]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == f"recmtl: ended by SIGTERM: the same command {said}"


OWN = """
import recmtl

class Exits(recmtl.SharedBottom):
    def forward(self, batch):
        exit(0)
"""


def test_own_code_that_exits_is_named(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command ends with the status of success because a module of the user's exits."""
    (tmp_path / "exiting.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    rows = ["--data.card", "aliexpress", "--data.train", str(csv / "valid.csv")]
    model = ["--model", "exiting.Exits", "--model.layers", "[2]", "--model.tower_layers", "[2]"]
    assert main(["train", *rows, *model, "--run", "run"]) == 2
    place = f"recmtl: {tmp_path / 'exiting.py'}, line 6, ended the command by SystemExit: 0"
    assert capsys.readouterr().err.splitlines()[-1] == place
