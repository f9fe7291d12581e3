"""Help and spelling come from a list of options that is that of the parsers, and import nothing heavy."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import recmtl
from recmtl.cli.catalogue import load_catalogue
from recmtl.cli.main import main
from recmtl.cli.write_catalogue import COMMANDS, current_catalogue
from recmtl.recipe.classes import known_names

HEAVY = ("torch", "numpy", "pandas", "pyarrow", "jsonargparse", "rich")


def test_the_catalogue_lists_the_options_of_the_parsers() -> None:
    assert load_catalogue() == current_catalogue(), "run `python -m recmtl.cli.write_catalogue`"
    assert tuple(load_catalogue()) == COMMANDS


def test_numbers_of_rows_are_no_files() -> None:
    values = {name: {o["flags"][0]: o["value"] for o in load_catalogue()[name]["options"]} for name in COMMANDS}
    assert [values[name]["--rows"] for name in ("plan", "synth", "predict")] == ["N", "N", "FILE"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_with_its_meaning(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    usage, _, summary, *lines = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"usage: recmtl {command}")
    assert summary.endswith(".")
    assert all(option["help"] for option in load_catalogue()[command]["options"])
    flags = {flag for option in load_catalogue()[command]["options"] for flag in option["flags"]}
    shown = {word.rstrip(",") for line in lines if line.startswith("  -") for word in line.split()}
    assert shown >= {flag for flag in flags if flag.startswith("-")}
    assert max(map(len, lines)) <= 100


def test_help_of_train_is_in_words_that_a_user_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-h"]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines()[3:] if line and not line.startswith(" ")]
    assert headings == ["Options", "Data", "Model", "Balancer", "Training", "Optimization", "Early stopping", "Run"]
    assert "--model MODEL " in text
    assert ", ".join(known_names("model")) in " ".join(text.split())
    for word in ("Callable", "Optional", "typing", "<class", "None"):
        assert word not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean `train`?"),
        (["frobnicate"], "there is no command 'frobnicate': the commands are demo, synth, describe,"),
        (["train", "--trainer.epoch", "3"], "has no option `--trainer.epoch`; did you mean `--trainer.epochs`?"),
        (["train", "--trainer.epoch=3"], "has no option `--trainer.epoch`; did you mean `--trainer.epochs`?"),
        (["train", "--modle.experts", "3"], "has no option `--modle.experts`; did you mean `--model`?"),
        (
            ["train", "--batch_size", "3"],
            "has no option `--batch_size`; did you mean `--trainer.optimization.batch_size`?",
        ),
        (["cache", "list", "--oldr-than", "3"], "has no option `--oldr-than`; did you mean `--older-than`?"),
        (["synth", "--frobnicate", "3"], "has no option `--frobnicate`: `recmtl synth --help` lists them"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["trian"], ["train", "--modle", "x"], ["train", "-h"]]
)
def test_what_runs_nothing_imports_nothing_heavy(arguments: list[str]) -> None:
    found = f"[name for name in {HEAVY} if name in sys.modules]"
    code = f"import sys; from recmtl.cli.main import main; main({arguments!r}); print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recmtl {recmtl.__version__}\n"


SLOW_IMPORT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs ignore it
class Slow:
    def find_spec(self, name, *others):
        if name == "torch":
            print(flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from recmtl.cli.main import main
raise SystemExit(main(["train", "--data.train", "gone", "--data.card", "gone"]))
"""


def test_an_interrupt_while_a_command_starts_is_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()  # the command imports torch now
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (130, "recmtl: interrupted\n")


def test_messages_about_rows_name_options_that_all_commands_have() -> None:
    """Files below recipes are read by commands with and without a recipe, whose long spellings only the former have."""
    folder = Path(recmtl.__file__).parent
    files = [file for part in ("io", "schema", "data", "evaluate") for file in (folder / part).rglob("*.py")]
    named = [file.name for file in files if re.search(r"`--(data|trainer|model)\.", file.read_text())]
    assert named == ["cache.py"]  # which also says what `recmtl cache` takes
