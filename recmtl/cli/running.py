"""How a command is run: its options, and what is printed when it is interrupted or loses a process."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from recmtl.cli.console import print_line
from recmtl.cli.parser import call_command, command_parser
from recmtl.cli.terminal import FAILED, end, interrupted_status
from recmtl.errors import Interrupted, LostRankError, RunError, UntrustedError, UsageError, exit_error, one_line
from recmtl.io.machine import explain_oom
from recmtl.io.processes import joined_on_error, launched, launched_rank
from recmtl.recipe.option_errors import parse_options

TOGETHER = ("train", "evaluate", "predict", "calibrate")  # commands of which torchrun may start several processes


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status.

    Raises:
        UsageError: Its options cannot be used.
    """
    if launched() > 1 and name not in TOGETHER:
        with joined_on_error():
            raise UsageError(f"`recmtl {name}` is one process: start it without torchrun")
    if names_own_modules(name, arguments) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the last: a file here takes no installed module's place
    try:
        with explain_oom(f"what `recmtl {name}` works on"):
            return _run(name, arguments)
    except UntrustedError as error:
        raise UsageError(error.on_command_line) from error
    except LostRankError as error:
        return end(f"process {launched_rank()} of {launched()}: {one_line(error)}", FAILED)
    except Interrupted as error:
        with suppress(KeyboardInterrupt):  # a second one has nothing left to stop
            if launched_rank() == 0:  # the first of several processes prints it for all
                end(f"{error}: resume it with `{resume_command(error.folder)}`", error.status)
        return error.status
    except KeyboardInterrupt as error:
        if launched_rank() == 0:
            raise
        return interrupted_status(error)
    except SystemExit as error:
        raise exit_error(error) from error


def _run(name: str, arguments: Sequence[str]) -> int:
    module = import_module(f"recmtl.cli.{name}")
    command = getattr(module, f"{name}_command")
    if not hasattr(module, f"{name}_parser"):
        parser = command_parser(name, command)
        with joined_on_error():
            options = vars(parser.instantiate(parse_options(parser, arguments)))
        call_command(command, options)
        return 0
    from recmtl.cli.option_help import class_help  # with what a recipe can name

    text = class_help(getattr(module, f"{name}_parser"), arguments)  # of a command that takes the keys of a recipe
    if text:
        print_line(text)
        return 0
    status: int = command(arguments)
    return status


def names_own_modules(name: str, arguments: Sequence[str]) -> bool:
    """Whether options may name modules of the user's own; the recipe of a run that is not trusted may not."""
    trusted = any(argument.partition("=")[0] == "--trust" for argument in arguments)
    named = name == "evaluate" and any(argument.partition("=")[0] == "--metric" for argument in arguments)
    return trusted or named or (name in ("train", "tune", "compare", "replay") and "--resume" not in arguments)


def resume_command(folder: Path) -> str:
    """Return the command that resumes an interrupted run."""
    from recmtl.recipe.recipe import read_recipe
    from recmtl.recipe.trust import modules_to_trust
    from recmtl.runs.folder import RunFolder

    several = f"torchrun --nproc-per-node {launched()} -m -- " if launched() > 1 else ""
    try:
        trust = "".join(f" --trust {name}" for name in modules_to_trust(read_recipe(RunFolder(folder))))
    except (RunError, LookupError, TypeError):  # a run that a program started has no recipe
        trust = ""
    return f"{several}recmtl train --run {shlex.quote(str(folder))} --resume{trust}"
