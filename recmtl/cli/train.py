"""The `train` command."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import all_processes
from recmtl.cli.console import (
    RowCounter,
    print_domains,
    print_gradient_stats,
    print_line,
    print_metrics,
    print_note,
    silence_others,
)
from recmtl.cli.parser import usage_errors
from recmtl.errors import UsageError
from recmtl.evaluate import Metrics
from recmtl.io.joining import MINUTES
from recmtl.io.processes import joined_on_error
from recmtl.recipe.continue_run import continued_recipe
from recmtl.recipe.data import open_data
from recmtl.recipe.environment import environment_changes
from recmtl.recipe.load import resumed_recipe
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import build, check_to_train, instantiate, recipe_of_run
from recmtl.recipe.shared_data import open_shared_data
from recmtl.recipe.trust import schema_to_train
from recmtl.runs.checkpoints import prune
from recmtl.runs.folder import LAST, RECIPE
from recmtl.train import RunFolder, Trainer
from recmtl.train.distributed import process_group
from recmtl.train.gradient_stats import summarize_pairs

RESUME_HELP = "Resume the run in `--run` from its last checkpoint, with the recipe that lies there."
TIMEOUT_HELP = "Minutes that processes started by torchrun wait for each other, but while one prepares raw files."
CONTINUE_HELP = (
    "Train the model of a finished run on the rows of another day, by its recipe: `--continue RUN --data.train FILE`. "
    "Options that are given replace those of the recipe."
)
TRUST_HELP = (
    "With `--resume` or `--continue`, a further module whose classes the run's recipe may name; may be repeated."
)


def train_command(arguments: Sequence[str]) -> int:
    """Train a model and measure it on the test rows."""
    parser = train_parser()
    with joined_on_error(), usage_errors():
        config = parse_recipe(parser, arguments)
    config.trainer.run.folder = config.run or config.trainer.run.folder
    with process_group(config.timeout) as processes, silence_others(processes):
        return _train_and_print(parser, arguments, config, processes)


def _train_and_print(
    parser: ArgumentParser, arguments: Sequence[str], config: Namespace, processes: ProcessGroup
) -> int:
    config = processes.in_first(lambda: recipe_to_train(parser, arguments, config))  # others may not see the run folder
    if config.resume and processes.in_first(lambda: RunFolder(config.trainer.run.folder).finished):
        print_line(f"{config.trainer.run.folder!r} holds a finished run: there is nothing to resume")
        if processes.first:
            prune(RunFolder(config.trainer.run.folder), 0)  # checkpoints are left if the process was killed at the end
        return 0
    trainer, metrics = train(parser, config, config.resume, config.trust)
    split = "test" if "test" in metrics else "valid"
    if split in metrics:
        print_metrics(metrics[split], f"{split} rows")
        domains = trainer.folder.result().get("domains", {}) if trainer.folder else {}
        if domains:
            print_domains(domains[split], f"{split} rows by {trainer.model.schema.schema.domain}")
    if trainer.setup.gradient_stats_every and trainer.folder:
        summaries = summarize_pairs(trainer.folder.records())
        if summaries:
            print_gradient_stats(summaries)
        elif trainer.model.shared().tensors:
            every = trainer.setup.gradient_stats_every
            print_line(
                f"gradients were measured every {every} steps, never those of two tasks: lower `gradient_stats_every`"
            )
        else:
            print_line("the tasks share no tensor: there are no gradients to compare")
    skipped = trainer.result.skipped
    if skipped:
        print_line(f"skipped because not finite: {skipped}")
    print_line(f"{trainer.result.rows_per_second:,.0f} training rows/s · run in {config.trainer.run.folder}")
    return 0


def train_parser() -> ArgumentParser:
    """Build the parser of `recmtl train`: the keys of a recipe, and how it is run."""
    parser = recipe_parser("recmtl train", (train_command.__doc__ or "").splitlines()[0])
    parser.usage = "recmtl train --data.train FILE --data.test FILE (--label COLUMN | --data.card CARD) [OPTIONS]"
    parser.add_argument("--run", type=str | None, default=None, help="The run folder; by default one below runs/.")
    parser.add_argument("--continue", type=str | None, default=None, metavar="RUN", help=CONTINUE_HELP)
    parser.add_argument("--resume", action="store_true", help=RESUME_HELP)
    parser.add_argument("--trust", action="append", metavar="MODULE", default=[], help=TRUST_HELP)
    parser.add_argument("--timeout", type=float, default=MINUTES, help=TIMEOUT_HELP)
    return parser


def recipe_to_train(parser: ArgumentParser, arguments: Sequence[str], config: Namespace) -> Namespace:
    """Return the recipe of the run to resume or to continue, or the given options."""
    begun = config.resume and (Path(str(config.trainer.run.folder)) / RECIPE).exists()
    if config.resume:
        config = recipe_to_resume(parser, arguments, config)
    elif config["continue"]:
        config = recipe_to_continue(parser, arguments, config)
    if config.data.card and not (config["continue"] or begun):
        config.trust = None  # the user names the card, and so what the card names
    return config


def recipe_to_resume(parser: ArgumentParser, arguments: Sequence[str], config: Namespace) -> Namespace:
    """Return the recipe of the run in `--run`, or the given options if there is no run yet."""
    if not config.trainer.run.folder:
        raise UsageError("give `--run`, the folder of the run to resume")
    folder = str(config.trainer.run.folder)
    if not (Path(folder) / RECIPE).exists():
        if not RunFolder(folder).finished:
            print_line(f"{folder!r} holds no run yet: it starts from the beginning")
        return recipe_to_continue(parser, arguments, config) if config["continue"] else config
    with usage_errors():
        config = resumed_recipe(parser, arguments, folder, config.trust)
    for change in environment_changes(Path(folder) / RECIPE, config.trainer.run.threads):
        print_note(change)
    config.trainer.run.folder = folder
    return config


def recipe_to_continue(parser: ArgumentParser, arguments: Sequence[str], config: Namespace) -> Namespace:
    """Return the recipe of the run in `--continue`, with the rows and options that are given."""
    folder = config.trainer.run.folder
    with usage_errors():
        config = continued_recipe(parser, arguments, config["continue"], config.trust)
    config.trainer.run.folder = folder
    return config


@contextmanager
def folder_to_write(folder: RunFolder, resume: bool) -> Iterator[None]:
    """Lock a run folder within a block, before any work, and check that one can write a run into it."""
    with folder.held():
        folder.has_recipe = resume
        if not (resume and folder.checkpoint(LAST).exists()):
            folder.check_free(resume)
        yield


def train(
    parser: ArgumentParser, config: Namespace, resume: bool = False, trust: Sequence[str] | None = None
) -> tuple[Trainer, dict[str, dict[str, Metrics]]]:
    """Train a recipe, measure it on the validation and test rows, and finish its run folder.

    Losses of one's own must be of the modules in `trust`; ``None`` trusts all that the data name.
    """
    processes = all_processes()
    name = str(config.trainer.run.folder or Path("runs") / time.strftime("%Y%m%d-%H%M%S"))
    config.trainer.run.folder = processes.broadcast_object(name)
    folder = RunFolder(config.trainer.run.folder)
    with ExitStack() as stack:
        processes.in_first(lambda: stack.enter_context(folder_to_write(folder, resume)))
        with usage_errors():
            objects = instantiate(parser, config)
        with RowCounter() as counter:
            opened = partial(open_data, objects.data, counter, partial(check_to_train, config, trust))
            data = open_shared_data(opened, processes)
            repeated = data.schema.task_notes if config.trainer.run.progress else []  # by the training
            counter.print_notes(*(note for note in data.notes if note not in repeated))
        with usage_errors():
            trainer = build(parser, config, schema_to_train(data.schema, trust), objects)
        if trainer.folder:  # in the process that writes it
            trainer.setup = replace(trainer.setup, folder=folder)
        new = trainer.folder and not (resume and (folder.path / RECIPE).exists())
        with recipe_of_run(parser, config, folder) if new else nullcontext(), usage_errors():
            trainer.fit(data.train, data.splits.get("valid"), resume, print_note)
        return trainer, trainer.finish({name: rows for name, rows in data.splits.items() if name != "train"})
