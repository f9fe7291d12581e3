"""What a calibrator is: a function from predicted to calibrated probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]


class Calibrator(ABC):
    """Maps predicted probabilities to calibrated ones. Subclasses are frozen dataclasses of plain numbers.

    Attributes:
        kinds: The kinds of tasks that it calibrates.
        fewest: The positives, and the negatives, from which on it can be fitted: (Σ w)² / Σ w² of those with weights.
    """

    kinds: ClassVar[tuple[str, ...]] = ("binary",)
    fewest: ClassVar[int]

    @classmethod
    @abstractmethod
    def fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        """Fit on rows.

        Args:
            predictions: Probabilities ``[rows]``, or of classes ``[rows, C]``.
            labels: Labels in [0, 1], or the numbers of classes ``[rows]``.
            weight: Weights above 0 ``[rows]``.

        Raises:
            ValueError: The predictions fall where labels rise, so that their order would be reversed.
        """

    @abstractmethod
    def __call__(self, predictions: Tensor) -> Tensor:
        """Return calibrated probabilities, of the form of the given ones, in float64."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted numbers as plain data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]
