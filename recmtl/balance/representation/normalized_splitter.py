"""NormalizedSplitter: each task's gradient at the views scaled to its share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor

from recmtl.balance.backward import masked, zeros_if_none
from recmtl.balance.constructor_checks import validated_names
from recmtl.balance.counter_generator import RandomOrders
from recmtl.balance.ema import bias_corrected
from recmtl.balance.representation.base import RepresentationBalancer
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.projection import coefficients_in_order


class NormalizedSplitter(RepresentationBalancer):
    r"""A fork that scales each task's gradient h_k to the same average size, times the task's share.

    Bellec, "A simple multi-task splitter" (2023), after the loss balancer of Défossez, Copet, Synnaeve and Adi, "High
    Fidelity Neural Audio Compression", 2022, arXiv:2210.13438, equation 5:

    $$
    h_k \leftarrow \frac{s_k}{\sqrt{\hat{v}_k}}\, h_k, \qquad \hat{v}_k = \frac{v_k}{1 - \beta^t}
    $$

    Here v_k is the moving average (rate β) of the squared size of h_k, and s_k the task's weight over the sum of
    weights. A task whose gradient is exactly zero updates neither v_k nor t.

    The forward pass is the identity. It works anywhere in a graph and under any backward pass; called with one tensor
    and named tasks, it returns a dict of views.

    Use it if losses differ in scale and you want to set each task's share of the shared layers by hand; it costs next
    to nothing.

    Note:
        Losses are means over a task's n_k valid rows, so h_k contains 1/n_k. With `batch_scale` the size is that of
        n_k·h_k per valid row, where n_k counts the rows whose h_k is not zero: the shared gradient then depends
        neither on the batch size nor on the number of valid rows. Without it the squares are averaged over all rows, as
        published. All rows of a step are projected in the same random order, drawn as in `PCGrad`.

    Shape:
        - views: H tensors `[B, ...]`, or one.
        - weights: `[H]`.

    Attributes:
        orders: `orders(H)` returns the orders of the next step's projection, a permutation of all tasks per row.

    Args:
        tasks: The tasks' names, one per head; with them `splitter(x)` returns a dict, and the state exists at once.
        task_weights: The weight of each task, in the order of the heads or by name; equal by default.
        beta: The rate of the averages, β.
        projection: Whether each row's gradient loses, in random order, the components that conflict with other tasks':
            `none`, `before` or `after` the normalisation (`PCGrad`: Yu et al., NeurIPS 2020).
        batch_scale: Whether sizes are per valid row, independent of the batch size.
        seed: The seed of the projection's orders, below 2³².

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> splitter = NormalizedSplitter(tasks=["ctr", "cvr"])
        >>> z = torch.ones(4, 3, requires_grad=True)
        >>> views = splitter(z)
        >>> (views["ctr"].mean() + 1000 * views["cvr"].mean()).backward()
        >>> z.grad[0] * 4  # two tasks with half of the unit size each, at any scale of their losses
        tensor([0.5774, 0.5774, 0.5774])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"beta": [0.9, 0.99, 0.999], "projection": ["none", "before", "after"]}
    task_weights: Tensor
    square: Tensor
    updates: Tensor

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        task_weights: Sequence[float] | Mapping[str, float] | None = None,
        beta: float = 0.999,
        projection: Literal["none", "before", "after"] = "none",
        batch_scale: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must be in [0, 1), got {beta}")
        if projection not in ("none", "before", "after"):
            raise ValueError(f"`projection` must be 'none', 'before' or 'after', got {projection!r}")
        self.beta = beta
        self.projection = projection
        self.batch_scale = batch_scale
        self.orders = RandomOrders(seed)
        if tasks is not None:
            self.head_names = validated_names("tasks", tasks, len(tasks))
        self._initial_weights = task_weights
        for name in ("task_weights", "square", "updates"):
            self.register_buffer(name, None)
        if self.head_names is not None:
            self._ensure_state(Sizes(heads=len(self.head_names)))

    @overload
    def forward(self, views: Tensor) -> dict[str, Tensor]: ...
    @overload
    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]: ...
    def forward(self, views: Tensor | Sequence[Tensor]) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Call `fork`; for one tensor, return a view of it per task by name.

        Args:
            views: One tensor of any shape with the batch first, or one view per head.

        Raises:
            ValueError: If `views` is one tensor and the tasks have no names.
        """
        if not isinstance(views, Tensor):
            return self.fork(views)
        if self.head_names is None:
            raise ValueError("splitting one tensor by name needs `tasks`: NormalizedSplitter(tasks=['ctr', 'cvr'])")
        return dict(zip(self.head_names, self.fork(views), strict=True))

    @property
    def weights(self) -> Tensor | None:
        """The factor of each task's gradient, s_k/√v̂_k; 0 for a task without a gradient so far."""
        return None if self._sizes is None else self._scales(self.updates > 0)

    def set_task_weights(self, task_weights: Sequence[float] | Mapping[str, float]) -> None:
        """Set the tasks' weights, in the order of the heads or by name, from the next step on.

        Raises:
            ValueError: If there is not one weight per task, or they are negative or all 0.
        """
        if self._sizes is None:
            self._initial_weights = task_weights
        else:
            self.task_weights.copy_(torch.tensor(self._weight_list(task_weights, self._sizes.heads)))

    def _build(self, sizes: Sizes) -> None:
        weights = [1.0] * sizes.heads if self._initial_weights is None else self._initial_weights
        self.task_weights = torch.tensor(self._weight_list(weights, sizes.heads))
        self.square = torch.zeros(sizes.heads)
        self.updates = torch.zeros(sizes.heads, dtype=torch.int64)

    def _weight_list(self, by_head: Sequence[float] | Mapping[str, float], heads: int) -> list[float]:
        if isinstance(by_head, Mapping):
            names = self.labels
            if names is None:
                raise ValueError("`task_weights` by name need the heads' names in their order: pass `tasks`, too")
            if set(by_head) != set(names):
                raise ValueError(f"`task_weights` must name the heads {list(names)}, got {list(by_head)}")
            by_head = [by_head[name] for name in names]
        weights = [float(weight) for weight in by_head]
        if len(weights) != heads or not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError(f"`task_weights` must be {heads} numbers of at least 0, not all 0, got {weights}")
        return weights

    def _check_views(self, views: Sequence[Tensor]) -> None:
        super()._check_views(views)
        if self.projection != "none" and any(view.shape != views[0].shape for view in views):
            raise ValueError(f"views must share one shape to be projected, got {[tuple(view.shape) for view in views]}")

    def _backward_views(
        self, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        h = [
            None if gradient is None else _flat_rows(gradient).to(self.square.dtype) for gradient in gradients
        ]  # [B, n]
        lengths = self._lengths(h)  # [B] each
        valid = torch.stack([length.count_nonzero() for length in lengths])  # [H]
        broken = torch.stack([~length.isfinite().all() for length in lengths])  # [H]
        rows = torch.stack([torch.full((), 0 if x is None else len(x), device=valid.device) for x in h])  # [H]
        valid, broken, rows, sums = self.processes.sum(valid, broken, rows, _sums_of_squares(lengths))
        finite = broken == 0
        if self.projection == "before":
            h = self._projected(h, finite)
            (sums,) = self.processes.sum(_sums_of_squares(self._lengths(h)))
        self.skipped += ~finite
        # q: the mean square of n·h over the n valid rows, or of h over all rows of its view
        present = self._average((sums * valid if self.batch_scale else sums / rows.clamp(min=1)).to(self.square.dtype))
        scales = self._scales(present)  # [H]
        h = [None if x is None else (x * scale).nan_to_num_(0.0, 0.0, 0.0) for x, scale in zip(h, scales, strict=True)]
        if self.projection == "after":
            h = self._projected(h, finite)
        if self.projection != "none":
            self.orders.advance((finite & (valid > 0)).any())
        pairs = zip(h, gradients, strict=True)
        return [None if x is None or gradient is None else x.view(gradient.shape) for x, gradient in pairs], []

    def _projected(self, h: Sequence[Tensor | None], finite: Tensor) -> list[Tensor | None]:
        """Project each row of each h_k, in order, on the original rows of the tasks that it conflicts with."""
        stacked = masked(torch.stack(zeros_if_none(h), 1), finite[:, None])  # [B, H, n]
        coefficients = coefficients_in_order(stacked @ stacked.mT, self.orders(len(h)))  # [B, H, H]
        projected = (coefficients @ stacked).unbind(1)
        return [None if x is None else result for x, result in zip(h, projected, strict=True)]

    def _lengths(self, h: Sequence[Tensor | None]) -> list[Tensor]:
        zero = self.square.new_zeros(1)
        return [zero if x is None else torch.linalg.vector_norm(x, dim=1) for x in h]

    def _average(self, sizes: Tensor) -> Tensor:
        """Update the averages of present tasks, and return which are present, bool `[H]`."""
        present = sizes.isfinite() & (sizes > 0)
        average = self.beta * self.square + (1 - self.beta) * sizes
        self.square.copy_(torch.where(present, average, self.square))
        self.updates += present
        return present

    def _scales(self, present: Tensor) -> Tensor:
        square = bias_corrected(self.square, self.beta, self.updates)
        shares = self.task_weights / self.task_weights.sum()
        return masked(shares / square.sqrt(), present)


def _sums_of_squares(lengths: Sequence[Tensor]) -> Tensor:
    return torch.stack([length.double().square().sum() for length in lengths])  # [H]


def _flat_rows(gradient: Tensor) -> Tensor:
    return gradient.flatten(1) if gradient.dim() > 1 else gradient.unsqueeze(1)
