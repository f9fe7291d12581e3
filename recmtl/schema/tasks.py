"""Tasks: what a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recmtl.errors import SchemaError
from recmtl.schema.task_kinds import TASK_KINDS, KindName
from recmtl.schema.validation import check_choice, check_nonempty, is_number

Loss = Literal["bce", "focal", "mse", "mae", "huber"]


@dataclass(frozen=True)
class Task:
    """One prediction target.

    A row whose label is missing (empty or NaN), or whose ``given`` is not 1, does not count for the task.

    Args:
        name: The name in reports and predictions.
        label: The label column: 0 or 1 for a binary task, or between them (a soft label y is a positive of weight y and
            a negative of weight 1 − y), any number for a regression.
        given: A binary column; only rows where it is 1 count (``click`` for a conversion rate among clicks).
        kind: ``binary`` or ``regression``.
        weight: The factor on the task's loss.
        loss: ``bce`` or ``focal`` for a binary task, ``mse``, ``mae`` or ``huber`` for a regression,
            taken on the label standardized by the training rows' mean and deviation; ``None`` takes the first of these.
    """

    name: str
    label: str
    given: str | None = None
    kind: KindName = "binary"
    weight: float = 1.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name", "label", "given")
        check_choice(self, "kind", KindName)
        losses = TASK_KINDS[self.kind].losses
        if self.loss is not None and self.loss not in losses:
            raise SchemaError(
                f"Task {self.name!r}: `loss` of a {self.kind} task must be one of {', '.join(losses)}, "
                f"got {self.loss!r}"
            )
        if not (is_number(self.weight) and self.weight >= 0):
            raise SchemaError(f"Task {self.name!r}: `weight` must be a number of at least 0, got {self.weight!r}")

    @property
    def loss_name(self) -> str:
        """The name of the loss: the given one, or the first of the kind."""
        return self.loss or TASK_KINDS[self.kind].losses[0]
