"""Runs as processes: failed, killed, kept, and never two at once in one folder."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import recmtl
from recmtl.comparison import jobs as module
from recmtl.comparison.comparison import CONTENT
from recmtl.comparison.runner import check_folder, compare
from recmtl.runs.checkpoint_file import write_checkpoint
from recmtl.train import RunError

# Replaces `recmtl train`: behaves as the seed in its recipe says, and records that it ran.
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run") + 1])
if "--config" in sys.argv:
    (run / "recipe.yaml").write_text(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
recipe = (run / "recipe.yaml").read_text()
with open(run.parent / "ran.txt", "a") as file:
    file.write(run.name + ("-goes-on" if "--resume" in sys.argv else "") + "\\n")
if "seed: 666" in recipe and not (run.parent / "mended").exists():
    print("a line before", file=sys.stderr)
    sys.exit("recmtl: the rows are cursed")
if "seed: 9\\n" in recipe and not (run.parent / "mended").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if "seed: 77" in recipe:
    (run / ".half.partial").mkdir()
    (run / ".half.partial" / ".file.partial").touch()

    def asked(*signal):
        (run / "asked").touch()
        while {path.parent.name for path in run.parent.glob("*/started")} - {
            path.parent.name for path in run.parent.glob("*/asked")
        }:
            time.sleep(0.01)
        sys.exit(1)

    signal.signal(signal.SIGTERM, asked)
    (run / "starting").write_text(str(os.getpid()))
    (run / "starting").rename(run / "started")
    time.sleep(60)
(run / "metrics.json").write_text(json.dumps({"best": {"monitor": "auc", "value": 0.5}, "test": {}}))
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    monkeypatch.setattr(module, "TRAIN", (sys.executable, str(script)))
    return tmp_path / "out"


@pytest.fixture
def data(csv: Path) -> dict[str, str]:
    return {"data.card": "aliexpress", "data.train": f"{csv}/train.csv", "data.test": f"{csv}/test.csv"}


@pytest.fixture
def go(data: dict[str, str], out: Path) -> Callable[..., recmtl.Comparison]:
    def start(seeds: object = (1,), jobs: int = 1, **options: object) -> recmtl.Comparison:
        given = data | {key.replace("__", "."): value for key, value in options.items()}
        return compare({}, out, ["MMOE"], seeds=list(seeds), options=given, jobs=jobs)

    return start


def ran(out: Path) -> list[str]:
    return (out / "cells" / "ran.txt").read_text().split()


def test_finished_runs_are_kept_and_unfinished_ones_start_over(go: Callable[..., recmtl.Comparison], out: Path) -> None:
    go([1, 2], jobs=2)
    assert sorted(ran(out)) == ["MMOE-Sum-1", "MMOE-Sum-2"]
    killed = out / "cells" / "MMOE-Sum-2"
    (killed / "metrics.json").unlink()
    (killed / "half").touch()
    go([1, 2, 3])
    assert ran(out)[2:] == ["MMOE-Sum-2", "MMOE-Sum-3"]
    assert not (killed / "half").exists()
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    assert recipe["trainer"]["run"]["seed"] == 2


def begun(out: Path) -> Path:
    """Make the first run unfinished with two checkpoints, and return the folder of the older one."""
    (out / "cells/MMOE-Sum-1/metrics.json").unlink()
    for step in (1, 2):
        state = {"watch": {"best": None}, "done": step, "log": 0, "window": 1}
        write_checkpoint(out / f"cells/MMOE-Sum-1/checkpoints/step-{step:010}/checkpoint.pt", state)
    return out / "cells/MMOE-Sum-1/checkpoints/step-0000000001"


def test_a_run_with_a_checkpoint_resumes(go: Callable[..., recmtl.Comparison], out: Path) -> None:
    go()
    os.truncate(begun(out).with_name("step-0000000002") / "checkpoint.pt", 9)
    (out / "cells/MMOE-Sum-1/error.txt").write_text("the disk was full")
    assert list(go().runs["state"]) == ["finished"]
    assert ran(out) == ["MMOE-Sum-1", "MMOE-Sum-1-goes-on"]
    assert not (out / "cells/MMOE-Sum-1/error.txt").exists()


def test_without_a_good_checkpoint_a_run_starts_over_with_a_note(
    go: Callable[..., recmtl.Comparison], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go()
    older = begun(out)
    for folder in (older, older.with_name("step-0000000002")):
        os.truncate(folder / "checkpoint.pt", 9)
    go()
    assert ran(out) == ["MMOE-Sum-1", "MMOE-Sum-1"]
    said = f"note: all checkpoints of '{out}/cells/MMOE-Sum-1' are damaged: the run starts over"
    assert said in capsys.readouterr().err.splitlines()
    assert not older.exists()


def test_unfinished_runs_of_another_recipe_or_other_rows_start_over(
    go: Callable[..., recmtl.Comparison], out: Path, csv: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    shutil.copy(csv / "test.csv", rows)
    go(data__test=str(rows))
    begun(out)
    go(data__test=str(rows), trainer__epochs=2)
    begun(out)
    rows.write_text("\n".join(rows.read_text().splitlines()[:-1]))
    go(data__test=str(rows), trainer__epochs=2)
    assert ran(out) == ["MMOE-Sum-1"] * 3


def test_a_failed_run_does_not_stop_the_others(
    go: Callable[..., recmtl.Comparison], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = go([666, 9, 1])
    assert list(comparison.runs["state"]) == ["failed", "failed", "finished"]
    errors = ["the rows are cursed", "killed by SIGKILL (out of memory?)"]
    assert list(comparison.runs["error"])[:2] == errors
    assert (out / "cells" / "MMOE-Sum-666" / "error.txt").read_text() == "the rows are cursed\n"
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("1 of 3 · MMOE with Sum, seed 666 · failed: the rows are cursed")
    assert said[2].startswith("3 of 3 · MMOE with Sum, seed 1 · auc 0.5000 on the validation rows")
    notes = (out / "table.md").read_text()
    assert "Failed: MMOE with Sum, seed 666: the rows are cursed" in notes
    assert "| MMOE | Sum | 1 of 3 |" in notes
    (out / "cells" / "mended").touch()
    assert list(go([666, 9, 1]).runs["state"]) == ["finished"] * 3
    assert ran(out)[3:] == ["MMOE-Sum-666", "MMOE-Sum-9"]


def test_tables_are_written_if_all_runs_fail(go: Callable[..., recmtl.Comparison], out: Path) -> None:
    go([666])
    assert "seed 666: the rows are cursed" in (out / "table.md").read_text()
    assert (out / "table.csv").read_text().startswith("model,balancer,learning_rate,task")


def test_a_finished_run_of_another_recipe_is_an_error(go: Callable[..., recmtl.Comparison], out: Path) -> None:
    go(trainer__epochs=2)
    said = r"MMOE-Sum-1' was run with `trainer.epochs` 2, which is 3 now: give another `--out`"
    with pytest.raises(RunError, match=said):
        go([0, 1], trainer__epochs=3)
    assert ran(out) == ["MMOE-Sum-1"]
    go(trainer__epochs=2, trainer__run__progress=False)  # progress makes no difference
    assert ran(out) == ["MMOE-Sum-1"]


def test_changed_rows_in_the_same_files_are_an_error(
    go: Callable[..., recmtl.Comparison], out: Path, csv: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    header, *lines = (csv / "test.csv").read_text().splitlines()
    rows.write_text("\n".join([header, *lines]))
    go(data__test=str(rows))
    rows.write_text("\n".join([header, *lines[1:]]))
    with pytest.raises(RunError, match="were trained on other data"):
        go(data__test=str(rows))


@pytest.mark.parametrize(("split", "column"), [("test", "numerical_1"), ("train", "click"), ("test", "search_id")])
def test_permuted_values_are_other_data(
    go: Callable[..., recmtl.Comparison], out: Path, csv: Path, tmp_path: Path, split: str, column: str
) -> None:
    frame, rows = pd.read_csv(csv / f"{split}.csv", dtype=str), tmp_path / "rows.csv"
    frame.to_csv(rows, index=False)
    options = {f"data__{split}": str(rows), "data__valid": f"{csv}/test.csv"}
    go(**options)
    go(**options)
    frame.assign(**{column: frame[column].to_numpy()[::-1]}).to_csv(rows, index=False)
    with pytest.raises(RunError, match="were trained on other data"):
        go(**options)
    assert ran(out) == ["MMOE-Sum-1"]


def test_an_interrupt_stops_running_jobs_and_keeps_finished_runs(
    go: Callable[..., recmtl.Comparison], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are asked at once, and what they leave half written is removed."""
    ended, started = module.Job.ended, [out / "cells" / f"MMOE-Sum-{seed}" / "started" for seed in (77, 770)]

    def interrupted(job: module.Job) -> bool:
        if all(path.exists() for path in started):
            raise KeyboardInterrupt
        return ended(job)

    monkeypatch.setattr(module.Job, "ended", interrupted)
    monkeypatch.setattr(module, "STOP_SECONDS", 30.0)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        go([1, 77, 770], jobs=2)
    assert time.monotonic() - begun < module.STOP_SECONDS
    for path in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert list(recmtl.Comparison.open(out).runs["state"]) == ["finished", "unfinished", "unfinished"]
    assert not [*out.rglob("*.partial")]
    assert not (out / ".lock").exists()


