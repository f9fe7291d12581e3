"""What a training is, in a few lines."""

from __future__ import annotations

from collections import Counter

import torch

from recmtl.data import Rows
from recmtl.errors import counted
from recmtl.features import EmbeddingTable
from recmtl.features.embedding_table import spread_tables
from recmtl.features.sharding import LARGE
from recmtl.io.machine import busy_warning, threads_warning, waits_passively
from recmtl.models import RankingModel
from recmtl.schema import funnel_basis, replaced_rates
from recmtl.train.device import cpu_threads, describe_precision
from recmtl.train.distributed import local_rank
from recmtl.train.setup import TrainingSetup


def describe_setup(setup: TrainingSetup, train: Rows, valid: Rows | None) -> list[str]:
    """Describe a training in a few lines: rows, features, parameters, device, run folder, and a busy machine.

    All processes call it.
    """
    model = setup.model
    kinds = Counter(type(feature).__name__ for feature in model.schema.schema.features)
    tables = {id(m.weight): m.rows * m.width for m in model.modules() if isinstance(m, EmbeddingTable)}
    dense = sum(p.numel() for p in model.parameters() if id(p) not in tables)
    processes = setup.processes.size
    where = [str(setup.device), *([f"{processes} processes"] if processes > 1 else [])]
    with cpu_threads(setup.run.threads):
        threads = torch.get_num_threads()
        precision = describe_precision(setup.device, setup.optimization.precision)
    waiting = "passively" if waits_passively() else "actively"
    several = f"{threads} threads waiting {waiting}"
    here = local_rank(setup.processes)[1] if processes > 1 else 1
    warned = (threads_warning(threads, here), busy_warning(threads, here))
    validated = "none for validation" if valid is None else f"{len(valid):,} for validation"
    return [
        f"rows: {len(train):,} for training in batches of {setup.batch_size(train):,}, {validated}",
        f"features: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}",
        f"model: {type(model).__name__} with {type(setup.balancer).__name__}, "
        f"{sum(tables.values()):,} parameters in embedding tables and {dense:,} dense ones",
        *spread_note(setup),
        f"device: {', '.join(where)}, {several if threads > 1 else '1 thread'}, {precision}",
        f"run folder: {setup.run.folder or 'none'}",
        *funnel_note(model),
        *untrained_weights_note(model),
        *model.schema.task_notes,
        *([] if valid is None else setup.few_rows_note(valid)),
        *(warning for warning in warned if warning),
    ]


def spread_note(setup: TrainingSetup) -> list[str]:
    """Return a sentence on the tables that are spread over the processes, or on none where they should be."""
    spread = spread_tables(setup.model).values()
    if not spread:
        why = "there is one process" if setup.processes.size == 1 else f"no table has more than {LARGE:,} elements"
        return [f"tables: none is spread by `shard_tables`, as {why}"] if setup.shard_tables else []
    elements = sum(table.rows * table.width for table in spread)
    shared = counted(setup.processes.size, "process")
    return [f"tables: {elements:,} of these parameters are spread over {shared}"]


def funnel_note(model: RankingModel) -> list[str]:
    """Return a sentence on rates of the funnel that have heads and are reported by what follows from others."""
    schema, heads = model.schema.schema, list(model.heads)
    basis = " and ".join(funnel_basis(schema, heads))
    return [
        f"funnel: {name} has a head of its own, and is reported as it follows from {basis}, so that all rates agree"
        for name in replaced_rates(schema, heads)
    ]


def untrained_weights_note(model: RankingModel) -> list[str]:
    """Return a sentence on each task whose rows have weights of their own, and whose loss the model does not train."""
    trained = [task.name for task in model.objectives]
    return [
        f"task {task.name!r}: {type(model).__name__} has no loss of it, so its `weight_column` counts in metrics alone"
        for task in model.schema.schema.tasks
        if task.weight_column and task.name not in trained
    ]
