"""Run a replay: train the run of each day, and measure it on the day after; finished steps are kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser, Namespace

from recmtl.data.preparation.prepare_cached import content_key
from recmtl.data.sources.open import has_rows
from recmtl.errors import DataError, ExistsError, RunError, SchemaError
from recmtl.evaluate import intervals_of, metrics_of
from recmtl.evaluate.metrics import main_metric
from recmtl.io.files import check_local, locked, new_file
from recmtl.io.partitions import Partitions
from recmtl.io.untrusted import from_json, read_text
from recmtl.recipe.continue_run import continued_recipe
from recmtl.recipe.data import data_schema, open_data
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.load import load_run, resumed_recipe
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.presets import card
from recmtl.recipe.recipe import (
    build,
    check_to_train,
    complete_recipe,
    data_options,
    differences,
    instantiate,
    recipe_of_run,
)
from recmtl.recipe.trust import named_modules, schema_to_train
from recmtl.replays.progress import ReplayBar
from recmtl.replays.results import CONTENT, LAYOUT, Replay, read_content
from recmtl.replays.steps import FIRST, MODES, RUNS, Mode, ReplayStep, steps_of
from recmtl.runs.checkpoints import is_intact
from recmtl.runs.folder import LOCK_FILE, RECIPE, RunFolder
from recmtl.schema.text_format import TextFormat, format_options
from recmtl.train import Trainer

CACHE, CARD = "cache", "card.yaml"
OTHER_OUT = "give another `--out`"


def replay(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    modes: Sequence[Mode] = MODES,
    options: Mapping[str, Any] | None = None,
    warm_epochs: int | None = None,
    progress: bool = True,
) -> Replay:
    """Train on the days up to one and measure on the next, for all days of a folder of partitions.

    Finished steps in the folder are kept; one that was interrupted resumes from its last checkpoint. Days that were
    added since are replayed too.

    Args:
        recipe: A file, the name of a shipped recipe, or its content. `data.train` is the folder of partitions, of which
            `data.since` and `data.until` choose days.
        out: The folder of the replay.
        modes: ``warm`` goes on from the run of the day before, ``anew`` trains new weights on all days so far,
            ``frozen`` is the run of the first day. The others are compared with the first one.
        options: Options that override the recipe, by dotted key, such as ``{"data.train": "logs"}``.
        warm_epochs: Epochs of a run that goes on from the day before; ``None`` takes those of the recipe.
        progress: Whether to show progress.

    Raises:
        ValueError: An option is out of range or unknown.
        DataError: The rows cannot be read, or there are fewer than two days.
        RunError: The folder holds something else, or a replay of other rows or another recipe; or another process is
            using it.
    """
    given = json.dumps(recipe) if isinstance(recipe, Mapping) else str(recipe)
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (options or {}).items()}
    arguments = [f"--config={given}", *(f"--{key}={value}" for key, value in plain.items())]
    parser = recipe_parser("recmtl replay")
    with ReplayBar(progress) as bar:
        return run_replay(parser, parse_recipe(parser, arguments), Path(out), modes, warm_epochs, bar)


def run_replay(
    parser: ArgumentParser,
    config: Namespace,
    out: Path,
    modes: Sequence[Mode] = MODES,
    warm_epochs: int | None = None,
    progress: ReplayBar | None = None,
) -> Replay:
    """Replay the days of a recipe that was parsed, and write the tables; arguments as of `replay`."""
    _check_options(config, modes, warm_epochs)
    check_local(out)
    config = config.clone()
    with locked(out / LOCK_FILE) as lock, progress or ReplayBar(False) as bar:
        if lock is None:
            raise RunError(f"another process is using {str(out)!r}: wait for it, or {OTHER_OUT}")
        runner = _Runner.begin(parser, config, out, tuple(modes), warm_epochs, bar)
        steps = [*steps_of(runner.replay.days_with_rows, modes)]
        bar.begin(len(steps))
        try:
            for step in steps:
                if step.record(out).is_file():
                    bar.skip()
                    continue
                bar.start(step)
                bar.finish(step, runner.run(step))
                shutil.rmtree(out / CACHE, ignore_errors=True)  # no other run has these rows
        except (DataError, SchemaError):  # the rows of a day cannot be read: those before it have tables
            if runner.replay.steps:
                runner.replay.write_tables()
            raise
        found = replace(runner.replay)  # which has read nothing yet
        found.write_tables()
    return found


def _check_options(config: Namespace, modes: Sequence[Mode], warm_epochs: int | None) -> None:
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes or len(set(modes)) < len(modes):
        raise ValueError(f"`modes` must be some of {', '.join(MODES)}, each once, got {list(modes)}")
    if warm_epochs is not None and warm_epochs < 1:
        raise ValueError(f"`warm_epochs` must be at least 1, got {warm_epochs}")
    for split in ("valid", "test"):
        for key in (split, f"{split}_since", f"{split}_until"):
            if config.data[key] is not None:
                raise ValueError(f"a replay measures on the day after those it trains on: leave out `data.{key}`")
    if config.data.train is None:
        raise DataError("there are no training rows: give `--data.train`, a folder of partitions")
    if config.trainer.run.folder:
        raise ValueError("a replay has its runs in its own folder: leave out `trainer.run.folder`")


@dataclass(frozen=True)
class _Runner:
    """Runs the steps of a replay.

    Args:
        parser: The parser of the recipe.
        config: The recipe of the run of the first day, but for its days and its folder.
        replay: The replay.
        warm_epochs: Epochs of a run that goes on from the day before; ``None`` takes those of the recipe.
        note: Called with each finding about the rows, and each problem of the training.
    """

    parser: ArgumentParser
    config: Namespace
    replay: Replay
    warm_epochs: int | None
    note: Callable[[str], None]

    @classmethod
    def begin(
        cls,
        parser: ArgumentParser,
        config: Namespace,
        out: Path,
        modes: tuple[Mode, ...],
        warm_epochs: int | None,
        bar: ReplayBar,
    ) -> _Runner:
        """Check the folder, and write down what is replayed in it.

        Raises:
            RunError: The folder holds something else.
        """
        begun = _begun(out)
        options = data_options(config)
        rows = Partitions(options.train or "", options.since, options.until, options.date_key)
        by_day = _files_by_day(rows)
        days, empty = tuple(by_day), _days_without_rows(options, rows, by_day)
        for day in empty:
            bar.note(f"there are no rows on {day}: it is neither trained on nor measured")
        found = Replay(out, days, _all_modes(begun, modes), empty)
        if len(found.days_with_rows) < 2:
            alone = f"{found.days_with_rows[0]} alone" if found.days_with_rows else "none"
            raise DataError(f"a replay needs at least two days with rows, and {rows.name!r} has {alone}")
        recipe = complete_recipe(parser, config) | {"warm_epochs": warm_epochs}
        recipe["data"] |= {"since": days[0], "until": None}  # days may be added
        if begun is not None:
            _check_same(out, begun, recipe, by_day)
        content = {"layout": LAYOUT, "days": days, "empty": empty, "modes": found.modes, "recipe": recipe}
        content["rows"] = by_day
        with new_file(out / CONTENT) as file:
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if options.inferred:
            first = found.days_with_rows[0]
            _use_card(config, options, replace(rows, since=first, until=first), out / CARD, bar.note)
        config.data.cache, config.trainer.run.progress = out / CACHE, False
        return cls(parser, config, found, warm_epochs, bar.note)

    def run(self, step: ReplayStep) -> dict[str, Any]:
        """Train the run of a step unless it is finished, measure it, and return what was measured."""
        out = self.replay.folder
        folder = RunFolder(out / RUNS / step.run)
        trainer = load_run(folder.path, self._trust()) if folder.finished else self._train(step, folder)
        rows = Partitions(self.config.data.train, step.day, step.day, self.config.data.date_key)
        data = trainer.encode(rows, bad_rows=self.config.data.bad_rows, note=self.note)
        predictions = trainer.predictor.predict(data)
        step.predictions(out).parent.mkdir(parents=True, exist_ok=True)
        predictions.write(step.predictions(out))
        tasks = {}
        for name, scores in predictions.scores().items():
            values, metric = metrics_of(scores), main_metric(scores.task)
            interval = intervals_of(scores, [metric]).get(metric)
            tasks[name] = {
                "metric": metric,
                "value": values.values.get(metric),
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "logloss": values.values.get("logloss"),
                "rows": values.rows,
                "positives": values.positives,
            }
        result, sizes = folder.result(), {b.name: b.size for b in trainer.model.schema.id_blocks}
        run = {
            "run": step.run,
            "since": step.days[0],
            "until": step.days[1],
            **from_json(read_text(self._preparing(step))),
            "seconds": result["seconds"],
            "table_rows": sum(sizes.values()),
        }
        record = {"tasks": tasks, "run": run, "vocabularies": sizes}
        with new_file(step.record(out)) as file:
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record

    def _train(self, step: ReplayStep, folder: RunFolder) -> Trainer:
        """Train a run, from its last good checkpoint if it has one."""
        resume = (folder.path / RECIPE).is_file() and any(map(is_intact, folder.steps().values()))
        if not resume:
            shutil.rmtree(folder.path, ignore_errors=True)
        config = self._recipe(step, folder, resume)
        with folder.held():
            folder.has_recipe = resume
            started = time.perf_counter()
            objects = instantiate(self.parser, config)
            data = open_data(objects.data, check=partial(check_to_train, config, self._trust()))
            with new_file(self._preparing(step)) as file:
                file.write_text(
                    json.dumps({"train_rows": len(data.train), "prepare_seconds": time.perf_counter() - started})
                )
            for sentence in data.notes if step.run == FIRST else ():
                self.note(sentence)
            trainer = build(self.parser, config, schema_to_train(data.schema, self._trust()), objects)
            trainer.setup = replace(trainer.setup, folder=folder)
            with nullcontext() if resume else recipe_of_run(self.parser, config, folder):
                trainer.fit(data.train, data.splits.get("valid"), resume, self.note)
            trainer.finish({name: rows for name, rows in data.splits.items() if name != "train"})
        return trainer

    def _preparing(self, step: ReplayStep) -> Path:
        """Return the file of how many rows a run was trained on, and how long it took to prepare them."""
        return self.replay.folder / RUNS / f"{step.run}.json"

    def _recipe(self, step: ReplayStep, folder: RunFolder, resume: bool) -> Namespace:
        """Return the recipe of the run of a step."""
        since, until = step.days
        if resume:
            config = resumed_recipe(self.parser, [], folder.path, self._trust())
        elif step.before is None:
            config = self.config.clone()
        else:
            days = [f"--data.train={self.config.data.train}", f"--data.since={since}", f"--data.until={until}"]
            key, epochs = self.config.data.date_key, self.warm_epochs
            days += [] if key is None else [f"--data.date_key={key}"]
            days += [] if epochs is None else [f"--trainer.epochs={epochs}"]
            before = self.replay.folder / RUNS / step.before
            config = continued_recipe(self.parser, days, before, self._trust())
        config.data.since, config.data.until = since, until
        config.data.cache = self.config.data.cache
        config.trainer.run.folder, config.trainer.run.progress = str(folder.path), False
        return config

    def _trust(self) -> tuple[str, ...]:
        """Return the modules whose classes the recipe names, which is the user's."""
        return tuple(named_modules(complete_recipe(self.parser, self.config)))


