"""Fixed weights: the losses by hand-set weights."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.constructor_checks import check_length, task_numbers
from recmtl.balance.shared import SharedTensor, Sizes
from recmtl.balance.weighting.base import LossWeightBalancer


class FixedWeights(LossWeightBalancer):
    r"""The sum of the losses with given weights.

    $$
    g = \sum_{k=1}^{K} w_k \, \nabla L_k
    $$

    Use it with weights that a search has found (`recmtl tune`): with the same number of trials as another method, it
    shows what that method gains over weights set by hand.

    Note:
        The weights are taken as given. An optimizer such as Adam takes back a factor that all have in common; with SGD
        it acts as a factor on the learning rate.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, at least 0.

    Args:
        task_weights: A number per task, in the order of the losses, or by name: ``{"ctr": 1.0, "cvr": 4.0}``. A task
            that a mapping does not name has weight 1, and so have all by default.

    Raises:
        ValueError: If a weight is below 0, or none is above, or the losses are others.

    Example:
        >>> import torch
        >>> shared = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> balancer = FixedWeights({"cvr": 0.5})
        >>> balancer.backward({"ctr": shared.sum(), "cvr": 4 * shared[0]}, shared=[shared])
        >>> shared.grad
        tensor([3., 1.])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"task_weights.*": {"low": 0.1, "high": 10.0, "log": True}}
    additive: ClassVar[bool] = True
    factors: Tensor

    def __init__(self, task_weights: Sequence[float] | Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.task_weights: list[float] | dict[str, float] | None = None
        if isinstance(task_weights, Mapping):
            self.task_weights = dict(zip(task_weights, checked([*task_weights.values()]), strict=True))
        elif task_weights is not None:
            self.task_weights = checked(task_weights)
        self.register_buffer("factors", None, persistent=False)

    @property
    def weights(self) -> Tensor | None:
        """The given weights `[K]`."""
        return None if self._sizes is None else self.factors.clone()

    def _build(self, sizes: Sizes) -> None:
        given = self.task_weights
        if isinstance(given, dict):
            for task in given:
                if task not in (self.names or ()):
                    known = f"the tasks {list(self.names)}" if self.names else "losses with names"
                    raise ValueError(f"`task_weights` must hold weights of {known}, got one of {task!r}")
            given = [given.get(name, 1.0) for name in self.names or ()]
        check_length("task_weights", given, sizes.objectives)
        self.factors = torch.tensor(given or [1.0] * sizes.objectives)

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        return self.factors.to(values.dtype)


def checked(task_weights: Sequence[float]) -> list[float]:
    """Return weights as a list of finite numbers of at least 0, of which one is above."""
    numbers = task_numbers("task_weights", task_weights, 0.0)
    if not any(numbers):
        raise ValueError(f"`task_weights` must hold a number above 0, got {numbers}")
    return numbers
