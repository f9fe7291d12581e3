"""The form of a state: one from a file, which may be a stranger's, is taken over where it has that of one's own."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

LARGEST = 1 << 62  # an integer


def check_form(found: Any, expected: Any, what: str) -> None:
    """Check that a state has the form of another: its names, types and lengths, and the shapes of its tensors.

    Numbers are finite where those of the other are.

    Args:
        found: The state.
        expected: One of the same form.
        what: What to call it in an error.

    Raises:
        ValueError: It has another form.
    """
    same = type(found) is type(expected)
    if isinstance(expected, Tensor):
        same = isinstance(found, Tensor) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
    elif same and isinstance(expected, dict):
        same = found.keys() == expected.keys()
    elif same and isinstance(expected, list | tuple):
        same = len(found) == len(expected)
    elif same and isinstance(expected, int | float):
        same = abs(found) <= LARGEST or not math.isfinite(expected)
    if not same:
        raise ValueError(f"{what} is {_said(found)}, expected {_said(expected)}")
    if isinstance(expected, dict | list | tuple):
        for name in expected if isinstance(expected, dict) else range(len(expected)):
            check_form(found[name], expected[name], f"{name!r} of {what}")


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {kind} of {len(value)}" if isinstance(value, list | tuple) else f"{kind} {value!r:.40}"
