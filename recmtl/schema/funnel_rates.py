"""Rates of a funnel that agree, from those that are predicted: one computation for numpy and torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from recmtl.schema.funnel import Funnel
from recmtl.schema.schema import Schema
from recmtl.schema.tasks import Task

Array = TypeVar("Array")  # of numpy or torch
Node = str | None  # a label, or None: all rows
ROUNDING = 1e-12  # of a rate: what is above another by that was not lowered


def funnel_basis(schema: Schema, predicted: Collection[str]) -> tuple[str, ...]:
    """Return the predicted rates of the funnel that all others follow from, while none of them follows from the rest.

    Conditional rates come first: a joint rate that is predicted beside the rates whose product it is does not belong to
    the basis. Each step has at most one rate in it.

    Args:
        schema: The schema.
        predicted: The names of the tasks that are predicted; those that are no rate of the funnel are passed over.

    Example:
        >>> from recmtl.schema import Funnel, Numeric
        >>> schema = Schema([Numeric("x")], [Task("ctr", "click")], funnel=Funnel("click", "buy"))
        >>> funnel_basis(schema, ["ctr", "cvr", "ctcvr"]), funnel_basis(schema, ["ctcvr", "ctr"])
        (('ctr', 'cvr'), ('ctr', 'ctcvr'))
    """
    return tuple(task.name for task in _basis(schema, predicted)[0])


def replaced_rates(schema: Schema, predicted: Collection[str]) -> tuple[str, ...]:
    """Return the predicted rates of the funnel that are replaced by what follows from its `funnel_basis`."""
    basis = funnel_basis(schema, predicted)
    return tuple(t.name for t in schema.funnel_tasks if t.name in predicted and t.name not in basis)


def conditional_rates(schema: Schema, predicted: Mapping[str, Array], xp: Any) -> dict[str, Array]:
    """Return predictions whose rates of the funnel are the basis of all that follow from those predicted.

    Of a step whose joint rate and that of the step before are known it is the conditional rate, whichever was
    predicted: each rate can then be changed, such as calibrated, on its own rows, and all others follow from them.

    Args:
        schema: The schema.
        predicted: Probabilities by task, `consistent_rates` of which are taken.
        xp: The module of the arrays, `numpy` or `torch`.

    Example:
        >>> import numpy as np
        >>> from recmtl.schema import Funnel, Numeric
        >>> schema = Schema([Numeric("x")], [Task("ctr", "click")], funnel=Funnel("click", "buy"))
        >>> conditional_rates(schema, {"ctr": np.array([0.5]), "ctcvr": np.array([0.25])}, np)
        {'ctr': array([0.5]), 'cvr': array([0.5])}
    """
    found, _ = consistent_rates(schema, predicted, xp)
    replaced = replaced_rates(schema, found)
    return {name: values for name, values in found.items() if name not in replaced}


def consistent_rates(
    schema: Schema, predicted: Mapping[str, Array], xp: Any
) -> tuple[dict[str, Array], dict[str, Any]]:
    r"""Return predictions in which the rates of the funnel agree, with those that follow from the predicted ones.

    Steps are nodes below a node of all rows; a rate is an edge from its condition down to its label, and the
    `funnel_basis` is a spanning forest of the predicted edges. With $J = 1$ of all rows, each of its edges gives

    $$
    J_\text{label} = J_\text{given} \cdot p, \qquad \text{or upward} \qquad J_\text{given} = J_\text{label} / p,
    $$

    and every rate is $J_\text{label} / J_\text{given}$, or 0 where that is 0 / 0. No $J$ may be above that of a step
    before it: where predictions contradict the order, that of the later step is lowered.

    Shape:
        - predicted, rates: ``{task: [rows]}``
        - lowered: bool ``{task: [rows]}``

    Args:
        schema: The schema.
        predicted: Probabilities by task; tasks that are no rate of the funnel are returned as they are.
        xp: The module of the arrays, `numpy` or `torch`.

    Returns:
        The predictions, those of the funnel first; and of the rates of steps of which no conditional rate is in the
        basis, the rows in which they were lowered.
    """
    basis, tops = _basis(schema, predicted)
    if schema.funnel is None or not basis:
        return dict(predicted), {}
    raw, joint = _joint_rates(schema.funnel, basis, tops, predicted, xp)
    certain = {task.label for task in basis if task.given == schema.funnel.parents[task.label]}
    found, lowered = dict[str, Any](), dict[str, Any]()
    for task in schema.funnel_tasks:
        if tops[task.given] != tops[task.label]:
            continue
        one, both = joint[task.given], joint[task.label]
        if task.given is None:
            found[task.name] = both
        else:
            found[task.name] = _ratio(both, one, xp)
            if task in basis:  # as it was predicted, to the last bit
                own: Any = predicted[task.name]
                found[task.name] = xp.where(abs(both - one * own) <= ROUNDING * both, own, found[task.name])
        if task.label not in certain:
            lowered[task.name] = raw[task.label] > both * (1 + ROUNDING)
    return found | {name: value for name, value in predicted.items() if name not in found}, lowered


def _basis(schema: Schema, predicted: Collection[str]) -> tuple[list[Task], dict[Node, Node]]:
    """Return a spanning forest of the predicted rates, and of each node the highest of its tree (Kruskal)."""
    if schema.funnel is None:
        return [], {}
    nodes, parents = (None, *schema.funnel.labels), schema.funnel.parents
    tops: dict[Node, Node] = {node: node for node in nodes}
    edges = [task for task in schema.funnel_tasks if task.name in predicted]
    basis = []
    for task in sorted(edges, key=lambda task: task.given != parents[task.label]):
        one, other = sorted((tops[task.given], tops[task.label]), key=nodes.index)
        if one != other:
            tops = {node: one if top == other else top for node, top in tops.items()}
            basis.append(task)
    return [task for task in edges if task in basis], tops


def _joint_rates(
    funnel: Funnel, basis: Sequence[Task], tops: Mapping[Node, Node], predicted: Mapping[str, Any], xp: Any
) -> tuple[dict[Node, Any], dict[Node, Any]]:
    """Return J of each node, relative to the highest of its tree: as predicted, and lowered to those above it."""
    whole = xp.ones_like(predicted[basis[0].name])
    raw: dict[Node, Any] = {node: whole for node, top in tops.items() if node == top}
    for task in _walk(basis, set(raw)):
        if task.label not in raw:
            raw[task.label] = raw[task.given] * predicted[task.name]
        else:
            raw[task.given] = _ratio(raw[task.label], predicted[task.name], xp)
    joint: dict[Node, Any] = {}
    for node, value in ((node, raw[node]) for node in tops):  # each behind those above it
        above = [n for n in (*funnel.ancestors(node), None) if node is not None and tops[n] == tops[node]]
        limits = [joint[n] for n in above[:1]]
        limits += [joint[task.given] * predicted[task.name] for task in basis if task.label == node]
        for limit in limits:
            value = xp.minimum(value, limit)
        joint[node] = value
    return raw, joint


def _walk(basis: Sequence[Task], known: set[Node]) -> Iterator[Task]:
    """Yield the edges of a forest so that each has one end that is known, from its highest nodes or earlier edges."""
    left = list(basis)
    while left:
        task = next(task for task in left if (task.given in known) != (task.label in known))
        left.remove(task)
        known |= {task.given, task.label}
        yield task


def _ratio(part: Any, whole: Any, xp: Any) -> Any:
    """Return part / whole, 0 where the whole is 0, and at most 2: what is above 1 will be lowered to 1 or less."""
    return xp.where(whole == 0, 0.0, xp.minimum(part, 2 * whole) / xp.where(whole == 0, 1.0, whole))
