"""Run a reproduction: prepare the raw files, train the published setting over seeds, compare the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recmtl.comparison.comparison import Comparison
from recmtl.comparison.grid import Grid
from recmtl.comparison.progress import GridBar, GridProgress
from recmtl.comparison.runner import run_grid
from recmtl.data import PreparedData, prepare
from recmtl.data.raw import find_reader, open_raw
from recmtl.data.store.format import MANIFEST
from recmtl.errors import DataError, RunError
from recmtl.io.files import check_local
from recmtl.recipe.options import recipe_parser
from recmtl.recipe.presets import card
from recmtl.reproduction.published import Preset, find_preset
from recmtl.reproduction.result import Reproduction
from recmtl.reproduction.verdict import find_task

DATA_FOLDER = "data"  # of the prepared rows, in the folder of a dataset
FEWEST = 2  # runs, for a spread over seeds


def reproduce(
    name: str,
    model: str,
    data: str | Path | None,
    out: str | Path,
    seeds: int | Sequence[int] = 5,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Reproduction:
    """Train a published setting over seeds, and compare the test metrics with the published figures.

    The raw files are prepared once, into the folder, which can be that of other models and datasets, too; the runs are
    those of a comparison, so that finished ones are kept and interrupted ones resume. Epochs are chosen on validation
    rows alone; the test rows are measured once per run.

    Args:
        name: The dataset, such as ``aliexpress-nl``.
        model: The model, such as ``mmoe``.
        data: The folder or zip with the raw files.
        out: The folder to write: in the folder of the dataset prepared rows, a comparison for each model, and a result
            for each source.
        seeds: The number of seeds, counted from 0, or a list of seeds.
        source: The name of the source of the figures; ``None`` takes the first that has them.
        options: Options that override the setting, by dotted key, such as ``{"trainer.epochs": 1}``. What is trained is
            then no longer the published setting, and the verdict says so.
        jobs: How many runs at once.
        progress: Whether to show progress.

    Raises:
        DataError: There is no such figure, or the raw files are missing or cannot be read.
        ValueError: An option is out of range or unknown.
        RunError: The folder holds something else, or no run has finished.
    """
    preset = find_preset(name, model, source)
    folder = Path(out) / preset.name
    check_local(folder)
    with GridBar(progress) as bar:
        rows = prepared(preset, data, folder / DATA_FOLDER, bar)
        for doubt in doubts_of_setting(preset, rows, options or {}):
            bar.warn(f"the verdict will be that nothing can be said: {doubt}")
        comparison = train(preset, folder, seeds, options or {}, jobs, bar)
    found = result(preset, comparison, rows, options or {})
    found.save(result_file(preset, out))
    return found


def result_file(preset: Preset, out: str | Path) -> Path:
    """Return the file of a result in the folder of all."""
    return Path(out) / preset.name / f"{preset.model}-{preset.source_name}.json"


def prepared(preset: Preset, data: str | Path | None, out: Path, progress: GridProgress) -> PreparedData:
    """Return the rows of a preset, prepared from the raw files into a folder unless they are there.

    Raises:
        DataError: The raw files are missing or cannot be read.
    """
    if (out / MANIFEST).is_file():
        if data is not None:
            progress.warn(f"the rows that were prepared in {str(out)!r} are used")
        return PreparedData.open(out)
    dataset = preset.dataset
    if data is None:
        raise DataError(f"give `--data`, the files of {preset.name}: {find_reader(dataset.layout).advice}")
    with open_raw(dataset.layout, data, dataset.part) as rows:
        out.parent.mkdir(parents=True, exist_ok=True)
        splits = rows["train"], rows.get("valid"), rows["test"]
        found = prepare(card(dataset.card), *splits, out=out, progress=progress.count_rows)
    for note in found.notes:
        progress.warn(note)
    return found


def train(
    preset: Preset,
    folder: Path,
    seeds: int | Sequence[int],
    options: Mapping[str, Any],
    jobs: int,
    progress: GridProgress,
) -> Comparison:
    """Train the setting of a preset with each seed."""
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
    recipe = preset.recipe | {"data": {"train": str(folder / DATA_FOLDER)}}
    arguments = [f"--config={json.dumps(recipe)}", *(f"--{key}={value}" for key, value in plain.items())]
    grid = Grid([preset.entry["class_path"]], seeds=seeds)
    return run_grid(recipe_parser("recmtl reproduce"), arguments, grid, folder / preset.model, progress, jobs=jobs)


def result(preset: Preset, comparison: Comparison, data: PreparedData, options: Mapping[str, Any]) -> Reproduction:
    """Compare the runs with the published figures.

    Raises:
        RunError: No run has finished.
    """
    metrics, runs = comparison.metrics, comparison.runs
    if metrics.empty:
        raise RunError(f"no run of {str(comparison.folder)!r} has finished: {runs['error'].iloc[0]}")
    figures = preset.figures
    values = {task: metrics.loc[metrics["task"] == task, "auc"].dropna().tolist() for task in figures}
    tasks = {
        task: find_task(published, values[task], preset.source.runs, len(figures))
        for task, published in figures.items()
    }
    finished = runs[runs["state"] == "finished"]
    doubts = list(doubts_of(preset, comparison, data, options))
    return Reproduction.of(preset, tasks, doubts, data, finished["seed"].astype(int).tolist())


def doubts_of(preset: Preset, comparison: Comparison, data: PreparedData, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield why nothing can be said, whatever the figures are."""
    yield from doubts_of_setting(preset, data, options)
    runs = comparison.runs
    for run in runs[runs["state"] == "failed"].itertuples():
        yield f"the run of seed {run.seed} failed: {run.error}"
    finished = int((runs["state"] == "finished").sum())
    if finished < FEWEST:
        yield f"finished runs: {finished}, where a spread over seeds needs at least {FEWEST}"


def doubts_of_setting(preset: Preset, data: PreparedData, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield why nothing can be said, whatever the runs will be."""
    rows, least = len(data.test), preset.dataset.least_test_rows
    if rows < least:
        yield f"{rows:,} test rows are not those of the figure, which has more than {least:,}"
    if options:
        yield f"the setting was changed by {', '.join(f'{key}={value}' for key, value in options.items())}"
