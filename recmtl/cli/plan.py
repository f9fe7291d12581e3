"""The `plan` command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

from recmtl.balance import Balancer, ProcessGroup, Sum
from recmtl.cli.console import RowCounter, print_line, text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.data import PreparedData
from recmtl.errors import UsageError
from recmtl.features import EmbeddingTable, sharded_tables
from recmtl.plan.advice import advice
from recmtl.plan.balancing import balanced_by, sizes_of_balancer
from recmtl.plan.formulas import KEPT, Machine, Plan, Workload
from recmtl.recipe.classes import find_class
from recmtl.recipe.data import open_data
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import instantiate
from recmtl.train.distributed import numbers_kept
from recmtl.train.setup import default_batch_size

Value = TypeVar("Value")

TABLES = {"whole tables": False, "tables spread over processes": True}


def plan_command(
    data: str | None = None,
    config: str | None = None,
    rows: int | None = None,
    ids: int | None = None,
    width: float | None = None,
    columns: int | None = None,
    numbers: int | None = None,
    tasks: int | None = None,
    tables: int | None = None,
    parameters: int | None = None,
    processes: int = 1,
    batch_size: int | None = None,
    balancer: str | None = None,
    optimizer: Literal["Adam", "AdamW", "Adagrad", "SGD", "RowWiseAdagrad"] | None = None,
    clip: bool = False,
    memory: float = Machine.memory / 1e9,
    bandwidth: float = Machine.bandwidth / 1e9,
    operations: float = Machine.operations / 1e12,
    network: float = Machine.network / 1e9,
    disk: float = Machine.disk / 1e9,
) -> None:
    """Work out the memory, messages and time of a training from its sizes, and what breaks first.

    Args:
        data: A prepared dataset, whose rows, ids, columns and tasks are those of the training unless another size is
            given; its embeddings have their default widths. Without it, `rows` and `ids` are needed.
        config: A recipe (YAML), or the bare name of a shipped one: its model, balancer, optimizer and batches are those
            of the training unless something else is said; so is its data, if no prepared dataset is given.
        rows: How many training rows there are, such as `1e9`.
        ids: How many rows all embedding tables have together.
        width: Their width, or the mean of it over their rows; 16 without a dataset.
        columns: How many ids a row has; 30 without a dataset.
        numbers: How many numeric columns a row has; 0 without a dataset.
        tasks: How many losses are balanced; 2 without a dataset.
        tables: How many embedding tables there are, one for the features of each width; 1 without a dataset.
        parameters: How many numbers are trained beside the tables; 1,000,000 without a recipe.
        processes: How many processes share a batch, one per GPU.
        batch_size: The rows of the whole batch; 2,048 without a recipe.
        balancer: The balancer, by default `Sum`; one of task gradients takes a backward pass for each loss.
        optimizer: What the tables are trained by, by default `Adam`.
        clip: Whether gradients are clipped.
        memory: The memory of a GPU in GB.
        bandwidth: The bandwidth of this memory in GB/s.
        operations: What layers reach on a GPU, in TFLOP/s.
        network: What a process can send, in GB/s.
        disk: What a process can read of training rows, in GB/s.
    """
    own = {"rows": rows, "ids": ids, "width": width, "columns": columns, "numbers": numbers, "tasks": tasks}
    own |= {"tables": tables, "parameters": parameters, "batch_size": batch_size, "clipped": clip or None}
    given: dict[str, Any] = {name: size for name, size in own.items() if size is not None}
    with usage_errors():
        opened, kept = None if data is None else PreparedData.open(data), KEPT["Adam"]
        method: type[Balancer] = Sum
        if config is not None:
            opened, found, method, kept = sizes_of_recipe(config, opened, rows, balancer)
            given = found | given
        elif balancer is not None:
            method = find_class(balancer, "balancer", Balancer)
        if opened is None and not {"rows", "ids"} <= given.keys():
            raise UsageError("give the folder of a prepared dataset, a recipe by `--config`, or `--rows` and `--ids`")
        given["processes"] = processes
        sizes = Workload(**given) if opened is None else Workload.of(opened, **given)
        if optimizer is not None:
            kept = KEPT[optimizer]
        sizes = balanced_by(replace(sizes, kept=kept[0], kept_by_row=kept[1]), method)
        machine = Machine(memory * 1e9, bandwidth * 1e9, operations * 1e12, network * 1e9, disk * 1e9)
    print_plans([Plan(sizes, sharded) for sharded in TABLES.values() if processes > 1 or not sharded], machine)
    for sentence in advice(sizes, machine):
        print_line(sentence)


class OneOfMany(ProcessGroup):
    """A group of so many processes that each holds hardly a row of a large table; it sends no messages."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1 << 20

    def broadcast_object(self, value: Value) -> Value:
        """Return the value of this process."""
        return value


