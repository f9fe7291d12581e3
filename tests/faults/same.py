"""Equality of runs, datasets and comparisons, apart from times."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recmtl.runs.checkpoint_file import read_checkpoint
from recmtl.train import RunFolder

TIMES = ("seconds", "train_rows_per_second", "rows_per_second", "peak_memory_bytes", "created")


def timeless(content: object) -> object:
    """Return content without times and rates."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return list(map(timeless, content)) if isinstance(content, list) else content


def files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by name, without event files and the locks of killed processes."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in sorted(found.items()) if "tfevents" not in name and path.name != ".lock"}


def assert_same_dataset(found: Path, whole: Path) -> None:
    """Compare datasets byte by byte."""
    mine, theirs = files(found), files(whole)
    assert list(mine) == list(theirs)
    for name, path in mine.items():
        if name == "origin.json":
            assert timeless(json.loads(path.read_text())) == timeless(json.loads(theirs[name].read_text()))
        else:
            assert path.read_bytes() == theirs[name].read_bytes(), name


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of event files, without rates."""
    events = EventAccumulator(str(run)).Reload()
    tags = (tag for tag in events.Tags()["scalars"] if not tag.endswith(TIMES))
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def tensors(state: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in a checkpoint by their place in it."""
    if isinstance(state, torch.Tensor):
        yield name, state
    inside = enumerate(state) if isinstance(state, list) else state.items() if isinstance(state, dict) else ()
    for key, value in inside:
        yield from tensors(value, f"{name}.{key}")


def assert_same_run(found: Path, whole: Path) -> None:
    """Compare weights, metrics, log, predictions and all other files of runs."""
    mine, theirs = files(found), files(whole)
    assert list(mine) == list(theirs)
    assert scalars(found) == scalars(whole)
    for name, path in mine.items():
        if name.endswith(".pt"):
            states = [dict(tensors(read_checkpoint(p))) for p in (path, theirs[name])]
            assert states[0].keys() == states[1].keys()
            assert [n for n in states[0] if not torch.equal(states[0][n], states[1][n])] == []
        elif name.endswith(".parquet"):
            frames = map(pd.read_parquet, (path, theirs[name]))
            pd.testing.assert_frame_equal(*frames, check_exact=True)
        elif name == "metrics.json":
            assert timeless(json.loads(path.read_text())) == timeless(json.loads(theirs[name].read_text()))
        elif name == "metrics.jsonl":
            assert timeless(RunFolder(found).records()) == timeless(RunFolder(whole).records())
        elif name == "recipe.yaml":
            recipes = [yaml.safe_load(p.read_text()) for p in (path, theirs[name])]
            assert [r["trainer"]["run"].pop("folder") for r in recipes]
            assert recipes[0] == recipes[1]
        elif name == "checksums.json":
            sums = [json.loads(p.read_text()) for p in (path, theirs[name])]
            assert sums[0].keys() == sums[1].keys()
        elif path.name not in ("output.txt", ".metadata"):  # of a run of a comparison; that of tables names its folder
            assert path.read_bytes() == theirs[name].read_bytes(), name


def assert_same_comparison(found: Path, whole: Path) -> None:
    """Compare all runs of comparisons, and their tables except for time and memory."""
    cells = [sorted(path.name for path in (folder / "cells").iterdir()) for folder in (found, whole)]
    assert cells[0] == cells[1]
    for name in cells[0]:
        assert_same_run(found / "cells" / name, whole / "cells" / name)
    tables = [pd.read_csv(folder / "table.csv").drop(columns=list(TIMES), errors="ignore") for folder in (found, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
