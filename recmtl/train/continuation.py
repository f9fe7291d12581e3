"""The states of optimizers that another run starts with: each row of a table that has grown keeps its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from recmtl.features.growth import RowOrigins
from recmtl.features.saved_tables import saved_elements
from recmtl.runs.checkpoint_file import TABLES, check_state_like
from recmtl.runs.folder import OPTIMIZERS
from recmtl.train.optimizers import first_state, load_states
from recmtl.train.options import OptimizerFactory
from recmtl.train.setup import TrainingSetup
from recmtl.train.step import ROW_MODE, Step
from recmtl.train.trained_run import TrainedRun


def load_optimizers(run: TrainedRun, step: Step, setup: TrainingSetup, note: Callable[[str], None]) -> None:
    """Load the states of a run's optimizers; say so if there are none that fit, which then start anew."""
    path = run.folder.checkpoint(OPTIMIZERS)
    if not path.exists():
        note(f"{str(run.folder.path)!r} has no state of its optimizer: it starts anew")
        return
    model = setup.model
    state = run.folder.load_checkpoint(OPTIMIZERS, processes=setup.processes)
    saved, parts = state["optimizers"], state.get(TABLES)
    origins, names = run.origins(model), {id(p): name for name, p in model.named_parameters()}
    for (optimizer, factory), found in zip(step.factories(), saved, strict=False):
        if found["class"] != type(optimizer).__name__:
            note(f"the optimizer is {type(optimizer).__name__}, the run's was {found['class']}: it starts anew")
            continue
        moved: dict[Tensor, dict[str, Any]] = {}
        tables = [rows.table.weight for rows in step.row_optimizers] if optimizer is step.optimizers[0] else []
        try:
            for parameter in (*(p for group in optimizer.param_groups for p in group["params"]), *tables):
                name = names[id(parameter)]
                if state := {**found["state"].get(name, {}), **saved_elements(name, parts)}:
                    moved[parameter] = moved_state(state, parameter, factory, origins.get(name))
        except (ValueError, LookupError) as error:
            note(f"the state of {found['class']} does not fit, and starts anew: {error}")
            continue
        load_states(optimizer, moved)
        for rows in step.row_optimizers:
            if rows.table.weight in moved:
                rows.load_whole(moved[rows.table.weight])


def moved_state(
    state: Mapping[str, Any], parameter: Tensor, factory: OptimizerFactory, origins: RowOrigins | None
) -> dict[str, Any]:
    """Return the state of a parameter that has grown: that of each row moves with it, a new row has a new one."""
    sample = parameter if parameter.numel() <= ROW_MODE else parameter[:2]  # then the optimizer works row by row
    found, expected = {}, {}
    for name, initial in first_state(factory, sample.detach()).items():
        by_row = isinstance(initial, Tensor) and sample.dim() > 0 and initial.shape[:1] == sample.shape[:1]
        expected[name] = initial[:1].expand(len(parameter), *initial.shape[1:]) if by_row else initial
        found[name] = origins.moved(state[name], expected[name].cpu()) if by_row and origins else state[name]
    check_state_like(found, expected, "the state of the optimizer")
    return found
