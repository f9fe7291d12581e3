"""The reference of the commands, from the list of their options."""

from typing import Any

from docs.generators.markdown import cell, table
from recmtl.cli.catalogue import load_catalogue


def names() -> list[str]:
    """Return the names of the commands, in the order of the help."""
    return list(load_catalogue())


def file_of(name: str) -> str:
    """Return the path of the page of a command."""
    return f"reference/commands/{name}.md"


def pages() -> dict[str, str]:
    """Return a page per command, and their list, by path."""
    commands = load_catalogue()
    rows = [(f"[`recmtl {name}`]({name}.md)", cell(command["summary"])) for name, command in commands.items()]
    listed = f"""# Commands

{table(["command", "what it does"], rows, right=2)}

`recmtl COMMAND --help` prints the options of a command. Bad input ends in one line on standard error and exit status 2.
"""
    return {
        "reference/commands/index.md": listed,
        **{file_of(name): page(name, command) for name, command in commands.items()},
    }


def page(name: str, command: dict[str, Any]) -> str:
    """Return the page of one command."""
    parts = [f"# recmtl {name}", "", command["summary"], "", "```text", command["usage"], "```", ""]
    groups: dict[str, list[tuple[str, ...]]] = {}
    for option in command["options"]:
        groups.setdefault(option["group"], []).append(row(option))
    for title, rows in groups.items():
        parts += [f"## {title}", ""] if len(groups) > 1 else []
        parts += [table(["option", "value", "default", "meaning"], rows, right=4), ""]
    if "--model" in command["classes"]:
        parts += [
            "The options of a model or balancer follow its name, as in `--model MMOE --model.experts 8`;",
            f"`recmtl {name} --model.help MMOE` lists them. So do the pages of the",
            "[models](../python/models.md) and the [balancers](../../balancers/index.md).",
        ]
    return "\n".join(parts)


def row(option: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the cells of the table for one option."""
    flags = ", ".join(f"`{flag}`" for flag in option["flags"])
    value = f"`{option['value']}`" if option["value"] else "–"
    default = "–" if option["default"] is None else f"`{option['default']}`"
    return flags, cell(value), default, cell(option["help"])
