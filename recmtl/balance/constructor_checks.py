"""What constructors and `setup` are given: checks, and the options as they are saved."""

import inspect
import json
import math
from collections.abc import Sequence
from typing import Any

from torch import nn


def check_rate(lr: float) -> None:
    """Check a learning rate."""
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"`lr` must be positive, got {lr}")


def check_integer(name: str, value: int, least: int) -> None:
    """Check that an option is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")


def task_numbers(name: str, given: Any, least: float = -math.inf, above: bool = False) -> list[float]:
    """Return an option that holds a finite number per task as a list.

    Args:
        name: The option.
        given: A sequence, an array or a tensor.
        least: What every number must be at least.
        above: Whether each must be above that.

    Raises:
        ValueError: It holds something else.
    """
    listed = given.tolist() if hasattr(given, "tolist") else given
    sequence = isinstance(listed, Sequence) and not isinstance(listed, str) and len(listed) > 0
    if not sequence or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in listed):
        raise ValueError(f"`{name}` must hold one number per task, got {given!r}")
    numbers = [float(x) for x in listed]
    if not all(math.isfinite(x) and (x > least or (x == least and not above)) for x in numbers):
        wanted = "finite" if least == -math.inf else f"{'above' if above else 'at least'} {least:g}"
        raise ValueError(f"`{name}` must hold numbers that are {wanted}, got {numbers}")
    return numbers


def check_length(name: str, numbers: Sequence[float] | None, tasks: int) -> None:
    """Check that an option, where it is given, holds a number for each of so many tasks."""
    if numbers is not None and len(numbers) != tasks:
        raise ValueError(f"`{name}` must hold one number for each of {tasks} tasks, got {len(numbers)}")


def validated_names(
    argument: str, names: Sequence[str] | None, count: int, known: tuple[str, ...] | None = None
) -> tuple[str, ...] | None:
    """Return the names if they are `count` different ones and agree with those known; without names, those known."""
    if names is None:
        return known
    if isinstance(names, str) or len(names) != count or len(set(names)) != count:
        raise ValueError(f"`{argument}` must be {count} different names, got {names!r}")
    if known is not None and tuple(names) != known:
        raise ValueError(f"`{argument}` must be {list(known)}, as before, got {list(names)}")
    return tuple(names)


def constructor_options(module: nn.Module) -> dict[str, Any]:
    """Return the options of the constructor, as far as they are attributes and neither state nor modules."""
    options = {name: getattr(module, name, module) for name in inspect.signature(type(module)).parameters}
    return {k: v for k, v in options.items() if k not in module._buffers and not isinstance(v, nn.Module)}


def options_in_json(module: nn.Module) -> dict[str, Any] | None:
    """Return the options of the constructor if they are the same after JSON, else None."""
    options = constructor_options(module)
    try:
        return options if json.loads(json.dumps(options)) == options else None
    except (TypeError, ValueError):
        return None
