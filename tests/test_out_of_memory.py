"""Out of memory: the error names what the memory was for."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl.cli import prepare as prepare_module
from recmtl.cli.main import main
from recmtl.errors import OutOfMemoryError
from recmtl.features import sharding as sharding_module
from recmtl.io.machine import explain_oom
from recmtl.runs import checkpoint_file as checkpoint
from recmtl.runs.checkpoint_file import read_checkpoint, write_checkpoint
from recmtl.train import Optimization, RunConfig, RunFolder

TOO_MUCH = 1 << 50
ASKING = {
    "torch": lambda: torch.empty(TOO_MUCH),
    "torch-overflow": lambda: torch.empty(TOO_MUCH, TOO_MUCH),
    "numpy": lambda: np.empty(TOO_MUCH),
    "pyarrow": lambda: pa.allocate_buffer(TOO_MUCH),
}


@pytest.mark.parametrize("asking", ASKING)
def test_the_innermost_block_names_what_memory_was_for(asking: str) -> None:
    with pytest.raises(OutOfMemoryError, match=r"^memory does not hold the rows.*: give fewer$"), explain_oom("all"):  # noqa: SIM117
        with explain_oom("the rows", "give fewer"):
            ASKING[asking]()


def test_an_allocation_on_a_gpu() -> None:
    with pytest.raises(OutOfMemoryError, match=r"^memory does not hold it \(2.00 GiB more\)$"), explain_oom("it"):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB"
        )


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), OSError(28, "No space left"), KeyError("a")])
def test_other_errors_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_oom("it"):
        raise error
    assert caught.value is error


class Greedy(nn.Module):
    """A tower that asks for too much while it trains, or while it does not."""

    def __init__(self, features: int, training: bool) -> None:
        super().__init__()
        self.layer, self.when = nn.Linear(features, 1), training

    def forward(self, view: Tensor) -> Tensor:
        return self.layer(view) + (torch.empty(TOO_MUCH).sum() if self.training == self.when else 0)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (True, r"training on batches of 50 rows \(4503599627370496 bytes more\): lower `batch_size`"),
        (False, r"predictions of 50 valid rows, 8,192 at a time"),
    ],
)
def test_a_step_and_an_evaluation(training: bool, said: str, small: recmtl.PreparedData) -> None:
    model = recmtl.SharedBottom(small.schema, layers=[4], towers={"ctr": partial(Greedy, training=training)})
    trainer = recmtl.Trainer(
        model, optimization=Optimization(batch_size=50), run=RunConfig(progress=False, device="cpu")
    )
    with pytest.raises(OutOfMemoryError, match=said):
        trainer.fit(small.train, small.valid)


def test_rows_that_do_not_fit(small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recmtl.SharedBottom(small.schema, layers=[4])
    trainer = recmtl.Trainer(model, run=RunConfig(progress=False, device="cpu"))
    monkeypatch.setattr(recmtl.Rows, "packed", lambda *_, **__: np.empty(TOO_MUCH))
    with pytest.raises(OutOfMemoryError, match=r"memory does not hold the 200 training rows at once.*: give `window`"):
        trainer.fit(small.train)


def test_a_table_that_does_not_fit_is_refused_before_it_is_allocated(
    small: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that overcommits memory would kill the process later."""
    monkeypatch.setattr(sharding_module, "available_memory", lambda: 179)
    with pytest.raises(
        OutOfMemoryError, match="an embedding table of 9 rows × 5, 9 of them for 'user': give the feature"
    ):
        recmtl.SharedBottom(small.schema)


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "c.pt", {"a": 1})
    monkeypatch.setattr(checkpoint.torch, "load", lambda *_, **__: torch.empty(TOO_MUCH))
    with pytest.raises(OutOfMemoryError, match=f"memory does not hold the checkpoint {tmp_path}/c.pt"):
        read_checkpoint(tmp_path / "c.pt")


def test_the_command_reports_it_in_one_line(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare_module, "prepare", lambda *_, **__: np.empty(TOO_MUCH))
    assert main(["prepare", "--card", "aliexpress", "--train", f"{csv}/train.csv", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recmtl: memory does not hold what `recmtl prepare` works on (8.00 PiB more)")
    assert said.count("\n") == 1
    assert not RunFolder(tmp_path / "o").path.exists()
