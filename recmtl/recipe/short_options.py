"""Short spellings of options on the columns and rows of files: `--label click` for `--data.labels '["click"]'`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from jsonargparse import ArgumentParser

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import UsageError
from recmtl.io.untrusted import from_yaml
from recmtl.recipe.option_errors import one_at_a_time
from recmtl.schema import Funnel
from recmtl.schema.funnel import check_steps
from recmtl.schema.readings import ColumnKind

# The long spelling of each; those of `REPEATED` may be given several times.
SHORT_OPTIONS: Mapping[str, str] = {
    "--label": "--data.labels",
    "--funnel": "--data.funnel",
    "--group": "--data.group",
    "--weight": "--data.weight",
    "--domain": "--data.domain",
    "--drop": "--data.drop",
    "--kind": "--data.kinds",
    "--date_format": "--data.date_formats",
    "--separator": "--data.separator",
    "--header": "--data.header",
    "--null": "--data.nulls",
    "--decimal": "--data.decimal",
    "--escape": "--data.escape",
    "--negative_rate": "--data.negative_rate",
    "--negative_label": "--data.negative_labels",
    "--thinned": "--data.thinned",
    "--since": "--data.since",
    "--until": "--data.until",
    "--date_key": "--data.date_key",
    "--bad_rows": "--data.bad_rows",
    "--allow_repeat": "--data.allow_repeat",
}
REPEATED = (
    "--label",
    "--funnel",
    "--drop",
    "--kind",
    "--date_format",
    "--header",
    "--null",
    "--negative_label",
    "--thinned",
)
NO_OPTIONS: Mapping[str, Any] = {}
NEEDED = {
    "--funnel": "labels in their order, or some as LABEL:PARENT",
    "--kind": "COLUMN=KIND",
    "--date_format": "COLUMN=FORMAT",
    "--separator": "a character",
    "--header": "the names of all columns",
    "--null": "a word",
    "--decimal": "`.` or `,`",
    "--escape": "a character",
    "--negative_rate": "a number",
    "--thinned": "`train`, `valid` or `test`",
    "--since": "a day, such as 2024-01-31",
    "--until": "a day, such as 2024-01-31",
    "--date_key": "the key of a folder, such as `date`",
    "--bad_rows": "`error` or `skip`",
    "--allow_repeat": "`true` or `false`",
}


def add_short_options(parser: ArgumentParser) -> None:
    """Add the short spellings to a parser that has the long ones."""
    for short, long in SHORT_OPTIONS.items():
        action = parser._option_string_actions[long]
        action.option_strings = [short, *action.option_strings]
        parser._option_string_actions[short] = action


def write_out(arguments: Sequence[str]) -> list[str]:
    """Return arguments with short spellings replaced by the long ones, which hold all values that were given.

    Raises:
        UsageError: A value is missing, or is no `COLUMN=KIND` after `--kind` or `COLUMN=FORMAT` after `--date_format`.
    """
    short_of = {long: short for short, long in SHORT_OPTIONS.items()} | {short: short for short in SHORT_OPTIONS}
    written, values = [], dict[str, list[str]]()
    waiting = deque(arguments)
    while waiting:
        argument = waiting.popleft()
        flag, equals, value = argument.partition("=")
        short = short_of.get(flag)
        if short is None:
            written.append(argument)
            continue
        value = value if equals else waiting.popleft() if waiting else "--"
        if value.startswith("--"):
            raise UsageError(f"`{flag}` needs {NEEDED.get(short, 'the name of a column')}")
        if short in REPEATED:
            words = flag == "--null"  # `[deleted]` is one, and no list
            values.setdefault(short, []).append(json.dumps([value]) if words else value)
            while short == "--funnel" and waiting and not waiting[0].startswith("--"):
                values[short].append(waiting.popleft())
            if waiting and not waiting[0].startswith("--"):
                raise UsageError(f"unrecognized arguments: {waiting[0]}: {one_at_a_time(flag, value, waiting[0])}")
        else:
            value = "\\x7e" if (short, value) == ("--separator", "~") else value  # which is null to the parser
            written.append(f"{SHORT_OPTIONS[short]}={value}")
    for short, given in values.items():
        content = PARSERS.get(short, listed)(given)
        written.append(f"{SHORT_OPTIONS[short]}={json.dumps(content)}")
    return written


def listed(given: Iterable[str]) -> list[str]:
    """Return the values that arguments hold: a list or mapping (JSON or YAML) holds several, any other text one."""
    return [item for value in given for item in _items(value)]


def _items(value: str) -> list[str]:
    if not value.startswith(("[", "{")):
        return [value]
    try:
        content = from_yaml(value)
    except ValueError:
        return [value]
    items = [f"{key}={kind}" for key, kind in content.items()] if isinstance(content, dict) else content
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else [value]


def parse_header(given: Iterable[str]) -> list[str]:
    """Return the names of columns in texts such as ``user,item,click``, or in lists (JSON or YAML)."""
    return [name for text in given for item in [_items(text)] for name in (text.split(",") if item == [text] else item)]


def text_options(
    separator: str | None = None,
    header: Sequence[str] | None = None,
    null: Sequence[str] | None = None,
    decimal: str | None = None,
    escape: str | None = None,
) -> dict[str, Any]:
    r"""Return how text is read, as options of `TextFormat`: those that are given.

    Args:
        separator: The column separator of CSV files, such as `;` or `\t`.
        header: The columns of CSV files without a header line: `user,item,click`; `[]` if they have one.
        null: A word for a missing value, instead of the usual ones such as `NULL`; may be repeated.
        decimal: The decimal mark of numbers in text, `.` or `,`.
        escape: The character before a quote within a quoted value of CSV files: `\` as Spark writes it.
    """
    names = None if header is None else parse_header(header)
    given = {"separator": separator, "header": names, "nulls": null, "decimal": decimal, "escape": escape}
    return {name: value for name, value in given.items() if value is not None}


def funnel_of(words: Sequence[str]) -> Funnel | None:
    """Return the funnel of words; ``None`` of no word.

    Args:
        words: Labels each of which follows the one before it, but for ``LABEL:PARENT``, or ``LABEL:`` of a first step.

    Raises:
        SchemaError: They are no funnel.
    """
    steps: list[tuple[str, str | None]] = []
    for word in words:
        label, colon, parent = word.rpartition(":")
        before = steps[-1][0] if steps else None
        steps.append((label, parent or None) if colon else (word, before))
    if not steps:
        return None
    check_steps(steps)
    return Funnel(parents=dict(steps))


def parse_kinds(given: Iterable[str]) -> dict[str, ColumnKind]:
    """Return the kind of each column from texts such as ``zip=categorical``."""
    kinds: dict[str, ColumnKind] = {}
    words: dict[str, ColumnKind] = {word: word for word in get_args(ColumnKind)}
    for text in listed(given):
        column, equals, kind = text.rpartition("=")
        if not equals or not column or not kind:
            raise UsageError(f"`--kind` must be COLUMN=KIND, such as `--kind zip=categorical`, got {text!r}")
        if kind not in words:
            hint = did_you_mean(kind, words) or f": expected one of {', '.join(words)}"
            raise UsageError(f"there is no kind of columns {kind!r}{hint}")
        kinds[column] = words[kind]
    return kinds


def parse_date_formats(given: Iterable[str]) -> dict[str, str]:
    """Return the format of each column of dates from texts such as ``seen=%d/%m/%Y``."""
    formats: dict[str, str] = {}
    for text in listed(given):
        column, _, date_format = text.rpartition("=")
        if not column or not date_format:
            raise UsageError(
                "`--date_format` must be COLUMN=FORMAT, such as `--date_format seen=%d/%m/%Y`, got " + repr(text)
            )
        formats[column] = date_format
    return formats


PARSERS: Mapping[str, Callable[[Iterable[str]], Any]] = {
    "--kind": parse_kinds,
    "--date_format": parse_date_formats,
    "--header": parse_header,
}
