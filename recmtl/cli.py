"""The command ``recmtl``."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
from jsonargparse import ArgumentParser, Namespace

from recmtl import comparing, inspection, shipped
from recmtl.arguments import command_parser
from recmtl.console import Counter, print_diagnosis, print_metrics
from recmtl.data import DataError, PreparedData, Rows, encode_rows, prepare
from recmtl.data.files import new_file
from recmtl.data.prepared import MANIFEST
from recmtl.data.raw_files import open_raw
from recmtl.data.skipped import BadRows
from recmtl.data.sources import Data
from recmtl.data.synth import synthesize
from recmtl.demo import logistic_regression
from recmtl.evaluate import Metrics
from recmtl.messages import explain
from recmtl.recipe import add_recipe, build, known_names, load_run, open_data, save_recipe
from recmtl.report.command import report_command
from recmtl.schema import SchemaError
from recmtl.schema.location import public_name
from recmtl.shipped import find_recipe
from recmtl.train import RunError, RunFolder, Trainer
from recmtl.train.diagnosis import summarize

BAD_INPUT = 2
INTERRUPTED = 130


class UsageError(ValueError):
    """Options that do not fit together."""


def synth_command(
    out: Path,
    rows: int = 200_000,
    seed: int = 0,
    vocabulary: int = 0,
    click_rate: float = 0.05,
    conversion_rate: float = 0.10,
    layout: Literal["processed", "raw"] = "processed",
) -> None:
    """Generate rows in the layout of AliExpress with a planted truth: train, valid and test CSV and truth.json.

    Args:
        out: The folder to write.
        rows: Rows in all: 80 % train, 10 % validation, 10 % test.
        seed: Decides the truth and the rows.
        vocabulary: Values of each of two id-like columns that matter; 0 leaves these columns small.
        click_rate: Share of rows that are clicked.
        conversion_rate: Share of clicks that convert.
        layout: A CSV a split, or the user and item files that AliExpress hands out; there validation rows are training
            rows.
    """
    with Counter() as counter, usage_errors():
        truth = synthesize(
            out,
            rows,
            seed=seed,
            vocabulary=vocabulary,
            click_rate=click_rate,
            conversion_rate=conversion_rate,
            layout=layout,
            progress=counter.totals("write"),
        )
    bayes = ", ".join(f"{name} {task.auc:.4f}" for name, task in truth.test.items() if task.auc is not None)
    print_line(f"{rows:,} rows in {out} · Bayes AUC of the test rows: {bayes}")


def prepare_command(
    card: str,
    out: Path,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    raw: str | None = None,
    country: str | None = None,
    bad_rows: BadRows = "error",
) -> None:
    """Turn raw files into a prepared dataset.

    Args:
        card: A dataset card (YAML), or the bare name of a shipped one.
        out: The folder to write; it must not exist yet.
        train: Training rows: a CSV (also .gz, .zst), Parquet or Arrow file, a glob or a folder of them.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows.
        holdout: The share to hold out when there are no validation rows.
        raw: Instead of these files, a folder or zip with the user and item files that AliExpress hands out.
        country: Whose raw files to take: NL, ES, FR, US or RU.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    start = time.perf_counter()
    if (train is None) == (raw is None) or (raw is None) != (country is None) or (raw and (valid or test)):
        raise UsageError("give either `--train` (and `--valid`, `--test`), or `--raw` and `--country`")
    with Counter() as counter, ExitStack() as stack:
        given: Mapping[str, Data | None] = {"train": train, "valid": valid, "test": test}
        if raw and country:
            given = stack.enter_context(open_raw(raw, country))
        data = prepare(shipped.card(card), **given, out=out, holdout=holdout, progress=counter, bad_rows=bad_rows)
        counter.remark(*data.notes)
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
    print_line(f"prepared {sizes} rows in {out} in {time.perf_counter() - start:.1f} s")


