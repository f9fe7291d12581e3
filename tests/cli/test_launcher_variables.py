"""The variables of torchrun, as schedulers and containers leave them: empty, set in part, or wrong."""

from typing import Any

import pytest
import torch.distributed as dist

from recmtl.cli.main import main
from recmtl.errors import UsageError
from recmtl.io import joining
from recmtl.io.processes import launched, launched_rank

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def set_variables(patch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    """Set variables of torchrun; the others are unset."""
    for name in VARIABLES:
        patch.delenv(name, raising=False)
    for name, value in given.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("rank", [None, "", " ", "0"])
@pytest.mark.parametrize("size", [None, "", " ", "1"])
def test_one_process(rank: str | None, size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in (("RANK", rank), ("WORLD_SIZE", size)) if value is not None}
    set_variables(monkeypatch, given)
    assert (launched(), launched_rank()) == (1, 0)


def test_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, {"RANK": "2", "WORLD_SIZE": "3"})
    assert (launched(), launched_rank()) == (3, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK is 1, expected a number below WORLD_SIZE, which is 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, expected a number below WORLD_SIZE, which is 2"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x', expected a number of at least 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0', expected a number of at least 1"),
        ({"RANK": "0", "WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', expected a number of at least 1"),
    ],
)
def test_variables_that_do_not_fit(given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, given)
    with pytest.raises(UsageError) as refused:
        launched()
    assert (
        str(refused.value) == f"{said}: start several processes with torchrun; to start one, unset RANK and WORLD_SIZE"
    )


@pytest.mark.parametrize(
    "given", [{"MASTER_ADDR": ""}, {"MASTER_PORT": ""}, {"MASTER_PORT": "x"}, {"MASTER_PORT": "0"}]
)
def test_a_place_to_meet_is_needed(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_variables(monkeypatch, MEETING | given)
    assert main(["train", "--data.train", "x.csv", "--data.labels", "[click]"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a host and a port: start several processes with torchrun" in line


def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def time_out(*_: Any, **__: Any) -> None:
        raise dist.DistStoreError("Timed out after 4 seconds waiting for clients.\nwith a stack")

    set_variables(monkeypatch, MEETING)
    monkeypatch.setattr(joining, "rendezvous", time_out)
    assert main(["train", "--data.train", "x.csv", "--data.labels", "[click]"]) == 2
    said = "recmtl: the 2 processes did not meet at localhost:29500: Timed out after 4 seconds waiting for clients.\n"
    assert capsys.readouterr().err == said
