"""The options of a recipe on its data: card, rows, and what is said about the columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recmtl.errors import DataError
from recmtl.io.csv_records import BadRows
from recmtl.io.partitions import Partitions
from recmtl.schema import SplitName, Thinning
from recmtl.schema.extend import Extension, Statistics, open_extension
from recmtl.schema.readings import ColumnKind
from recmtl.schema.text_format import TEXT_OPTIONS
from recmtl.schema.thinning import thinning_of

EXTENSION_OPTIONS = ("statistics", "max_age", "allow_repeat")


@dataclass(frozen=True)
class DataOptions:
    r"""Dataset: card and rows.

    Args:
        card: A dataset card (YAML), or the bare name of a shipped one; not needed for a prepared dataset. Without it
            the columns are inferred, and `labels` says what to predict.
        train: Training rows: a CSV, Parquet or Arrow file, a glob, a folder of them, or a prepared dataset.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows, measured once at the end.
        since: The first day of the training rows (`2024-01-01`), if `train` is a folder of folders named like
            `date=2024-01-01`, also with `hour=05` in them; a month (`2024-01`) and an hour (`2024-01-01T05`) are bounds
            as well.
        until: The last day of the training rows, which is included.
        valid_since: The first day of the validation rows; `valid` is the folder of the training rows if it is left out.
        valid_until: The last day of the validation rows.
        test_since: The first day of the test rows, likewise.
        test_until: The last day of the test rows.
        date_key: The key of these folders, `date` in `date=2024-01-01`; by default the only one with dates.
        labels: Without a card, a label column, one task each, named as it, or `TASK=COLUMN`; may be repeated.
        funnel: Without a card, labels each of which happens only after the one before it, `click cart pay`, or after
            another as `LABEL:PARENT`, `click like:click share:click`. They are what to predict if `labels` is left out.
        group: Without a card, the column that groups rows: a search, a session, a user.
        weight: Without a card, a column with a weight per row.
        domain: Without a card, the column that says which domain a row belongs to: a country, a market. It is a
            categorical feature as well.
        drop: Without a card, a column to leave out, by name or pattern; may be repeated.
        kinds: Without a card, what a column is that is inferred as something else: `zip=categorical`, or
            `multi_categorical`, `numeric`, `binned`, `timestamp` or `drop`, by name or pattern; and of which kind the
            task of a label is: `rating=multiclass`. May be repeated.
        date_formats: Without a card, the format of a column of dates, by name or pattern, in codes of `strptime`, or
            `seconds`, `milliseconds`, `microseconds` or `nanoseconds`; may be repeated.
        separator: Without a card, the column separator of CSV files, such as `;` or `\t`; by default the one in the
            header line.
        header: Without a card, the columns of CSV files without a header line: `user,item,click`.
        nulls: Without a card, a word for a missing value, instead of the usual ones such as `NULL`; may be
            repeated.
        decimal: Without a card, the decimal mark of numbers in text, `.` or `,`; by default a point.
        escape: Without a card, the character before a quote within a quoted value of CSV files: `\` as Spark
            writes it; by default a quote is doubled.
        holdout: The share of the training groups to hold out if there are no validation rows.
        cache: The folder of prepared datasets; by default `recmtl` in the user's cache folder.
        workers: How many processes prepare raw files; the result does not depend on it.
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        negative_rate: The share of negative rows that was kept where files were thinned; 1 if they were not.
        negative_labels: A label column; a row is negative if none of those named is 1 in it, by default none of all
            binary labels. May be repeated.
        thinned: A file that was thinned, `train`, `valid` or `test`; may be repeated.
        extend: The folder of a run, or of a prepared dataset, of which the rows are another day: new categories get ids
            behind the known ones. What the columns mean is what they meant there.
        statistics: With `extend`, what happens to means, quantiles, knots, bins and label rates: `keep` leaves them, so
            that rows are encoded as before, and `update` takes those of all days.
        max_age: With `extend`, after how many continuations without a training row a category is unknown again, and
            its row free for a new one; by default none is forgotten.
        allow_repeat: With `extend`, whether training files may be among those of earlier days.
    """

    card: str | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    since: str | None = None
    until: str | None = None
    valid_since: str | None = None
    valid_until: str | None = None
    test_since: str | None = None
    test_until: str | None = None
    date_key: str | None = None
    labels: list[str] = field(default_factory=list)
    funnel: list[str] = field(default_factory=list)
    group: str | None = None
    weight: str | None = None
    domain: str | None = None
    drop: list[str] = field(default_factory=list)
    kinds: dict[str, ColumnKind] = field(default_factory=dict)
    date_formats: dict[str, str] = field(default_factory=dict)
    separator: str | None = None
    header: list[str] = field(default_factory=list)
    nulls: list[str] = field(default_factory=list)
    decimal: str | None = None
    escape: str | None = None
    holdout: float = 0.1
    cache: Path | None = None
    workers: int = 1
    bad_rows: BadRows = "error"
    negative_rate: float = 1.0
    negative_labels: list[str] = field(default_factory=list)
    thinned: list[SplitName] = field(default_factory=lambda: ["train"])
    extend: str | None = None
    statistics: Statistics = "keep"
    max_age: int | None = None
    allow_repeat: bool = False

    @property
    def extension(self) -> Extension | None:
        """How the schema of a run is extended; ``None`` fits a new one."""
        if self.extend is None:
            return None
        return replace(open_extension(self.extend), **{name: getattr(self, name) for name in EXTENSION_OPTIONS})

    def rows(self, split: SplitName) -> str | Partitions | None:
        """Return the rows of a split: a path, or the partitions of some days.

        Raises:
            DataError: The days are no range, or they are said of the training rows alone, whose folder has others too.
        """
        prefix = "" if split == "train" else f"{split}_"
        since, until = getattr(self, f"{prefix}since"), getattr(self, f"{prefix}until")
        place: str | None = getattr(self, split)
        if place is None and (since or until):
            place = self.train
        if place is None:
            return None
        if since or until or self.days == ["date_key"]:
            return partitions(place, since, until, self.date_key)
        if place == self.train and split != "train" and (self.since or self.until):
            raise DataError(
                f"`{split}` is the folder of the training rows, of which some days are taken: name those of its "
                f"{split} rows by `{split}_since` and `{split}_until`"
            )
        return place

    @property
    def days(self) -> list[str]:
        """The options that choose days, as far as they are given."""
        named = [f"{prefix}{bound}" for prefix in ("", "valid_", "test_") for bound in ("since", "until")]
        return [name for name in (*named, "date_key") if getattr(self, name) is not None]

    @property
    def thinning(self) -> Thinning | None:
        """How files were thinned; ``None`` if they were not."""
        return thinning_of(self.negative_rate, self.negative_labels, self.thinned)

    @property
    def inferred(self) -> dict[str, Any]:
        """The options that stand in for a card, as far as they are given."""
        named = ("labels", "funnel", "group", "weight", "domain", "drop", "kinds", "date_formats", *TEXT_OPTIONS)
        return {name: value for name in named if (value := getattr(self, name))}


def partitions(place: str, since: str | None, until: str | None, date_key: str | None) -> str | Partitions:
    """Return a place, or the partitions of some days in it.

    Raises:
        DataError: The days are no range.
    """
    if since is None and until is None:
        if date_key is not None:
            raise DataError("`date_key` says by which folders days are chosen: give `since` or `until` as well")
        return place
    return Partitions(place, since, until, date_key)
