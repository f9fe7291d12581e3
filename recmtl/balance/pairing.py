"""Which loss belongs to which head: by their names, else by the graph."""

from collections.abc import Sequence, Set

from torch import Tensor, nn


def heads_reached(loss: Tensor, balancer: nn.Module) -> set[int]:
    """Return the heads of a balancer's fork that a loss depends on."""
    heads: set[int] = set()
    seen = set()
    edges = [(loss.grad_fn, loss.output_nr)]
    while edges:
        node, output = edges.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "balancer", None) is balancer:
            heads.add(output)
            continue
        seen.add(node)
        edges += node.next_functions
    return heads


def loss_of_head(reached: Sequence[Set[int]]) -> list[int] | None:
    """Return the loss of each head, if only one assignment fits the heads that each of as many losses reaches.

    Losses that reach no head, such as those of absent tasks, get the heads that are left.

    Example:
        >>> loss_of_head([{1}, {0, 1}])  # loss 0 can only be that of head 1
        [1, 0]
        >>> loss_of_head([{0, 1}, {0, 1}]) is None
        True
    """
    open_losses = {loss: set(heads) for loss, heads in enumerate(reached) if heads}
    found: dict[int, int] = {}
    while open_losses:
        loss = next((loss for loss, heads in open_losses.items() if len(heads) == 1), None)
        if loss is None:
            return None
        (head,) = open_losses.pop(loss)
        found[head] = loss
        for heads in open_losses.values():
            heads.discard(head)
    absent = iter(loss for loss, heads in enumerate(reached) if not heads)
    return [found[head] if head in found else next(absent) for head in range(len(reached))]


def paired_by_name(names: Sequence[str], head_names: Sequence[str]) -> list[int]:
    """Return the loss of each head by their names; by their order if losses are named otherwise than heads."""
    if set(names) != set(head_names):
        return list(range(len(names)))
    return [list(names).index(name) for name in head_names]
