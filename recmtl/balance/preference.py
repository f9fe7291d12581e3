"""Numbers that a user gives per task, such as a preference."""

import math
from collections.abc import Sequence


def check_vector(name: str, vector: Sequence[float] | None, positive: bool = False, length: int | None = None) -> None:
    """Check that an option is None or holds a finite number per task, `length` of them where that is known."""
    if vector is None:
        return
    numbers = isinstance(vector, Sequence) and not isinstance(vector, str) and len(vector) > 0
    if not numbers or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in vector):
        raise ValueError(f"`{name}` must hold one number per task, got {vector!r}")
    if not all(math.isfinite(x) and (x > 0 or not positive) for x in vector):
        raise ValueError(f"`{name}` must hold {'positive' if positive else 'finite'} numbers, got {vector!r}")
    if length is not None and len(vector) != length:
        raise ValueError(f"`{name}` must hold one number for each of {length} losses, got {len(vector)}")
