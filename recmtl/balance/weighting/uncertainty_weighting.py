"""Uncertainty weighting: loss weights from a learned noise of each task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.shared import Sizes
from recmtl.balance.weighting.base import LearnedWeightBalancer


class UncertaintyWeighting(LearnedWeightBalancer):
    r"""Loss weights from a learned noise of each task, its homoscedastic uncertainty.

    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
    CVPR 2018, arXiv:1705.07115, equations 7 and 10, with s_k = log σ_k². Model and noise descend

    $$
    \sum_{k=1}^{K} \left( c_k\, e^{-s_k} L_k + \frac{s_k}{2} \right), \qquad w_k = c_k\, e^{-s_k}, \qquad
    c_k = \begin{cases} 1/2 & \text{regression} \\ 1 & \text{classification} \end{cases}
    $$

    The derivative of s_k is 1/2 − w_k·L_k: at its optimum all weighted losses w_k·L_k are 1/2, whatever the losses'
    scales.

    Use it if the losses differ in scale, such as those of regressions in different units. It costs one backward pass.

    Note:
        The noise has an Adam of its own, in place of the model's optimizer and its weight decay, and is a buffer. The
        model's step uses the weights from before their update. LibMTL takes every task for a regression, and writes
        ½·(e^{−s}·L + s).

        No noise explains a loss below 0, such as the negative log-likelihood of a density: it is left out of the step
        and counted in `skipped`.

    Shape:
        - losses: K scalars, positive.
        - weights: `[K]`, positive.

    Args:
        regressions: The names of the losses of regressions, or their positions; by default those in
            `regression_names`, which the trainer sets, as it knows its tasks; none without a trainer.
        lr: The learning rate of the noise's own Adam.

    Raises:
        ValueError: If `regressions` names no loss, or `lr` is not positive.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> balancer = UncertaintyWeighting(regressions=[1])
        >>> balancer.backward([x[0], x[1]], shared=[x])
        >>> x.grad
        tensor([1.0000, 0.5000])
    """

    constants: Tensor

    def __init__(self, regressions: Sequence[str | int] | None = None, lr: float = 0.025) -> None:
        super().__init__(lr)
        listed = regressions is None or (isinstance(regressions, Sequence) and not isinstance(regressions, str))
        if not listed or any(isinstance(task, bool) for task in regressions or ()):
            raise ValueError(f"`regressions` must be a list of names or positions, got {regressions!r}")
        self.regressions = None if regressions is None else list(regressions)
        self.register_buffer("constants", None)

    def _build(self, sizes: Sizes) -> None:
        super()._build(sizes)
        self.constants = torch.ones(sizes.objectives)
        for task in self.regression_names if self.regressions is None else self.regressions:
            self.constants[self._position(task, sizes.objectives)] = 0.5

    def _position(self, task: str | int, objectives: int) -> int:
        if isinstance(task, str) and self.names is not None and task in self.names:
            return self.names.index(task)
        if isinstance(task, int) and 0 <= task < objectives:
            return task
        known = f"one of {list(self.names)}" if self.names else f"positions of {objectives} losses without names"
        raise ValueError(f"`regressions` must hold {known}, got {task!r}")

    def _weights_of(self, numbers: Tensor) -> Tensor:
        return self.constants * (-numbers).exp()

    def _slope(self, weights: Tensor, values: Tensor) -> Tensor:
        return 0.5 - weights * values
