"""The commands that make data: generated rows, and prepared datasets."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Literal

from recmtl.cli.console import Counter, print_cached, print_description, print_line
from recmtl.cli.parser import usage_errors
from recmtl.data import DataError, describe, prepare
from recmtl.data.sources.aliexpress_files import open_raw
from recmtl.data.sources.bad_rows import BadRows
from recmtl.data.sources.open import Data
from recmtl.data.store.cache import default_cache, find_cached, remove_cached, remove_stale
from recmtl.data.synthetic.generate import synthesize
from recmtl.errors import UsageError
from recmtl.io.location import public_name
from recmtl.recipe import presets as shipped


def synth_command(
    out: Path,
    rows: int = 200_000,
    seed: int = 0,
    vocabulary: int = 0,
    click_rate: float = 0.05,
    conversion_rate: float = 0.10,
    layout: Literal["processed", "raw"] = "processed",
) -> None:
    """Generate rows in the layout of AliExpress with a planted truth: train, valid and test CSV and truth.json.

    Args:
        out: The folder to write.
        rows: Rows in all: 80 % train, 10 % validation, 10 % test.
        seed: Decides the truth and the rows.
        vocabulary: Values of each of two id-like columns that matter; 0 leaves these columns small.
        click_rate: Share of rows that are clicked.
        conversion_rate: Share of clicks that convert.
        layout: A CSV a split, or the user and item files that AliExpress hands out; there validation rows are training
            rows.
    """
    with Counter() as counter, usage_errors():
        truth = synthesize(
            out,
            rows,
            seed=seed,
            vocabulary=vocabulary,
            click_rate=click_rate,
            conversion_rate=conversion_rate,
            layout=layout,
            progress=counter.totals("write"),
        )
    bayes = ", ".join(f"{name} {task.auc:.4f}" for name, task in truth.test.items() if task.auc is not None)
    print_line(f"{rows:,} rows in {out} · Bayes AUC of the test rows: {bayes}")


def prepare_command(
    card: str,
    out: Path,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    raw: str | None = None,
    country: str | None = None,
    bad_rows: BadRows = "error",
) -> None:
    """Turn raw files into a prepared dataset.

    Args:
        card: A dataset card (YAML), or the bare name of a shipped one.
        out: The folder to write; it must not exist yet.
        train: Training rows: a CSV (also .gz, .zst), Parquet or Arrow file, a glob or a folder of them.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows.
        holdout: The share to hold out when there are no validation rows.
        raw: Instead of these files, a folder or zip with the user and item files that AliExpress hands out.
        country: Whose raw files to take: NL, ES, FR, US or RU.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    start = time.perf_counter()
    if (train is None) == (raw is None) or (raw is None) != (country is None) or (raw and (valid or test)):
        raise UsageError("give either `--train` (and `--valid`, `--test`), or `--raw` and `--country`")
    with Counter() as counter, ExitStack() as stack:
        given: Mapping[str, Data | None] = {"train": train, "valid": valid, "test": test}
        if raw and country:
            given = stack.enter_context(open_raw(raw, country))
        data = prepare(shipped.card(card), **given, out=out, holdout=holdout, progress=counter, bad_rows=bad_rows)
        counter.remark(*data.notes)
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
    print_line(f"prepared {sizes} rows in {out} in {time.perf_counter() - start:.1f} s")


def describe_command(
    data: str,
    card: str | None = None,
    test: str | None = None,
    label: Sequence[str] | None = None,
    bad_rows: BadRows = "error",
    json: bool = False,
) -> None:
    """Describe a dataset: columns, labels, drift, and columns that give a label away.

    Args:
        data: Raw files as `prepare` takes them, or a prepared dataset.
        card: A dataset card (YAML), or the bare name of a shipped one; without it the columns' kinds are inferred.
        test: Other rows, held against the first ones.
        label: The binary labels, where there is no card.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
        json: Print JSON instead of tables.
    """
    with Counter() as counter:
        schema = None if card is None else shipped.card(card)
        description = describe(data, schema, test, label or (), counter, bad_rows)
    if json:
        sys.stdout.write(dumps(description.to_dict(), indent=1, ensure_ascii=False) + "\n")
    else:
        print_description(description, public_name(data))


def cache_command(
    action: str,
    names: Sequence[str] = (),
    older_than: float | None = None,
    cache: Path | None = None,
    json: bool = False,
) -> None:
    """List or clear what `train` keeps of raw files: the prepared datasets.

    Args:
        action: `list` or `clear`.
        names: Only the datasets whose names begin so.
        older_than: Only those that are so many days old and more.
        cache: The folder that keeps them; by default `recmtl` in the user's cache folder.
        json: Print JSON instead of a table.
    """
    if older_than is not None and not older_than >= 0:
        raise DataError(f"`--older-than` must be a number of days from 0, got {older_than}")
    folder = cache or default_cache()
    found = find_cached(folder, names, older_than)
    shown = {dataset.folder: dataset.to_dict() for dataset in found}
    if action == "clear":
        removed = remove_cached(found)
        remove_stale(folder)
        shown = {dataset.folder: shown[dataset.folder] for dataset in removed}
    if json:
        sys.stdout.write(dumps(list(shown.values()), indent=1, ensure_ascii=False) + "\n")
    else:
        print_cached(list(shown.values()), f"{'removed from' if action == 'clear' else 'in'} {folder}")
    if action == "clear" and len(shown) < len(found):
        sys.stderr.write(f"{len(found) - len(shown)} datasets stay: they are being prepared\n")
