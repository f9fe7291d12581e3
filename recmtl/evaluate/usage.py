"""How much of a mixture's experts its tasks use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEAD = 0.1  # of an even share


def unused_experts(shares: Sequence[float]) -> list[int]:
    """Give the experts that one gate hardly takes: those whose mean weight is below a tenth of an even share."""
    return [expert for expert, share in enumerate(shares) if share < DEAD / len(shares)]


def dead_experts(usage: Mapping[str, Sequence[float]]) -> list[int]:
    """Give the dead experts: those that no gate takes.

    Args:
        usage: By task the mean gate weight of each expert.
    """
    unused = [set(unused_experts(shares)) for shares in usage.values()]
    return sorted(set.intersection(*unused)) if unused else []
