"""The protocol of callbacks, and what they see of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmtl.callbacks.fit_result import FitResult
from recmtl.data import Rows
from recmtl.evaluate import Metrics
from recmtl.models import RankingModel


@dataclass(frozen=True)
class TrainingContext:
    """What a callback sees of a training, and what it may ask for.

    Args:
        model: The model; in `on_evaluation` with the weights that were measured.
        options: What the result depends on, by name: rows, model, balancer and the options of training.
        folder: The run folder; ``None`` if there is none.
        epoch: The epoch of the last step, counted from 1; 0 before the first.
        epochs: The maximum number of epochs.
        step: The steps done. In `on_fit_start` it is 0 for a new training, more for one that resumes.
        steps: The steps of all epochs.
        monitor: The name of the metric that decides which weights are best.
        higher_is_better: Whether higher values of it are better.
        value: Its value in the last evaluation; ``None`` if it was undefined, also for one monitored task as its
            predictions are not finite, or before the first.
        best: Its best value so far; ``None`` if it was never defined so.
        records: What was logged so far, one mapping per line of `metrics.jsonl`.
        measure: Measures prepared rows, such as those of another day, with the model as it is: its metrics by task.
        log: Logs numbers of your own by name, nested as you like, to `metrics.jsonl` and all loggers; one that is not
            finite is null there. Not to be called in `on_record`.
        stop: Ends the training after the current step; the reason is shown. The best weights are loaded, as always.
    """

    model: RankingModel
    options: Mapping[str, Any]
    folder: Path | None
    epoch: int
    epochs: int
    step: int
    steps: int
    monitor: str
    higher_is_better: bool
    value: float | None
    best: float | None
    records: Sequence[Mapping[str, Any]]
    measure: Callable[[Rows], Mapping[str, Metrics]]
    log: Callable[[Mapping[str, Any]], None]
    stop: Callable[[str], None]


class Callback:
    """Called while a model trains; override the methods that you need, the others do nothing.

    Of several processes the first alone calls callbacks; if one asks to stop, all do. One that raises ends the training
    with a `CallbackError` after the current step; the state of the training is in the run folder by then.

    Example:
        >>> import recmtl
        >>> class StopAbove(recmtl.Callback):
        ...     def __init__(self, value: float) -> None:
        ...         self.value = value
        ...     def on_evaluation(self, context, metrics):
        ...         if context.best is not None and context.best > self.value:
        ...             context.stop(f"{context.monitor} is above {self.value}")
        >>> StopAbove(0.8).value
        0.8
    """

    def on_fit_start(self, context: TrainingContext) -> None:
        """Handle the start of a training, before its first step, and after `load_state_dict` if it resumes."""

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        """Handle a line of `metrics.jsonl`: losses, weights and learning rate every `log_every` steps, or metrics.

        It has `step`, `epoch`, and one of the keys of `trainer.history`, such as `loss`, `valid` or `diagnosis`.
        """

    def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Metrics]) -> None:
        """Handle the metrics of the validation rows by task."""

    def on_epoch_end(self, context: TrainingContext) -> None:
        """Handle the last step of an epoch, after its evaluation."""

    def on_checkpoint(self, context: TrainingContext) -> None:
        """Handle a checkpoint that was written."""

    def on_fit_end(self, context: TrainingContext, result: FitResult) -> None:
        """Handle the end of a training that was not interrupted, with the best weights in the model."""

    def close(self) -> None:
        """Release what `on_fit_start` opened, at the end of any training, also one that was interrupted or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the callback: numbers, text, lists, mappings and tensors.

        It is called before the checkpoint is written: what was buffered must be on disk when it returns.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, before a training resumes."""
