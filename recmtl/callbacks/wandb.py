"""Records as the history of a run of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.callbacks.fit_result import FitResult
from recmtl.callbacks.records import flatten_numbers, require

if TYPE_CHECKING:
    from wandb import Run


class WandB(Callback):
    """Logs the numbers of all records, and the options, to a run of Weights & Biases (extra ``wandb``).

    Account, server and mode are what its own variables say: `WANDB_API_KEY`, `WANDB_MODE=offline` and the like. A
    training that resumes goes on in the same run, behind the last step that the server has.

    Note: An offline run cannot be read back: if a process was killed, the steps since its last checkpoint stand in
        both offline folders of the run.

    Args:
        project: The project.
        name: The name of the run; ``None`` takes that of the run folder.
        entity: The user or team; ``None`` takes the default one.

    Raises:
        RunError: The package is not installed.
    """

    def __init__(self, project: str = "recmtl", name: str | None = None, entity: str | None = None) -> None:
        require("wandb", self, "wandb")
        self._project, self._name, self._entity = project, name, entity
        self._run: Run | None = None
        self._run_id: str | None = None
        self._logged = 0  # records
        self._first_step = 0  # of those that the run does not have yet
        self._finished = False

    def on_fit_start(self, context: TrainingContext) -> None:
        """Create a run with the options as its configuration, or reopen the one that is resumed."""
        import wandb  # an extra

        if context.step == 0:
            self._run_id, self._logged = None, 0
        self._finished = False
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            name=self._name or (context.folder.name if context.folder else None),
            id=self._run_id,
            resume=None if self._run_id is None else "allow",
            config=dict(context.options),
        )
        self._run_id, self._first_step = self._run.id, self._run.starting_step
        for record in context.records[self._logged :]:
            self.on_record(context, record)

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        """Log the numbers of a record; the records of a step become one row."""
        assert self._run is not None
        if record["step"] >= self._first_step:
            self._run.log(dict(flatten_numbers(record)), step=record["step"])
        self._logged += 1

    def on_fit_end(self, context: TrainingContext, result: FitResult) -> None:
        """Write the best value, and why training was stopped, into the summary."""
        assert self._run is not None
        self._run.summary.update({"monitor": context.monitor, "best": result.best, "stopped": result.stopped})
        self._finished = True

    def close(self) -> None:
        """End the run, as finished or failed."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=0 if self._finished else 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run, and the number of records that it has."""
        return {"run_id": self._run_id, "logged": self._logged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the id of the run to resume."""
        self._run_id, self._logged = state["run_id"], state["logged"]
