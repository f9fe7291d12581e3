"""The command ``recmtl``."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from recmtl.balance.distributed import LostRankError
from recmtl.cli import compare as comparing
from recmtl.cli import data as inspection
from recmtl.cli import data as preparing
from recmtl.cli import evaluate as measuring
from recmtl.cli import train as training
from recmtl.cli.console import print_line
from recmtl.cli.demo import demo_command
from recmtl.cli.parser import command_parser, explain
from recmtl.cli.report import report_command
from recmtl.data import DataError
from recmtl.errors import OutOfMemoryError, UsageError
from recmtl.io.memory import explain_oom
from recmtl.recipe.recipe import known_names
from recmtl.schema import SchemaError
from recmtl.train import Interrupted, RunError
from recmtl.train.distributed import launched, place

BAD_INPUT = 2
INTERRUPTED = 130
LOST = 1

COMMANDS: Mapping[str, Callable[..., None]] = {
    "demo": demo_command,
    "synth": preparing.synth_command,
    "prepare": preparing.prepare_command,
    "evaluate": measuring.evaluate_command,
    "predict": measuring.predict_command,
    "describe": inspection.describe_command,
    "cache": inspection.cache_command,
    "report": report_command,
}
# Those that take a recipe, whose keys are options, too; they give their exit status.
OF_RECIPES: Mapping[str, Callable[[Sequence[str]], int]] = {
    "train": training.train_command,
    "compare": comparing.compare_command,
}
SUMMARIES = {n: (command.__doc__ or "").splitlines()[0] for n, command in {**COMMANDS, **OF_RECIPES}.items()}
ORDER = ("demo", "synth", "describe", "prepare", "train", "compare", "evaluate", "predict", "report", "cache")


def usage() -> str:
    """List the commands."""
    lines = [f"  {name:<10}{SUMMARIES[name]}" for name in ORDER]
    return "\n".join(["usage: recmtl COMMAND [OPTIONS]", "", *lines, "", "recmtl COMMAND --help lists the options."])


def run(arguments: Sequence[str]) -> int:
    """Run a command and give its exit status.

    Raises:
        UsageError: There is no such command, or its options do not fit together.
    """
    name, *rest = arguments or ["--help"]
    if launched() > 1 and name != "train":
        raise UsageError(f"`recmtl {name}` is one process: start it without torchrun")
    if name in ("-h", "--help"):
        print_line(usage())
    elif name in OF_RECIPES:
        return OF_RECIPES[name](rest)
    elif name in COMMANDS:
        parser = command_parser(name, COMMANDS[name])
        values = parser.instantiate(parser.parse_args(rest))
        COMMANDS[name](**vars(values))
    else:
        raise UsageError(f"there is no command {name!r}: give one of {', '.join(SUMMARIES)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit status 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with explain_oom(f"what `recmtl {' '.join(given[:1])}` works on"):
            return run(given)
    except (UsageError, DataError, SchemaError, RunError, OutOfMemoryError, ArgumentError, OSError) as error:
        return end(one_line(error), BAD_INPUT)
    except Interrupted as error:
        with suppress(KeyboardInterrupt):  # a further one finds nothing to stop any more
            if place() == 0:  # one of several says it for all
                end(f"{error}: go on with `{training.going_on(error.folder)}`", error.status)
        return error.status
    except LostRankError as error:
        return end(f"process {place()} of {launched()}: {one_line(error)}", LOST)
    except KeyboardInterrupt:
        return end("interrupted", INTERRUPTED)


def end(text: str, status: int) -> int:
    """Say why a command ends, where that can be written, and give its exit status."""
    with suppress(OSError):
        sys.stderr.write(f"recmtl: {text}\n")
        sys.stderr.flush()
    return status


def one_line(error: Exception) -> str:
    """Say an error in one line."""
    if isinstance(error, ArgumentError):
        return explain(error.message, known_names)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {str(error.filename)!r}"
    return " ".join(str(error).split())
