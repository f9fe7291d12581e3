"""The `evaluate` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

from recmtl.cli.console import RowCounter, print_domains, print_line, print_metrics, print_note, silence_others
from recmtl.cli.parser import usage_errors
from recmtl.data import PreparedData, Rows
from recmtl.data.sources.open import digests, open_sources
from recmtl.data.store.format import MANIFEST
from recmtl.errors import UsageError
from recmtl.evaluate import (
    Predictions,
    auc_interval,
    check_own,
    domain_metrics,
    domain_scores,
    intervals_of,
    metrics_of,
    own_metrics,
)
from recmtl.evaluate.intervals import DRAWS
from recmtl.evaluate.own_metrics import ALL
from recmtl.evaluate.ranking import K
from recmtl.io.joining import MINUTES
from recmtl.io.location import public_name
from recmtl.io.partitions import Partitions
from recmtl.io.processes import joined_on_error, launched
from recmtl.recipe import presets
from recmtl.recipe.load import load_run
from recmtl.recipe.row_options import ALL_ROWS, RowOptions
from recmtl.recipe.short_options import NO_OPTIONS
from recmtl.schema import SplitName, Thinning
from recmtl.train import Trainer
from recmtl.train.distributed import process_group


def evaluate_command(
    run: Path | None = None,
    rows: str | None = None,
    predictions: str | None = None,
    card: str | None = None,
    group: str | None = None,
    k: int = K,
    draws: int = DRAWS,
    json: bool = False,
    metrics: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    timeout: float = MINUTES,
    reading: RowOptions = ALL_ROWS,
    text: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Measure the best weights of a run on labelled rows, or the predictions of any model.

    Several processes of torchrun predict the rows in shares, and the first measures them; tables that were spread over
    processes are spread over these.

    Args:
        run: The run folder, unless `--predictions` are given.
        rows: Raw files, or a prepared dataset, whose test rows are taken.
        predictions: Instead of a run and rows, files in any form that `--rows` takes, with a column named like each
            task, the labels (`COLUMN` or `label_COLUMN`) and, if the card names them, group and row weight.
        card: The dataset card (YAML) of `--predictions`, or the name of a shipped one.
        group: The column to group rows by instead of the card's group: a key, or any column of `--predictions`.
        k: The number of rows at the top of a group for NDCG and recall.
        draws: The number of bootstrap draws for all intervals but those of the AUC. Each takes about as long as the
            metrics; 0 leaves these intervals out.
        json: Print JSON instead of a table.
        metrics: A metric of your own beside those of the run: the import path of a function, `my_module.hit_rate`, for
            one task `ctr=my_module.hit_rate`; may be repeated.
        trust: A further module whose classes the run's recipe may name; may be repeated.
        timeout: Minutes that processes started by torchrun wait for each other.
        reading: Which rows are read, and how they were thinned.
        text: How text in these files is read, where it differs from the training rows of the run or from the card.
    """
    with joined_on_error():
        if k < 1:
            raise UsageError(f"`--k` must be at least 1, got {k}")
        if draws < 0 or draws == 1:
            raise UsageError(f"`--draws` must be 0 or at least 2, got {draws}")
        chosen = reading.place(rows or predictions or "")

    def show(measured: Predictions, title: str) -> None:
        measured = measured if group is None else measured.grouped_by(group)
        print_evaluation(with_own_metrics(measured, metrics or ()), k, draws, json, title)

    if predictions is not None and card is not None and run is None and rows is None:
        if launched() > 1:
            with joined_on_error():
                raise UsageError("`recmtl evaluate --predictions` is one process: start it without torchrun")
        schema = replace(presets.card(card), **text)
        measured, title = Predictions.read(schema, chosen, group), public_name(predictions)
        measured = measured.with_thinning(reading.thinning) if reading.thinning else measured
        measured.check(title)
        for note in measured.notes:
            print_note(note)
        show(measured, title)
    elif run is not None and rows is not None and predictions is None and card is None:
        with process_group(timeout) as processes, silence_others(processes):
            found = predict_labelled(run, chosen, trust, reading, text)
            if found is not None:  # in the first of several processes
                show(found, f"{run} on {public_name(rows)}")
    else:
        with joined_on_error():
            raise UsageError("give either a run and `--rows`, or `--predictions` and `--card`")


def with_own_metrics(predictions: Predictions, given: Sequence[str]) -> Predictions:
    """Return predictions that are also measured by metrics named as `PATH` or `TASK=PATH`."""
    named: dict[str, list[str]] = {}
    for text in given:
        task, _, path = text.rpartition("=")
        named.setdefault(task or ALL, []).append(path)
    own = dict(predictions.own)
    with usage_errors():
        for key, found in own_metrics(named).items():
            own[key] = [*own.get(key, ()), *found]
        check_own(own, predictions.schema.reported_tasks)
    return replace(predictions, own=own)


