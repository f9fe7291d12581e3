"""The commands and their options, as `options.json` lists them: help and spelling, without importing what they run.

The list is written from the real parsers by ``python -m recmtl.cli.write_catalogue``; a test compares the two.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recmtl.did_you_mean import did_you_mean, unknown_option
from recmtl.errors import UsageError

FILE = Path(__file__).with_name("options.json")
INDENT, WIDEST = 30, 100  # columns before the text of an option; columns of a line


def load_catalogue() -> dict[str, Any]:
    """Load the summary, usage and options of each command, in the order in which they are listed."""
    catalogue: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return catalogue


def overview(catalogue: Mapping[str, Any]) -> str:
    """Return the help of `recmtl`: its commands."""
    commands = "\n".join(f"  {name:<10}{command['summary']}" for name, command in catalogue.items())
    return (
        f"usage: recmtl COMMAND [OPTIONS]\n\n{commands}\n\n"
        "`recmtl COMMAND --help` lists the options of a command, `recmtl --version` prints the version."
    )


def command_help(command: Mapping[str, Any]) -> str:
    """Return the help of a command or class: usage, summary, and its options by groups."""
    groups: dict[str, list[str]] = {}
    for option in command["options"]:
        groups.setdefault(option["group"], []).append(_option_help(option))
    blocks = [f"usage: {command['usage']}", command["summary"]]
    return "\n\n".join([*blocks, *("\n".join([title, *options]) for title, options in groups.items())])


def _option_help(option: Mapping[str, Any]) -> str:
    """Return the lines of one option."""
    name = f"  {', '.join(option['flags'])} {option['value']}".rstrip()
    default = "" if option["default"] is None else f" (default: {option['default']})"
    text = textwrap.wrap(f"{option['help']}{default}", _columns() - INDENT, break_on_hyphens=False)
    if len(name) + 2 > INDENT:
        return "\n".join([name, *(" " * INDENT + line for line in text)])
    return f"\n{' ' * INDENT}".join([f"{name:<{INDENT}}{text[0] if text else ''}".rstrip(), *text[1:]])


def _columns() -> int:
    try:
        return max(60, min(WIDEST, os.get_terminal_size().columns))
    except OSError:  # no terminal
        return WIDEST


def check_command(name: str, catalogue: Mapping[str, Any]) -> None:
    """Check that there is a command of a name.

    Raises:
        UsageError: There is none.
    """
    if name not in catalogue:
        near = did_you_mean(name, [*catalogue, "--help", "--version"], "`")
        raise UsageError(f"there is no command {name!r}{near or ': the commands are ' + ', '.join(catalogue)}")


def check_spelling(name: str, command: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Check that a command has the options that are given; those of a named class are left to its parser."""
    listed = {flag: option["flags"][0] for option in command["options"] for flag in option["flags"]}
    for argument in arguments:
        flag = argument.partition("=")[0].removesuffix("+")
        if flag == "--":
            return
        if not flag.startswith("--") or " " in flag or flag in (*listed, *command["hidden"]):
            continue
        if not flag.startswith(tuple(f"{key}." for key in command["classes"])):
            raise unknown_option(f"`recmtl {name}`", flag, listed, f": `recmtl {name} --help` lists them")
