"""The `plan` command."""

from __future__ import annotations

from typing import Literal

from recmtl.balance import Balancer, TaskGradientBalancer
from recmtl.cli.console import print_line, text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.plan import BY_ROW, KEPT, Machine, Plan, Workload, advice
from recmtl.recipe.classes import find_class

TABLES = {"whole tables": False, "tables spread over processes": True}


def plan_command(
    rows: int,
    ids: int,
    width: int = 16,
    columns: int = 30,
    numbers: int = 0,
    tasks: int = 2,
    parameters: int = 1_000_000,
    processes: int = 1,
    batch_size: int = 2048,
    balancer: str = "Sum",
    optimizer: Literal["Adam", "AdamW", "Adagrad", "SGD", "RowWiseAdagrad"] = "Adam",
    memory: float = Machine.memory / 1e9,
    bandwidth: float = Machine.bandwidth / 1e9,
    operations: float = Machine.operations / 1e12,
    network: float = Machine.network / 1e9,
    disk: float = Machine.disk / 1e9,
) -> None:
    """Work out the memory, messages and time of a training from its sizes, and what breaks first.

    Args:
        rows: How many training rows there are.
        ids: How many rows all embedding tables have together.
        width: Their width.
        columns: How many columns of ids a row has.
        numbers: How many numeric columns a row has.
        tasks: How many losses are balanced.
        parameters: How many numbers are trained beside the tables.
        processes: How many processes share a batch, one per GPU.
        batch_size: The rows of the whole batch.
        balancer: The balancer; one of task gradients takes a backward pass for each loss.
        optimizer: What the tables are trained by.
        memory: The memory of a GPU in GB.
        bandwidth: The bandwidth of this memory in GB/s.
        operations: What layers reach on a GPU, in TFLOP/s.
        network: What a process can send, in GB/s.
        disk: What a process can read of training rows, in GB/s.
    """
    method = find_class(balancer, "balancer", Balancer)
    passes = tasks if issubclass(method, TaskGradientBalancer) else 1
    kept = 1 / width if optimizer == BY_ROW and width > 0 else KEPT.get(optimizer, 0.0)
    with usage_errors():
        sizes = Workload(rows, ids, width, columns, numbers, tasks, parameters, processes, batch_size, passes, kept)
        machine = Machine(memory * 1e9, bandwidth * 1e9, operations * 1e12, network * 1e9, disk * 1e9)
    print_plans([Plan(sizes, sharded) for sharded in TABLES.values() if processes > 1 or not sharded], machine)
    for sentence in advice(sizes, machine):
        print_line(sentence)


def print_plans(plans: list[Plan], machine: Machine) -> None:
    """Print what trainings ask of each process, a column for each."""
    memory, sent = [plan.memory() for plan in plans], [plan.sent() for plan in plans]
    seconds = [plan.seconds(machine) for plan in plans]
    lines = [(f"memory: {name}, GB", [f"{found[name] / 1e9:,.3f}" for found in memory]) for name in memory[0]]
    lines.append(("memory in all, GB", [f"{sum(found.values()) / 1e9:,.3f}" for found in memory]))
    lines.append((f"fits {machine.memory / 1e9:,.0f} GB", ["yes" if plan.fits(machine) else "NO" for plan in plans]))
    host = [plan.host_memory() for plan in plans]
    lines += [
        (f"memory of the machine: {name}, GB", [f"{found[name] / 1e9:,.3f}" for found in host]) for name in host[0]
    ]
    lines += [(f"sent in a step: {name}, MB", [f"{found[name] / 1e6:,.3f}" for found in sent]) for name in sent[0]]
    lines += [(f"a step: {name}, ms", [f"{found[name] * 1e3:,.3f}" for found in seconds]) for name in seconds[0]]
    lines.append(("a step, ms", [f"{plan.step_seconds(machine) * 1e3:,.3f}" for plan in plans]))
    lines.append(("an epoch, hours", [f"{plan.epoch_seconds(machine) / 3600:,.2f}" for plan in plans]))
    wide_console().print(text_table(["of each process", *[*TABLES][: len(plans)]], [(n, *v) for n, v in lines]))
