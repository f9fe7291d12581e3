"""The options of `recmtl serve`, and the process that it becomes."""

from pathlib import Path

import pytest

from recmtl.cli import serve
from recmtl.cli.main import main
from recmtl.serving.server.supervisor import Server


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "`--workers` must be at least 1, got 0"),
        (["--max_rows", "-1"], "`--max_rows` must be at least 1"),
        (["--timeout", "0"], "`--timeout` must be above 0"),
        (["--port", "70000"], "`--port` must be from 0 to 65535, got 70000"),
        (["--prot", "1"], "did you mean `--port`?"),
    ],
)
def test_a_bad_option_is_named(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "model", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_options_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(serve, "become", lambda command: commands.append(list(command)))
    monkeypatch.chdir(tmp_path)
    options = "--port 0 --workers 3 --threads 2 --max_rows 7 --max_body 100 --batch_wait 2 --watch 0 --log_requests"
    assert main(["serve", "model", *options.split()]) == 0
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