def _files_by_day(rows: Partitions) -> dict[str, list[str]]:
    """Return the content of the files of each day, in order."""
    return {day: [content_key(file) for file in files] for day, files in rows.by_day().items()}


def _days_without_rows(options: DataOptions, rows: Partitions, days: Iterable[str]) -> tuple[str, ...]:
    """Return the days whose files have no rows."""
    text = TextFormat(**format_options(options.inferred)) if options.card is None else card(options.card).text_format
    return tuple(day for day in days if not has_rows(replace(rows, since=day, until=day), text))


def _use_card(
    config: Namespace, options: DataOptions, first: Partitions, card: Path, note: Callable[[str], None]
) -> None:
    """Infer the columns by the first day, but those of the folders, and let all runs read them so."""
    if not card.is_file():
        said = replace(options, drop=[*options.drop, *(key for key in first.date_keys() if key not in options.kinds)])
        schema, notes = data_schema(said, first)
        for sentence in notes:
            note(sentence)
        with new_file(card) as file:
            schema.save(file)
    default = DataOptions()
    for name in options.inferred:
        config.data[name] = getattr(default, name)
    config.data.card = str(card)


def _begun(out: Path) -> dict[str, Any] | None:
    """Return the record of the replay that was begun in a folder; ``None`` if it is empty."""
    if (out / CONTENT).exists():
        return read_content(out)
    killed = {path.name for path in out.glob(f".{CONTENT}.*.partial")}  # left by a start that was killed
    if {path.name for path in out.iterdir()} - {LOCK_FILE} - killed:
        raise ExistsError(f"{str(out)!r} is not empty and no replay: {OTHER_OUT}")
    return None


def _check_same(
    out: Path, begun: Mapping[str, Any], recipe: Mapping[str, Any], by_day: Mapping[str, list[str]]
) -> None:
    """Check that the replay that was begun has the same recipe and days, to which others may have been added."""
    for key, before, now in differences(begun["recipe"], recipe):
        raise RunError(f"{str(out)!r} was begun with `{key}` {before!r}, got {now!r}: {OTHER_OUT}")
    for day, files in begun["rows"].items():
        if day not in by_day:
            raise RunError(f"{str(out)!r} was begun with {day}, which is no longer among the days: {OTHER_OUT}")
        if by_day[day] != files:
            raise RunError(f"the rows of {day} have changed since {str(out)!r} was begun: {OTHER_OUT}")
    last = max(begun["rows"])
    added = [day for day in by_day if day not in begun["rows"] and day < last]
    if added:
        raise RunError(f"{added[0]} was added between the days of {str(out)!r}: {OTHER_OUT}")


def _all_modes(begun: Mapping[str, Any] | None, modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
    """Return the modes of a replay: those given now, then those it had before."""
    before = cast(Sequence[Mode], begun["modes"]) if begun else ()
    return tuple(dict.fromkeys((*modes, *before)))
