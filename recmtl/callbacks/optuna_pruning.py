"""Pruning by Optuna: trainings that fall behind others end early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.evaluate import Metrics
from recmtl.io.display import decimal

if TYPE_CHECKING:
    from optuna.trial import Trial


class OptunaPruning(Callback):
    """Reports the monitored metric to a trial of Optuna after each evaluation, and stops if its pruner says so.

    The study must maximize the metric, or minimize it if lower values are better. Steps of the trial are evaluations,
    counted from 1: they compare trials whose batches differ in size. An undefined value is not reported.

    Args:
        trial: The trial, or what has its `report` and `should_prune`.

    Attributes:
        pruned: Whether the pruner stopped the training; raise `optuna.TrialPruned` then.

    Example:
        >>> import optuna, recmtl
        >>> study = optuna.create_study(direction="maximize")
        >>> recmtl.OptunaPruning(study.ask()).pruned
        False
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._evaluations = 0
        self.pruned = False

    def on_fit_start(self, context: TrainingContext) -> None:
        """Start to count, unless the training resumes."""
        if context.step == 0:
            self._evaluations, self.pruned = 0, False

    def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Metrics]) -> None:
        """Report the monitored metric, and ask whether to go on."""
        self._evaluations += 1
        if context.value is None:
            return
        self._trial.report(context.value, self._evaluations)
        if self._trial.should_prune():
            self.pruned = True
            context.stop(f"pruned after evaluation {self._evaluations} with {context.monitor} {decimal(context.value)}")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of evaluations, and whether the trial was pruned."""
        return {"evaluations": self._evaluations, "pruned": self.pruned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._evaluations, self.pruned = state["evaluations"], state["pruned"]