def evaluate_command(
    run: Path, rows: str, json: bool = False, trust: Sequence[str] = (), bad_rows: BadRows = "error"
) -> None:
    """Measure the best weights of a run on labelled rows.

    Args:
        run: The run folder.
        rows: Raw files as `prepare` takes them, or a prepared dataset, of which the test rows are taken.
        json: Print JSON instead of a table.
        trust: Modules whose classes the run's recipe may name, beside those of recmtl and torch.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    trainer = load_run(run, trust)
    prepared = prepared_rows(rows)
    if prepared is None:
        with Counter() as counter:
            prepared = trainer.encode(rows, counter, bad_rows, counter.remark)
    metrics = trainer.measure(prepared)
    if json:
        print_line(dumps({name: m.to_dict() for name, m in metrics.items()}, indent=1))
    else:
        print_metrics(metrics, f"{run} on {public_name(rows)}")


def prepared_rows(rows: str) -> Rows | None:
    """Give the test rows of a prepared dataset, ``None`` where the rows are raw files."""
    return PreparedData.open(rows).test if (Path(rows) / MANIFEST).is_file() else None


def predict_command(run: Path, rows: str, out: Path, trust: Sequence[str] = (), bad_rows: BadRows = "error") -> None:
    """Predict with the best weights of a run: Parquet with the keys, and a probability per task.

    Args:
        run: The run folder.
        rows: Raw files as `prepare` takes them, labels are not needed; or a prepared dataset, of which the test rows
            are taken.
        out: The Parquet file to write.
        trust: Modules whose classes the run's recipe may name, beside those of recmtl and torch.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    trainer = load_run(run, trust)
    writer: pq.ParquetWriter | None = None
    count = 0
    with Counter() as counter, new_file(out) as partial:
        prepared = prepared_rows(rows)
        raw = encode_rows(trainer.model.schema, rows, False, counter, bad_rows, counter.remark)
        for part in raw if prepared is None else [prepared]:
            table = trainer.predict_table(part)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            count += len(part)
        if writer:
            writer.close()
    print_line(f"{count:,} predictions in {out}")


def train_command(parser: ArgumentParser, config: Namespace) -> None:
    """Train a recipe and show its metrics on the test rows, or else on the validation rows."""
    trainer, measured = train(parser, config)
    split = "test" if "test" in measured else "valid"
    if split in measured:
        print_metrics(measured[split], f"{split} rows")
    if trainer.diagnose_every and trainer.folder:
        summaries = summarize(trainer.folder.records())
        if summaries:
            print_diagnosis(summaries)
        else:
            print_line(
                f"no two gradients were measured in one of every {trainer.diagnose_every} steps: lower the number"
            )
    skipped = trainer.skipped
    if skipped:
        print_line(f"left out for not being finite: {skipped}")
    print_line(f"{trainer.rows_per_second:,.0f} training rows/s · run in {config.trainer.run.folder}")


def train(parser: ArgumentParser, config: Namespace) -> tuple[Trainer, dict[str, dict[str, Metrics]]]:
    """Train a recipe, measure it on all but its training rows and finish its run folder."""
    given = config.get("run") or config.trainer.run.folder
    config.trainer.run.folder = str(given or Path("runs") / time.strftime("%Y%m%d-%H%M%S"))
    RunFolder(config.trainer.run.folder).check_free()
    with usage_errors():
        options = parser.instantiate(config).data
    with Counter() as counter:
        data = open_data(options, counter)
        counter.remark(*data.notes)
    with usage_errors():
        trainer = build(parser, config, data.schema)
    assert trainer.folder is not None
    save_recipe(parser, config, trainer.folder.path)
    with usage_errors():
        trainer.fit(data.train, data.splits.get("valid"))
    return trainer, trainer.finish({name: rows for name, rows in data.splits.items() if name != "train"})


