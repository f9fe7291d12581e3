"""Confidence levels and quantiles."""

from __future__ import annotations

from scipy import special


def t_quantile(level: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t."""
    return float(special.stdtrit(degrees, (1 + level) / 2))


def check_level(level: float) -> None:
    """Check that a confidence level is in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}")