def test_an_interrupt_while_a_job_starts_leaves_no_process(
    go: Callable[..., recmtl.Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = subprocess.Popen, list[int]()

    def interrupted(*command: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = start(*command, **options)
        started.append(process.pid)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(module.subprocess, "Popen", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            go([77])
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_the_orphan_of_a_killed_comparison_still_holds_the_lock(
    go: Callable[..., recmtl.Comparison], data: dict[str, str], warm_python: Path, out: Path
) -> None:
    script = f"""
from recmtl.comparison import compare, jobs
jobs.TRAIN = {module.TRAIN!r}
compare({{}}, {str(out)!r}, ["MMOE"], seeds=[77], options={data!r})
"""
    comparison = subprocess.Popen([warm_python, "-c", script], stderr=subprocess.DEVNULL)
    started = out / "cells" / "MMOE-Sum-77" / "started"
    while not started.exists():
        assert comparison.poll() is None
        time.sleep(0.01)
    with pytest.raises(RunError, match="another process is using"):
        go([1])
    comparison.kill()
    comparison.wait()
    with pytest.raises(RunError, match="another process is using"):
        go([1])
    os.kill(int(started.read_text()), signal.SIGKILL)
    for _ in range(100):
        with contextlib.suppress(RunError):
            assert list(go([1]).runs["state"]) == ["finished"]
            return
        time.sleep(0.05)
    pytest.fail("the lock outlives the run")


def test_a_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / f".{CONTENT}.123.partial").touch()
    check_folder(tmp_path)  # a start that was killed while it wrote its first file left no more than that
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not empty and not a comparison"):
        check_folder(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        check_folder(tmp_path / "thesis.tex")


def test_a_damaged_recipe_is_an_error(go: Callable[..., recmtl.Comparison], out: Path) -> None:
    go()
    (out / "cells" / "MMOE-Sum-1" / "recipe.yaml").write_text("{")
    with pytest.raises(RunError, match=r"recipe.yaml cannot be read"):
        go()
    content = json.loads((out / "comparison.json").read_text())
    assert content["cells"] == [{"row": ["MMOE", "Sum", None], "seed": 1, "folder": "cells/MMOE-Sum-1"}]
