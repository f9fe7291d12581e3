"""What a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recmtl.errors import SchemaError
from recmtl.schema.validation import is_number, names, one_of

Kind = Literal["binary", "regression"]
Loss = Literal["bce", "focal", "mse", "mae", "huber"]


@dataclass(frozen=True)
class Task:
    """One thing to predict.

    A row without a label (empty or NaN) does not count for the task; neither does one whose ``given`` is not 1.

    Args:
        name: The name in reports and predictions.
        label: The column with the label: 0 or 1 for a binary task, any number for a regression.
        given: A binary column; only rows where it is 1 count (``click`` for a conversion rate among clicks).
        kind: ``binary`` or ``regression``.
        weight: The factor on the task's loss.
        loss: ``bce`` or ``focal`` for a binary task, ``mse``, ``mae`` or ``huber`` for a regression;
            ``None`` takes the first of these.
        negative_rate: The rate at which negative rows were kept when the data was sampled. Predictions undo it:
            its logarithm is added to the logit, and metrics count a negative row 1 / rate times.
    """

    name: str
    label: str
    given: str | None = None
    kind: Kind = "binary"
    weight: float = 1.0
    loss: Loss | None = None
    negative_rate: float = 1.0

    def __post_init__(self) -> None:
        """Check names, kind, loss, weight and rate."""
        names(self, "name", "label", "given")
        one_of(self, "kind", Kind)
        losses = {"binary": ("bce", "focal"), "regression": ("mse", "mae", "huber")}[self.kind]
        if self.loss is not None and self.loss not in losses:
            raise SchemaError(
                f"Task {self.name!r}: `loss` of a {self.kind} task must be one of {losses}, got {self.loss!r}"
            )
        if not (is_number(self.weight) and self.weight >= 0):
            raise SchemaError(f"Task {self.name!r}: `weight` must be a number from 0, got {self.weight!r}")
        if not (is_number(self.negative_rate) and 0 < self.negative_rate <= 1):
            raise SchemaError(f"Task {self.name!r}: `negative_rate` must be in (0, 1], got {self.negative_rate!r}")
        if self.negative_rate != 1 and self.kind != "binary":
            raise SchemaError(f"Task {self.name!r}: `negative_rate` has no meaning for a regression")


@dataclass(frozen=True)
class Funnel:
    """Two binary labels of which the second happens only after the first: shown, clicked, converted.

    With a funnel every report shows CTR (clicks over all rows), CVR (conversions over clicked rows) and
    CTCVR (conversions over all rows), whichever of them a model predicts directly.

    Args:
        click: The label column of the first step.
        conversion: The label column of the second step.
    """

    click: str
    conversion: str

    def __post_init__(self) -> None:
        """Check the names."""
        names(self, "click", "conversion")
