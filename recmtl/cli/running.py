"""How a command is run: its options, and what is printed when it is interrupted or loses a process."""

from __future__ import annotations

import shlex
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from recmtl.balance.distributed import LostRankError
from recmtl.cli.exit import FAILED, end, one_line
from recmtl.cli.parser import command_parser
from recmtl.errors import Interrupted, RunError, UsageError
from recmtl.io.memory import explain_oom
from recmtl.recipe.recipe import read_recipe
from recmtl.recipe.trust import to_be_trusted
from recmtl.train import RunFolder
from recmtl.train.distributed import launched, place


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status.

    Raises:
        UsageError: Its options cannot be used.
    """
    if launched() > 1 and name != "train":
        raise UsageError(f"`recmtl {name}` is one process: start it without torchrun")
    module = import_module(f"recmtl.cli.{name}")
    command = getattr(module, f"{name}_command")
    try:
        with explain_oom(f"what `recmtl {name}` works on"):
            if hasattr(module, f"{name}_parser"):  # the keys of a recipe are options, too
                status: int = command(arguments)
                return status
            parser = command_parser(name, command)
            command(**vars(parser.instantiate(parser.parse_args(arguments))))
            return 0
    except ArgumentError as error:
        raise UsageError(error.message) from error
    except LostRankError as error:
        return end(f"process {place()} of {launched()}: {one_line(error)}", FAILED)
    except Interrupted as error:
        with suppress(KeyboardInterrupt):  # a second one has nothing left to stop
            if place() == 0:  # the first of several processes prints it for all
                end(f"{error}: go on with `{resume_command(error.folder)}`", error.status)
        return error.status


def resume_command(folder: Path) -> str:
    """Return the command that resumes an interrupted run."""
    several = f"torchrun --nproc-per-node {launched()} -m -- " if launched() > 1 else ""
    try:
        trust = "".join(f" --trust {name}" for name in to_be_trusted(read_recipe(RunFolder(folder))))
    except (RunError, LookupError, TypeError):  # a run that a program started has no recipe
        trust = ""
    return f"{several}recmtl train --run {shlex.quote(str(folder))} --resume{trust}"
