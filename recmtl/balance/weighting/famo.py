"""FAMO: loss weights from how much each loss fell in the last step."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, loss_values, masked, on_host
from recmtl.balance.constructor_checks import check_rate
from recmtl.balance.shared import SharedTensor, Sizes
from recmtl.balance.task_adam import TaskAdam
from recmtl.balance.weighting.base import LossValueBalancer, present_softmax

MOVED = (
    "FAMO compares the losses of a batch before and after each step, and the weights have moved since the last "
    "`backward`: call `after_step(losses)` with the same batch's losses after `optimizer.step()`"
)


class FAMO(LossValueBalancer):
    r"""Fast adaptive multitask optimization: all losses fall at the same rate, measured on the batch of each step.

    Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, arXiv:2306.03792, algorithm 1.
    With z = softmax(ξ), the model descends Σ w_k·L_k,

    $$
    w_k = c\, \frac{z_k}{L_k}, \qquad c = \left( \sum_{j=1}^{K} \frac{z_j}{L_j} \right)^{-1}
    $$

    a step along Σ z_k·∇log L_k. After it the losses L'_k of the same batch tell how much each one fell:

    $$
    \xi \leftarrow \xi - \beta\, (\delta + \gamma\, \xi), \qquad
    \delta_k = z_k \left( \log \frac{L_k}{L'_k} - \sum_{j=1}^{K} z_j \log \frac{L_j}{L'_j} \right)
    $$

    so that a task which fell less than the others gets a larger weight.

    Use it if the losses differ in scale and no task may fall behind, and a pass per task is too slow. It costs one
    backward pass and **a second forward pass of the batch** without gradients, after the optimizer's step.

    Note:
        The trainer computes the losses again. A loop of your own calls `after_step(losses)` after `optimizer.step()`,
        with the losses of the last `backward`'s batch under the new weights; a `backward` after the weights have moved
        without it is an error. If several backward passes accumulate, those are the losses of the last one's batch.
        Dropout draws anew in the second pass, which makes the comparison noisy; batch norms use the batch again, and
        their running statistics stay.

        On a GPU it is the device that finds out whether a fused optimizer has moved the weights: the process must then
        be started again, as after every failed assertion there.

        ξ follows an Adam of its own with an L2 penalty γ, as in the authors' code, where algorithm 1 has a plain step.

        A loss below 0 has no logarithm: it is left out of the step and counted in `skipped`.

    Shape:
        - losses: K scalars, positive.
        - weights: `[K]`, positive, with sum 1.

    Args:
        lr: The learning rate of ξ, β.
        decay: The pull of ξ towards 0, γ.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: By `backward`, if the weights have moved since the last one, but `after_step` was not called.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> balancer, optimizer = FAMO(), torch.optim.SGD([x], lr=0.1)
        >>> balancer.backward([x[0], 4 * x[1]], shared=[x])
        >>> x.grad  # of log x₀ and log x₁ alike, times c = 1.6
        tensor([0.8000, 0.8000])
        >>> optimizer.step()
        >>> balancer.after_step([x[0], 4 * x[1]])
    """

    needs_losses_after_step: ClassVar[bool] = True
    before: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {
        "lr": {"low": 0.0025, "high": 0.25, "log": True},
        "decay": {"low": 0.0001, "high": 0.1, "log": True},
    }

    def __init__(self, lr: float = 0.025, decay: float = 0.01) -> None:
        super().__init__()
        check_rate(lr)
        if not 0 <= decay < torch.inf:
            raise ValueError(f"`decay` must be at least 0, got {decay}")
        self.lr = lr
        self.decay = decay
        self.adam: TaskAdam | None = None
        self.register_buffer("before", None)
        self._forget()

    def _forget(self, *_: object) -> None:
        """Expect any weights in the next step."""
        # The version of each shared tensor, while the losses after the step are awaited, and the sum of the last one.
        self._versions: list[tuple[weakref.ref[Tensor], int]] = []
        self._total: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: it is another model's, whose weights are expected anywhere."""
        return self.__dict__ | {"_versions": [], "_total": None}

    def _load_from_state_dict(self, *given: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*given)

    def _build(self, sizes: Sizes) -> None:
        super()._build(sizes)
        self.adam = TaskAdam(sizes.objectives, self.lr, self.decay)
        self.before = torch.zeros(sizes.objectives)  # the losses of the last backward pass; 0 once they were compared

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        self._check_unmoved([one.tensor for one in shared if one.tensor.requires_grad])
        return super()._weigh(losses, values, shared, last)

    def _check_unmoved(self, trained: Sequence[Tensor]) -> None:
        """Check that the weights stand where they stood in the last pass, unless the losses after the step were told.

        Fused optimizers write without a new version, so that one tensor's sum is compared as well.
        """
        total = trained[-1].detach().sum() if trained else None
        own = {id(tensor) for tensor in trained}
        found = [(seen(), version) for seen, version in self._versions]
        before = [(tensor, version) for tensor, version in found if tensor is not None and id(tensor) in own]
        moved = any(tensor._version != version for tensor, version in before)
        if total is not None and self._total is not None and any(tensor is trained[-1] for tensor, _ in before):
            if on_host(total):
                moved = moved or bool(total != self._total)
            else:
                torch._assert_async(total == self._total, MOVED)
        if moved:
            raise RuntimeError(MOVED)
        self._versions, self._total = [(weakref.ref(tensor), tensor._version) for tensor in trained], total

    def _weights_of(self, values: Tensor, present: Tensor) -> Tensor:
        assert self.adam is not None
        self.skipped += values < 0
        compared = present & (values > 0)
        shares = masked(present_softmax(self.adam.values, compared) / values, compared)
        self.before.copy_(masked(values, compared))
        return shares / shares.sum()

    def _compare(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        if self.adam is None:
            raise RuntimeError("`after_step` takes the losses of the last `backward`, and there was none")
        values = self.processes.sum(loss_values(self._in_order(losses)))[0]
        with self._between_steps():
            present = (self.before > 0) & (values > 0) & is_finite(values)
            fell = masked(log_ratio(self.before, values), present)
            shares = present_softmax(self.adam.values, present)  # z
            self.adam.step(masked(shares * (fell - (shares * fell).sum()), present), present)
            self.before.zero_()
        self._forget()


def log_ratio(first: Tensor, second: Tensor) -> Tensor:
    """Return log(first / second) of positive numbers; if they are near to each other, without rounding logarithms."""
    difference = first - second
    near = difference.abs() < torch.minimum(first, second)
    return torch.where(near, (difference / second).log1p(), first.log() - second.log())
