"""Checkpoint files: what they hold, their checksum, and states that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recmtl.runs.checkpoint_file import append_checksum, check_state_like, read_checkpoint, write_checkpoint
from recmtl.train import RunError

STATE = {"moment": torch.zeros(2, 3), "betas": (0.9, 0.99), "steps": [1, 2], "rate": 0.1}


def test_a_checkpoint_holds_what_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", STATE)
    found = read_checkpoint(tmp_path / "c.pt")
    torch.testing.assert_close(found, STATE, rtol=0, atol=0)


def test_any_changed_byte_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunError, match=f"the checkpoint {path} is damaged: its content does not match"):
            read_checkpoint(path)


def test_another_file_with_a_checksum_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save([torch.zeros(1)], path)
    append_checksum(path)
    with pytest.raises(RunError, match=f"the checkpoint {path} is damaged: it holds a list"):
        read_checkpoint(path)
    path.write_bytes(bytes(200))
    append_checksum(path)
    with pytest.raises(RunError, match=f"the checkpoint {path} is damaged: ") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moment": torch.zeros(3, 2)}, r"'moment' of it is a tensor of torch.float32 \[3, 2\], expected a tensor of"),
        ({"moment": torch.zeros(2, 3).double()}, "'moment' of it is a tensor of torch.float64"),
        ({"moment": "x"}, r"'moment' of it is str 'x', expected a tensor of torch.float32 \[2, 3\]"),
        ({"betas": (0.9,)}, "'betas' of it is a tuple of 1, expected a tuple of 2"),
        ({"betas": [0.9, 0.99]}, "'betas' of it is a list of 2, expected a tuple of 2"),
        ({"steps": [1, "x"]}, "1 of 'steps' of it is str 'x', expected int 2"),
        ({"velocity": 1.0}, "it is a dict of moment, betas, steps, rate, velocity, expected a dict of moment, betas"),
    ],
)
def test_a_state_of_another_structure(changes: dict[str, Any], message: str) -> None:
    check_state_like(STATE | {"rate": 0.5}, STATE, "it")
    with pytest.raises(ValueError, match=f"^{message}"):
        check_state_like(STATE | changes, STATE, "it")
