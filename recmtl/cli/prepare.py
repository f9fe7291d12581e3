"""The `prepare` command."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from recmtl.cli.console import RowCounter, print_line
from recmtl.data import prepare
from recmtl.data.raw import find_reader, open_raw
from recmtl.errors import UsageError
from recmtl.io.csv_records import BadRows
from recmtl.recipe.data import data_schema, missing_days, rows_by_split
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.short_options import NO_OPTIONS, listed, parse_date_formats, parse_kinds
from recmtl.schema import SplitName
from recmtl.schema.extend import Statistics
from recmtl.schema.thinning import thinning_of


def prepare_command(
    out: Path,
    card: str | None = None,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    raw: str | None = None,
    layout: str | None = None,
    part: str | None = None,
    bad_rows: BadRows = "error",
    label: Sequence[str] | None = None,
    funnel: Sequence[str] | None = None,
    group: str | None = None,
    weight: str | None = None,
    domain: str | None = None,
    drop: Sequence[str] | None = None,
    kind: Sequence[str] | None = None,
    date_format: Sequence[str] | None = None,
    text: Mapping[str, Any] = NO_OPTIONS,
    negative_rate: float = 1.0,
    negative_label: Sequence[str] | None = None,
    thinned: Sequence[SplitName] | None = None,
    since: str | None = None,
    until: str | None = None,
    valid_since: str | None = None,
    valid_until: str | None = None,
    test_since: str | None = None,
    test_until: str | None = None,
    date_key: str | None = None,
    extend: str | None = None,
    statistics: Statistics = "keep",
    max_age: int | None = None,
    allow_repeat: bool = False,
    workers: int = 1,
) -> None:
    """Prepare raw files: fit the schema, encode the rows, and write a dataset.

    Args:
        out: The folder to write; it must not exist yet.
        card: A dataset card (YAML), or the name of a shipped one; without it the columns are inferred.
        train: Training rows: a CSV (also .gz, .zst), Parquet or Arrow file, a glob or a folder of them.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows.
        holdout: The share to hold out if there are no validation rows.
        raw: Instead of these files, a folder or zip with a dataset as its site hands it out.
        layout: With `raw`, the layout of the files: `aliexpress`, `aliccp`, `kuairand`, `kuairec`, `tenrec`,
            `movielens`, `census_income` or `criteo_attribution`; by default that of the card's name.
        part: With `raw`, the part of the dataset to read, if it has several: a country of AliExpress (NL, ES, FR, US or
            RU), `1K` or `Pure` of KuaiRand, `QK`, `QB` or `CTR-1M` of Tenrec.
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        label: Without a card, a label column, one task each, named as it, or `TASK=COLUMN`; may be repeated.
        funnel: Without a card, labels each of which happens only after the one before it, `click cart pay`, or after
            another as `LABEL:PARENT`, `click like:click share:click`.
        group: Without a card, the column that groups rows.
        weight: Without a card, a column with a weight per row.
        domain: Without a card, the column that says which domain a row belongs to.
        drop: Without a card, a column to leave out, by name or pattern; may be repeated.
        kind: Without a card, what a column is that is inferred as something else, such as `zip=categorical`; may be
            repeated.
        date_format: Without a card, the format of a column of dates, by name or pattern, in codes of `strptime`, or
            `seconds`, `milliseconds`, `microseconds` or `nanoseconds`; may be repeated.
        text: Without a card, how text is read.
        negative_rate: The share of negative rows that was kept where files were thinned; 1 if they were not.
        negative_label: A label column; a row is negative if none of those named is 1 in it, by default none of all
            binary labels. May be repeated.
        thinned: A file that was thinned, `train`, `valid` or `test`, by default `train`; may be repeated.
        since: The first day of the training rows (`2024-01-01`), if `--train` is a folder of folders named like
            `date=2024-01-01`; a month or an hour (`2024-01-01T05`) is a bound as well.
        until: The last day of the training rows, which is included.
        valid_since: The first day of the validation rows; they are in the folder of the training rows if `--valid` is
            left out.
        valid_until: The last day of the validation rows.
        test_since: The first day of the test rows, likewise.
        test_until: The last day of the test rows.
        date_key: The key of these folders, `date` in `date=2024-01-01`; by default the only one with dates.
        extend: The folder of a run, or of a prepared dataset, of which the rows are another day: new categories get ids
            behind the known ones. No card is needed.
        statistics: With `extend`, whether to `keep` means, quantiles, knots, bins and label rates, or to `update` them.
        max_age: With `extend`, after how many continuations without a training row a category is unknown again.
        allow_repeat: With `extend`, whether training files may be among those of earlier days.
        workers: How many processes work on parts of the rows; the result does not depend on it.
    """
    start = time.perf_counter()
    check_raw(raw, card, layout, part, (train, valid, test))
    thinning = thinning_of(negative_rate, negative_label or (), thinned or ("train",))
    labels, left_out, kinds = listed(label or ()), listed(drop or ()), parse_kinds(kind or ())
    said: Mapping[str, Any] = {
        "funnel": list(funnel or ()),
        "drop": left_out,
        "kinds": kinds,
        "bad_rows": bad_rows,
        **text,
    }
    said = {**said, "funnel": list(funnel or ()), "date_formats": parse_date_formats(date_format or ())}
    said = {**said, "extend": extend, "statistics": statistics, "max_age": max_age, "allow_repeat": allow_repeat}
    days: dict[str, Any] = {"since": since, "until": until, "valid_since": valid_since, "valid_until": valid_until}
    days |= {"test_since": test_since, "test_until": test_until, "date_key": date_key}
    roles: dict[str, Any] = {"group": group, "weight": weight, "domain": domain}
    options = DataOptions(card, train, valid, test, labels=labels, **roles, **said, **days)
    if raw and options.days:
        raise UsageError(f"`--{options.days[0]}` chooses folders of rows, which `--raw` files have none of")
    with RowCounter() as counter, ExitStack() as stack:
        given: Mapping[Any, Any] = rows_by_split(options)
        if raw:
            given = stack.enter_context(open_raw(layout or Path(card or "").stem, raw, part))
        schema, notes = (None, list[str]())
        if card or not extend:
            schema, notes = data_schema(options, options.rows("train") or "", "--card")
        notes += missing_days(given.values())
        data = prepare(
            schema,
            given["train"],
            given.get("valid"),
            given.get("test"),
            out=out,
            holdout=holdout,
            progress=counter,
            bad_rows=bad_rows,
            thinning=thinning,
            extend=options.extension,
            workers=workers,
        )
        counter.print_notes(*notes, *data.notes)
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
    print_line(f"prepared {sizes} rows in {out} in {time.perf_counter() - start:.1f} s")


def check_raw(
    raw: str | None, card: str | None, layout: str | None, part: str | None, files: Sequence[str | None]
) -> None:
    """Check that either files of rows or raw ones are given, and what is said of raw ones."""
    train, *others = files
    if (train is None) == (raw is None) or (raw and any(others)):
        raise UsageError("give either `--train` (and `--valid`, `--test`), or `--raw`")
    if not raw:
        if layout or part:
            raise UsageError(f"`--{'layout' if layout else 'part'}` is for `--raw`: leave it out")
        return
    if card is None:
        raise UsageError("raw files need their card: give `--card`, such as `--card aliexpress`")
    parts = find_reader(layout or Path(card).stem).parts
    if parts and part is None:
        raise UsageError(f"give the part of the raw files, `--part`: {', '.join(parts)}")
