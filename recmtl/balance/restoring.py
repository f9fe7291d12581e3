"""Balancers built from a saved state, for models that have none."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from recmtl.balance.base import Balancer, class_name


def balancer_of_state(state_dict: Mapping[str, Any], prefix: str) -> Balancer:
    """Construct the balancer whose state a `state_dict` holds under a prefix; the state is still to be loaded.

    Raises:
        RuntimeError: If its class is not imported, or the state does not hold what its constructor needs.
    """
    content = json.loads(bytes(state_dict[prefix + "_extra_state"].tolist()))
    name, options = content["class"], content["options"]
    cls = imported_balancer(name)
    reason = "its class is not imported" if cls is None else "its options cannot be saved"
    if cls is not None and options is not None:
        try:
            balancer: Balancer = cls(**options)
            return balancer
        except (TypeError, ValueError) as error:
            reason = str(error)
    raise RuntimeError(
        f"the state is that of {name}, which cannot be built from it ({reason}): set `model.fork` before"
    )


def imported_balancer(name: str) -> type[Balancer] | None:
    """Return the imported balancer of a name; None if there is none. Nothing is imported for it."""
    found = (cls for cls in _subclasses(Balancer) if class_name(cls) == name and not inspect.isabstract(cls))
    return next(found, None)


def _subclasses(base: type) -> Iterator[type[Balancer]]:
    subclasses: list[type[Any]] = base.__subclasses__()
    for cls in reversed(subclasses):  # of two with one name, the newer one
        yield cls
        yield from _subclasses(cls)
