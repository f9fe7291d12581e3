"""The options of `recmtl serve`, and the process that it becomes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recmtl.cli import serve
from recmtl.cli.main import main
from recmtl.serving.server.supervisor import Server

Run = Callable[[list[str]], int]


def by_command_line(arguments: list[str]) -> int:
    return main(["serve", *arguments])


def by_module(arguments: list[str]) -> int:
    """Run `python -m recmtl.cli.serve`, which needs no torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["serve", *arguments])
        return serve.main()


WAYS = pytest.mark.parametrize("run", [by_command_line, by_module])


@WAYS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "`--workers` must be at least 1, got 0"),
        (["--max_rows", "-1"], "`--max_rows` must be at least 1"),
        (["--timeout", "0"], "`--timeout` must be above 0"),
        (["--port", "70000"], "`--port` must be from 0 to 65535, got 70000"),
    ],
)
def test_a_bad_option_is_named(run: Run, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model", *options]) == 2
    assert message in capsys.readouterr().err


@WAYS
def test_the_options_reach_the_server(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(serve, "become", lambda command: commands.append(list(command)))
    monkeypatch.chdir(tmp_path)
    options = "--port 0 --workers 3 --threads 2 --max_rows 7 --max_body 100 --batch_wait 2 --watch 0 --log_requests"
    assert run(["model", *options.split()]) == 0
    server = Server.from_arguments(commands[0][-4:])
    assert (server.host, server.port, server.workers) == ("127.0.0.1", 0, 3)
    settings = server.settings
    assert (settings.model, settings.threads, settings.batch_wait, settings.watch) == (
        str(tmp_path / "model"),
        2,
        0.002,
        0,
    )
    assert (settings.limits.rows, settings.limits.body, settings.log_requests) == (7, 100, True)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["serve", "model"]) == 2
    assert "needs 'uvicorn': pip install 'recmtl[serve]'" in capsys.readouterr().err


def test_the_module_needs_no_torch() -> None:
    code = (
        "import sys; import recmtl.cli.serve, recmtl.serving.server.supervisor, recmtl.serving.server.worker; "
        "import recmtl.serving.scorer; "
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'pandas', 'pyarrow', 'jsonargparse', 'scipy'})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
