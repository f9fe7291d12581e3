"""The tables of a search, as text and as files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from recmtl.errors import counted
from recmtl.io.display import decimal
from recmtl.io.files import new_file
from recmtl.tuning.progress import shown_value, shown_values
from recmtl.tuning.results import BEST, Tuning
from recmtl.tuning.study import Search

TABLE, TRIALS = "tuning.md", "trials.csv"
NONE = "–"
MOST_FAILURES = 5  # that are listed


class TextTable(NamedTuple):
    """A table of text, with the number of its columns that are set left."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int


def write_best(search: Search) -> None:
    """Write the best recipe so far."""
    recipe = search.best_recipe()
    if recipe is not None:
        with new_file(search.folder / BEST) as file:
            file.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_results(tuning: Tuning) -> None:
    """Write what mattered as Markdown, and the trials as CSV."""
    parts = [notes(tuning), *([markdown(table)] for table in tables(tuning))]
    texts = {
        TABLE: "\n\n".join("\n\n".join(part) for part in parts) + "\n",
        TRIALS: tuning.trials.to_csv(index=False),
    }
    for name, text in texts.items():
        with new_file(tuning.folder / name) as file:
            file.write_text(text, encoding="utf-8")


def tables(tuning: Tuning) -> list[TextTable]:
    """Return what mattered: a row per option, and one per choice."""
    by_option, choices = tuning.summary(), tuning.choices()
    rows = [(r[0], percent(r[1]), shown(r[2]), r[3], r[4]) for r in by_option.itertuples(index=False)]
    found = [
        TextTable(
            ["option", "importance", "best", "best quarter", "searched"], [tuple(map(str, row)) for row in rows], 1
        )
    ]
    if len(choices):
        cells = [(row[0], *map(shown, row[1:])) for row in choices.itertuples(index=False)]
        found.append(TextTable(list(choices.columns), cells, 2))
    return found


def notes(tuning: Tuning) -> list[str]:
    """Return sentences about a search: its best trial, what was pruned, what failed, and what the table says."""
    trials, record = tuning.trials, tuning.record
    counts = {state: int((trials["state"] == state).sum()) for state in ("finished", "pruned", "failed")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    found = [f"{counted(len(trials), 'trial')}: {said}."]
    if tuning.best_value is not None:
        options = shown_values(tuning.best_options)
        found.append(
            f"Best {record.monitor} on the validation rows: {decimal(tuning.best_value)}, with {options}."
            + (f" The best of {len(trials)} is overstated by its choice: measure it on other rows." * (len(trials) > 1))
        )
    found += [f"Failed: trial {row.trial}: {row.reason}" for row in _first_failures(tuning)]
    if counts["failed"] > MOST_FAILURES:
        found.append(f"{counts['failed'] - MOST_FAILURES} more failed: trials.csv has the reasons.")
    if counts["pruned"]:
        found.append(
            f"Pruned: {counts['pruned']} of {counted(len(trials), 'trial')}, each against others at the same "
            "evaluation: options that learn slowly at first may be lost so. trials.csv says when and against what; "
            "`--pruner none` trains all to their end."
        )
    found.append(
        "Importance: share in the variance of the finished trials, of a class's options among its own trials; rough "
        "for few trials, and none where one option alone varies. Best quarter: the values of the best quarter of the "
        "finished trials."
    )
    return found


def _first_failures(tuning: Tuning) -> Iterator[Any]:
    trials = tuning.trials
    yield from trials[trials["state"] == "failed"].head(MOST_FAILURES).itertuples()


def markdown(table: TextTable) -> str:
    """Return a table as Markdown."""
    rule = ["---" if column < table.left else "---:" for column in range(len(table.header))]
    lines = [table.header, rule, *([cell.replace("|", r"\|") for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: Any) -> str:
    """Return a share in percent."""
    return NONE if math.isnan(share) else f"{share:.0%}"


def shown(value: Any) -> str:
    """Return a value of a table as text."""
    return NONE if isinstance(value, float) and math.isnan(value) else shown_value(value)
