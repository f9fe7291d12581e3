"""What breaks first in a planned training, and which option helps, in sentences."""

from __future__ import annotations

from dataclasses import replace

from recmtl.plan.formulas import BY_ROW, KEPT, Machine, Plan, Workload

MOST_IDS = (1 << 31) - 1  # rows of a table that an int32 id can address


def advice(sizes: Workload, machine: Machine) -> list[str]:
    """Return in sentences what breaks first, and which option helps."""
    found = []
    if sizes.ids > MOST_IDS:
        found.append(
            f"a table has at most {MOST_IDS:,} rows: the {sizes.ids:,} must be those of several tables, "
            "as features of different `width` have"
        )
    whole, spread = Plan(sizes), Plan(sizes, sharded=True)
    taken = f"{_giga(whole.table_bytes)} of tables and optimizer in each process, which has {_giga(machine.memory)}"
    if whole.fits(machine):
        found.append(f"whole tables fit: {taken}")
    elif sizes.processes == 1:
        found.append(f"a process does not hold it: {taken}: {_processes(sizes, machine)}")
    elif spread.fits(machine):
        found.append(f"whole tables do not fit: {taken}: `--trainer.shard_tables true` spreads them")
    else:
        found.append(f"tables do not fit, even if they are spread: {_smaller(sizes, machine)}")
    best = spread if sizes.processes > 1 and not whole.fits(machine) else whole
    seconds = best.seconds(machine)
    slowest = max(seconds, key=lambda name: seconds[name])
    tables = "" if sizes.processes == 1 else f"with {'spread' if best.sharded else 'whole'} tables, "
    found.append(f"{tables}most of a step goes into {slowest}: {SLOWEST[slowest]}")
    return found


SLOWEST = {
    "reading rows": "a faster disk, or rows on the disk of each machine, lets processes wait less",
    "layers": "more processes, smaller layers or `--trainer.optimization.precision bf16` shorten an epoch",
    "tables": "a smaller `width`, or a balancer with one backward pass, moves fewer numbers",
    "messages": "a balancer with one backward pass, a smaller `width`, or a faster network sends them sooner",
}


def _smaller(sizes: Workload, machine: Machine) -> str:
    kept, kept_by_row = KEPT[BY_ROW]
    by_row = replace(sizes, kept=kept, kept_by_row=kept_by_row)
    if by_row.row_numbers < sizes.row_numbers and Plan(by_row, sharded=True).fits(machine):
        return f"`--trainer.optimization.optimizer recmtl.{BY_ROW}` keeps one number for a row of a table"
    return _processes(sizes, machine)


def _processes(sizes: Workload, machine: Machine) -> str:
    """Return how many processes hold the tables, with the batch of each as it is."""
    for power in range(1, 21):
        more = replace(sizes, processes=1 << power, batch_size=sizes.own_rows << power)
        if more.processes > sizes.processes and Plan(more, sharded=True).fits(machine):
            return f"{more.processes:,} processes with `--trainer.shard_tables true` hold it"
    return "no number of processes holds it: give fewer rows to a batch, or a smaller `width`"


def _giga(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
