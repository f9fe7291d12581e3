"""The commands that make data: generated rows, and prepared datasets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from recmtl import shipped
from recmtl.arguments import UsageError, usage_errors
from recmtl.console import Counter, print_line
from recmtl.data import prepare
from recmtl.data.raw_files import open_raw
from recmtl.data.skipped import BadRows
from recmtl.data.sources import Data
from recmtl.data.synth import synthesize


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