def sizes_of_recipe(
    config: str, data: PreparedData | None, rows: int | None = None, balancer: str | None = None
) -> tuple[PreparedData, dict[str, Any], type[Balancer], tuple[float, float]]:
    """Return the data of a recipe unless others are given, the sizes of its model and batches, and how it is trained.

    That is: its balancer, unless another is named, and how many numbers its optimizer keeps for each weight and row of
    a table. A recipe without a `batch_size` has that which `recmtl train` chooses for a number of training rows, by
    default that of the data.
    """
    parser = recipe_parser("recmtl plan")
    named = [] if balancer is None else ["--balancer", balancer]
    recipe = instantiate(parser, parse_recipe(parser, ["--config", config, *named]))
    if data is None and recipe.data.train is None:
        raise UsageError(f"the recipe {config!r} names no training rows: give the folder of a prepared dataset")
    with RowCounter() as counter:
        data = data or open_data(recipe.data, counter)
    with sharded_tables(OneOfMany()):
        model = recipe.model(data.schema)
    model.task_losses.split_by_domain(recipe.trainer.balance_domains)
    found = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    weights, ids = {id(table.weight) for table in found}, sum(table.rows for table in found)
    options = recipe.trainer.optimization
    sizes = {
        "parameters": max(1, sum(p.numel() for p in model.parameters() if id(p) not in weights)),
        "tasks": len(model.task_losses.names),
        "batch_size": options.batch_size or default_batch_size(len(data.train) if rows is None else rows),
        "clipped": options.clip_norm is not None,
    }
    if found:
        sizes |= {"ids": ids, "tables": len(found), "width": sum(t.rows * t.width for t in found) / ids}
    sizes |= sizes_of_balancer(model, recipe.balancer)
    return data, sizes, type(recipe.balancer), numbers_kept(options.optimizer)


def print_plans(plans: list[Plan], machine: Machine) -> None:
    """Print what trainings ask of each process, a column for each."""
    memory, sent = [plan.memory() for plan in plans], [plan.sent() for plan in plans]
    seconds = [plan.seconds(machine) for plan in plans]
    lines = [(f"memory: {name}, GB", [f"{found[name] / 1e9:,.3f}" for found in memory]) for name in memory[0]]
    lines.append(("memory in all, GB", [f"{sum(found.values()) / 1e9:,.3f}" for found in memory]))
    lines.append((f"fits {machine.memory / 1e9:,.0f} GB", ["yes" if plan.fits(machine) else "NO" for plan in plans]))
    host = [plan.host_memory() for plan in plans]
    lines += [(f"host memory: {name}, GB", [f"{found[name] / 1e9:,.3f}" for found in host]) for name in host[0]]
    lines += [(f"sent in a step: {name}, MB", [f"{found[name] / 1e6:,.3f}" for found in sent]) for name in sent[0]]
    lines += [(f"a step: {name}, ms", [f"{found[name] * 1e3:,.3f}" for found in seconds]) for name in seconds[0]]
    lines.append(("a step, ms", [f"{plan.step_seconds(machine) * 1e3:,.3f}" for plan in plans]))
    lines.append(("an epoch, hours", [f"{plan.epoch_seconds(machine) / 3600:,.2f}" for plan in plans]))
    wide_console().print(text_table(["of each process", *[*TABLES][: len(plans)]], [(n, *v) for n, v in lines]))
