"""Records as metrics of a run of MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.callbacks.fit_result import FitResult
from recmtl.callbacks.records import flatten_numbers, require

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

UNNAMED = re.compile(r"[^\w\-. /]")  # what names of MLflow's metrics and parameters must not hold
LONGEST = 500  # characters of a parameter's value


class MLflow(Callback):
    """Logs the numbers of all records, and the options, to a run of MLflow (extra ``mlflow``).

    Where it writes is what MLflow's own variables say: `MLFLOW_TRACKING_URI` and the like. In names, signs that MLflow
    refuses become `_`, such as in `ndcg_10`. A training that resumes goes on in the same run: points that are there
    already are not written again, and those that are missing are.

    Args:
        experiment: The experiment, which is created if it does not exist.
        name: The name of the run; ``None`` takes that of the run folder.

    Raises:
        RunError: The package is not installed.
    """

    def __init__(self, experiment: str = "recmtl", name: str | None = None) -> None:
        require("mlflow", self, "mlflow")
        self._experiment, self._name = experiment, name
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._logged: set[tuple[str, int]] = set()  # by name and step, before the training resumed
        self._finished = False

    def on_fit_start(self, context: TrainingContext) -> None:
        """Create a run with the options as its parameters, or reopen the one that is resumed."""
        from mlflow.tracking import MlflowClient  # an extra

        self._client, self._finished, self._logged = MlflowClient(), False, set()
        if context.step == 0 or self._run_id is None:
            self._create(self._client, context)
        else:
            self._client.update_run(self._run_id, status="RUNNING")
            found = self._client.get_run(self._run_id).data.metrics
            self._logged = {
                (name, point.step) for name in found for point in self._client.get_metric_history(self._run_id, name)
            }
        for record in context.records:
            self.on_record(context, record)

    def _create(self, client: MlflowClient, context: TrainingContext) -> None:
        from mlflow.entities import Param  # an extra

        self._run_id = None  # if this fails, an earlier run stays as it ended
        found = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if found is None else found.experiment_id
        name = self._name or (context.folder.name if context.folder else None)
        self._run_id = client.create_run(experiment, run_name=name).info.run_id
        options = {UNNAMED.sub("_", key): str(value)[:LONGEST] for key, value in context.options.items()}
        client.log_batch(self._run_id, params=[Param(key, value) for key, value in options.items()])

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        """Log the numbers of a record."""
        from mlflow.entities import Metric  # an extra

        assert self._client is not None
        assert self._run_id is not None
        now, step = int(time.time() * 1000), record["step"]
        named = {UNNAMED.sub("_", name): value for name, value in flatten_numbers(record)}
        new = [Metric(name, v, now, step) for name, v in named.items() if (name, step) not in self._logged]
        if new:
            self._client.log_batch(self._run_id, metrics=new)

    def on_fit_end(self, context: TrainingContext, result: FitResult) -> None:
        """Set the tags `best` and `stopped`."""
        assert self._client is not None
        assert self._run_id is not None
        for name, value in (("monitor", context.monitor), ("best", result.best), ("stopped", result.stopped)):
            if value is not None:
                self._client.set_tag(self._run_id, f"recmtl.{name}", str(value))
        self._finished = True

    def close(self) -> None:
        """End the run, as finished or killed."""
        client, self._client = self._client, None
        if client is not None and self._run_id is not None:
            client.set_terminated(self._run_id, "FINISHED" if self._finished else "KILLED")

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the id of the run to resume."""
        self._run_id = state["run_id"]