def demo_command(out: Path = Path("demo"), rows: int = 200_000, seed: int = 0) -> None:
    """Run the main job on generated rows: CSV files, a prepared dataset, MMOE with MetaBalance, an AUC table.

    Args:
        out: The folder for files and run; it must not exist yet.
        rows: Rows to generate.
        seed: Decides rows and training.
    """
    if out.exists():
        raise DataError(f"{str(out)!r} exists already: give `--out` another folder or remove it")
    csv, prepared = out / "csv", out / "prepared"
    synth_command(csv, rows, seed, click_rate=0.10, conversion_rate=0.25)  # so that the test rows say something
    prepare_command("aliexpress", prepared, str(csv / "train.csv"), str(csv / "valid.csv"), str(csv / "test.csv"))
    parser = train_parser()
    arguments = ["--config", "demo", "--data.train", str(prepared), "--trainer.run.seed", str(seed)]
    config = parser.parse_args(resolve_recipe([*arguments, "--run", str(out / "run")]))
    trainer, measured = train(parser, config)
    metrics = measured["test"]
    truth = loads((csv / "truth.json").read_text(encoding="utf-8"))["test"]
    linear = logistic_regression(PreparedData.open(prepared))
    extra = {
        "Bayes": {name: truth[name]["auc"] for name in metrics},
        "logistic": {name: linear[name].values["auc"] for name in metrics},
    }
    title = "MMOE with MetaBalance, test AUC beside the best possible (Bayes) and a logistic regression's"
    print_metrics(metrics, title, extra)
    print_line(f"{trainer.rows_per_second:,.0f} training rows/s · run in {out / 'run'}")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what a constructor says of its options into an error of usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def train_parser() -> ArgumentParser:
    """Build the parser of `recmtl train`."""
    parser = ArgumentParser(
        prog="recmtl train", exit_on_error=False, allow_abbrev=False, description=SUMMARIES["train"]
    )
    parser.add_argument("--config", action="config", help="A recipe (YAML), or the bare name of a shipped one.")
    parser.add_argument("--run", type=str | None, default=None, help="The run folder; by default one below runs/.")
    add_recipe(parser)
    return parser


def resolve_recipe(arguments: Sequence[str]) -> list[str]:
    """Replace the bare name of a shipped recipe after `--config` by its file.

    Raises:
        SchemaError: There is no such recipe.
    """
    resolved: list[str] = []
    for argument in arguments:
        if resolved and resolved[-1] == "--config":
            argument = str(find_recipe(argument))
        elif argument.startswith("--config="):
            argument = f"--config={find_recipe(argument.removeprefix('--config='))}"
        resolved.append(argument)
    return resolved


COMMANDS: Mapping[str, Callable[..., None]] = {
    "demo": demo_command,
    "synth": synth_command,
    "prepare": prepare_command,
    "evaluate": evaluate_command,
    "predict": predict_command,
    "describe": inspection.describe_command,
    "cache": inspection.cache_command,
    "report": report_command,
}
SUMMARIES = {name: (command.__doc__ or "").splitlines()[0] for name, command in COMMANDS.items()} | {
    "train": "Train a model and measure it on the test rows.",
    "compare": comparing.SUMMARY,
}
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
    if name in ("-h", "--help"):
        print_line(usage())
    elif name == "train":
        parser = train_parser()
        train_command(parser, parser.parse_args(resolve_recipe(rest)))
    elif name == "compare":
        with usage_errors():
            return comparing.compare_command(resolve_recipe(rest))
    elif name in COMMANDS:
        parser = command_parser(name, COMMANDS[name])
        values = parser.instantiate(parser.parse_args(rest))
        COMMANDS[name](**vars(values))
    else:
        raise UsageError(f"there is no command {name!r}: give one of {', '.join(SUMMARIES)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit status 2."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except (UsageError, DataError, SchemaError, RunError, ArgumentError, OSError) as error:
        sys.stderr.write(f"recmtl: {one_line(error)}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("recmtl: interrupted\n")
        return INTERRUPTED


def one_line(error: Exception) -> str:
    """Say an error in one line."""
    if isinstance(error, ArgumentError):
        return explain(error.message, known_names)
    return " ".join(str(error).split())


def print_line(text: str) -> None:
    """Print a line as it is."""
    sys.stdout.write(text + "\n")
