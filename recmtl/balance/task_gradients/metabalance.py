"""MetaBalance: gradients scaled towards the size of a target task's gradient, part by part."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.ema import bias_corrected
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients


class MetaBalance(TaskGradientBalancer):
    r"""Scaling of each task's gradient towards the size of the target task's gradient, part by part.

    He, Feng, Cheng, Ji, Guo and Caverlee, "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
    Magnitudes of Auxiliary Tasks", WWW 2022, arXiv:2203.06801, algorithm 1 and equation 2. Let m_k,p be the moving
    average (rate β) of ‖G_k,p‖ over the steps in which task k reaches part p. The gradient of part p becomes

    $$
    g_p = \sum_{k=1}^{K} \left[ r\, \frac{m_{\text{target},p}}{m_{k,p}} + (1 - r) \right] G_{k,p}
    $$

    A part that the target task has not reached keeps its plain sum. Private gradients are those of the plain sum.

    Use it if one task matters most and auxiliary tasks drown it, or are drowned by it, on the shared layers.

    Note:
        The averages are divided by 1 − βᵗ, with t counting the updates of each task and part. These factors cancel
        while all counts are equal; without them a task that is first present late would start with a far too large
        weight.

        A task keeps 1 − r of its gradient however large it is: next to a target a thousand times smaller it still
        decides the step. If sizes differ by more than about 1/(1 − r), make the largest task the target, or use r = 1.

        torch-rechub 0.9.0 adds 1e-5 to m_k,p, which shrinks gradients of that size or smaller, the target's too, and
        leaves all parts unbalanced that follow one which no task reaches.

    Shape:
        - losses: K scalars.
        - part_weights: `[K, P]`.

    Args:
        relax_factor: How far the sizes are brought together, r: 0 leaves the plain sum, 1 makes them equal.
        beta: The rate of the averages, β.
        strategy: Which tasks are scaled: `both`, `reduce` (only those larger than the target) or `enlarge` (only those
            smaller).
        target: The task whose gradient the others are compared with, by position or name.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> MetaBalance(relax_factor=0.5).backward([x[0], 4 * x[1]], shared=[x])
        >>> x.grad  # 0.5·1/4 + 0.5 of the second
        tensor([1.0000, 2.5000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {
        "relax_factor": {"low": 0.0, "high": 1.0},
        "strategy": ["both", "reduce", "enlarge"],
    }
    norm: Tensor
    updates: Tensor

    def __init__(
        self,
        relax_factor: float = 0.7,
        beta: float = 0.9,
        strategy: Literal["both", "reduce", "enlarge"] = "both",
        target: int | str = 0,
    ) -> None:
        super().__init__()
        if not 0 <= relax_factor <= 1:
            raise ValueError(f"`relax_factor` must be in [0, 1], got {relax_factor}")
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must be in [0, 1), got {beta}")
        if strategy not in ("both", "reduce", "enlarge"):
            raise ValueError(f"`strategy` must be 'both', 'reduce' or 'enlarge', got {strategy!r}")
        self.relax_factor = relax_factor
        self.beta = beta
        self.strategy = strategy
        self.target = target
        self.register_buffer("norm", None)
        self.register_buffer("updates", None)

    @property
    def weights(self) -> Tensor | None:
        """The mean weight of each task over the parts that it has reached, `[K]`; 1 without such parts."""
        if self._sizes is None:
            return None
        reached = self.updates > 0  # [K, P]
        total = masked(self.part_weights(), reached).sum(1)
        return masked(total / reached.sum(1).clamp(min=1), reached.any(1), 1.0)

    def part_weights(self) -> Tensor:
        """Return the weight of each task's gradient of each part under the current averages, `[K, P]`."""
        norm = bias_corrected(self.norm, self.beta, self.updates)  # [K, P]
        target = norm[self._target_index(len(norm))]  # [P]
        scaled = (norm > 0) & (target > 0)
        if self.strategy == "reduce":
            scaled &= norm > target
        elif self.strategy == "enlarge":
            scaled &= norm < target
        return masked(self.relax_factor * (target / norm) + (1 - self.relax_factor), scaled, 1.0)

    def _build(self, sizes: Sizes) -> None:
        self._target_index(sizes.objectives)
        self.norm = torch.zeros(sizes.objectives, sizes.parts)
        self.updates = torch.zeros(sizes.objectives, sizes.parts, dtype=torch.int64)

    def _weigh(self, measured: TaskGradients) -> Tensor:
        present = measured.norms > 0  # [K, P]
        average = self.beta * self.norm + (1 - self.beta) * measured.norms
        self.norm.copy_(torch.where(present, average, self.norm))
        self.updates += present
        return self.part_weights()

    def _target_index(self, objectives: int) -> int:
        if isinstance(self.target, int):
            if not 0 <= self.target < objectives:
                raise ValueError(f"`target` must be the position of one of {objectives} tasks, got {self.target}")
            return self.target
        if self.names is None:
            raise ValueError(f"`target` is the name '{self.target}', but the losses have no names: pass a mapping")
        if self.target not in self.names:
            raise ValueError(f"`target` must be one of the tasks {list(self.names)}, got '{self.target}'")
        return self.names.index(self.target)
