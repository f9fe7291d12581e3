"""The `replay` command: train on the days up to one, and measure on the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from recmtl.cli.console import print_line, text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.cli.terminal import end, interrupted_status
from recmtl.evaluate.metrics import metric_title
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.replays.progress import ReplayBar
from recmtl.replays.results import Replay
from recmtl.replays.runner import run_replay
from recmtl.replays.steps import MODES, Mode
from recmtl.report.replay_page import write_replay_report

MODES_HELP = (
    "`warm` goes on from the run of the day before, `anew` trains new weights on all days so far, `frozen` is the run "
    "of the first day. The others are compared with the first one."
)
OUT_HELP = "The folder of the replay. Finished days in it are kept, an interrupted one resumes, new ones are added."
EPOCHS_HELP = "Epochs of a run that goes on from the day before; by default those of the recipe."


@usage_errors()
def replay_command(arguments: Sequence[str]) -> int:
    """Train on the days up to one and measure on the next, for all days of a folder of partitions."""
    parser = replay_parser()
    config = parse_recipe(parser, arguments)
    if config.out is None:
        raise ValueError("give `--out`, the folder to write")
    try:
        found = run_replay(parser, config, config.out, config.modes, config.warm_epochs, ReplayBar())
    except KeyboardInterrupt as error:
        return end(f"{str(error) or 'interrupted'}: the same command resumes it", interrupted_status(error))
    print_replay(found)
    write_replay_report(found, found.folder / "report.html")
    print_line(f"tables and report.html in {found.folder}")
    return 0


def replay_parser() -> ArgumentParser:
    """Build the parser of `recmtl replay`: the keys of a recipe and the options of the replay."""
    parser = recipe_parser("recmtl replay", (replay_command.__doc__ or "").splitlines()[0])
    parser.usage = "recmtl replay --data.train FOLDER --out DIR (--label COLUMN | --data.card CARD) [OPTIONS]"
    parser.add_argument("--out", type=Path | None, default=None, metavar="DIR", help=OUT_HELP)
    parser.add_argument("--modes", type=Mode, nargs="+", metavar="MODE", default=list(MODES), help=MODES_HELP)
    parser.add_argument("--warm_epochs", type=int | None, default=None, metavar="N", help=EPOCHS_HELP)
    return parser


def print_replay(replay: Replay) -> None:
    """Print the main metric of each task by day."""
    console = wide_console()
    for task, metric in replay.tasks.items():
        table = replay.by_day(task)
        header = [f"{metric_title(metric)} of {task} on", *table.columns[1:]]
        console.print(text_table(header, table.to_numpy().tolist(), 1))