def predict_labelled(
    run: Path,
    rows: str | Partitions,
    trust: Sequence[str],
    reading: RowOptions,
    text: Mapping[str, Any],
) -> Predictions | None:
    """Predict labelled rows with a run; of several processes the first gets the predictions of all."""
    trainer = load_run(run, trust)
    return trainer.predictor.shares(encoded_rows(trainer, rows, reading, text)).gathered()


def encoded_rows(
    trainer: Trainer,
    rows: str | Partitions,
    reading: RowOptions,
    text: Mapping[str, Any],
    split: SplitName = "test",
) -> Rows:
    """Return labelled rows as the model of a run reads them: raw files, or a split of a prepared dataset."""
    prepared = prepared_rows(rows, reading.thinning, text, split)
    if prepared is None:
        form = replace(trainer.model.schema.schema.text_format, **text)
        note_of_thinning(trainer.model.schema.thinning, reading.thinning)
        with RowCounter() as counter:
            prepared = trainer.encode(rows, counter, reading.bad_rows, counter.print_notes, reading.thinning, form)
            seen = trainer.model.schema.history.seen("given", digests(open_sources(rows, text=form)))
            counter.print_notes(*seen)
    return prepared


def print_evaluation(predictions: Predictions, k: int, draws: int, json: bool, title: str) -> None:
    """Measure predictions, and print metrics and intervals."""
    scores, of_domains = predictions.scores(), domain_scores(predictions)
    domains = {
        task: {domain: m.to_dict() for domain, m in found.items()} for task, found in domain_metrics(of_domains).items()
    }
    metrics, intervals = {}, {}
    with RowCounter() as counter:
        for name, found in scores.items():
            metrics[name] = metrics_of(found, k)
            intervals[name] = intervals_of(found, list(metrics[name].values), draws, k=k)
            counter("measure", len(found))
    if json:
        ends = {name: {m: [i.low, i.high] for m, i in found.items()} for name, found in intervals.items()}
        independent = predictions.group_column if predictions.grouped else "rows"
        about: dict[str, dict[str, Any]] = {
            name: {"intervals": ends[name], "independent": independent} for name in metrics
        }
        about = {name: given | ({"domains": domains[name]} if domains else {}) for name, given in about.items()}
        print_line(dumps({name: m.to_dict() | about[name] for name, m in metrics.items()}, indent=1))
    else:
        print_metrics(metrics, title, intervals=intervals)
        if domains:
            beside = {task: {d: auc_interval(s) for d, s in found.items()} for task, found in of_domains.items()}
            print_domains(domains, f"by {predictions.schema.domain}", beside)
        print_line(interval_note(predictions))


def interval_note(predictions: Predictions) -> str:
    """Return which rows the intervals assume to be independent."""
    group = predictions.group_column
    if predictions.grouped:
        return f"95 % intervals: groups of {group} are independent, the rows of one need not be"
    why = "the card names no group" if group is None else f"there is no column {group!r}, the card's group"
    return f"95 % intervals take rows for independent: {why}"


def prepared_rows(
    rows: str | Partitions, thinning: Thinning | None, text: Mapping[str, Any], split: SplitName = "test"
) -> Rows | None:
    """Return the rows of a prepared dataset, which knows its thinning itself, or ``None`` for raw files."""
    place = rows.place if isinstance(rows, Partitions) else rows
    if not (Path(place) / MANIFEST).is_file():
        return None
    if isinstance(rows, Partitions):
        raise UsageError(f"{str(place)!r} is a prepared dataset, of which no days are chosen")
    if thinning is not None:
        raise UsageError(f"{rows!r} is a prepared dataset: say `--negative_rate` when it is prepared")
    if text:
        raise UsageError(f"{rows!r} is a prepared dataset: {', '.join(f'`{name}`' for name in text)} are of raw files")
    found: Rows = getattr(PreparedData.open(rows), split)
    return found


def note_of_thinning(trained: Thinning | None, given: Thinning | None) -> None:
    """Print that raw rows count as not thinned, if the training rows of the run were thinned."""
    if trained is not None and given is None:
        said = f"--negative_rate {trained.negative_rate:g}"
        said += "".join(f" --negative_label {label}" for label in trained.negative_labels)
        print_note(
            f"these rows are taken as not thinned, where the run was trained on a file thinned at "
            f"{trained.negative_rate:g}: if they were thinned too, give `{said}`"
        )
