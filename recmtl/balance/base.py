"""The base of every balancer: losses in, gradients out, all state in buffers."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recmtl.balance.backward import ScaledLosses, is_finite, loss_values
from recmtl.balance.constructor_checks import constructor_options, options_in_json, validated_names
from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup, check_parallel, exchanges
from recmtl.balance.events import TrainingEvents
from recmtl.balance.folding import folded
from recmtl.balance.penalty import penalty_value
from recmtl.balance.row_exchange import check_exchanges, check_leaves, poison_nonfinite_rows
from recmtl.balance.shared import (
    BackwardInputs,
    SharedTensor,
    Sizes,
    as_shared_tensors,
    check_losses,
    listed_tensors,
    ordered_losses,
    validated_views,
)


class Balancer(ScaledLosses, TrainingEvents, ABC):
    """The base class of all balancers: turns K losses into gradients.

    A method extends one of the three families, `LossWeightBalancer`, `TaskGradientBalancer` and
    `RepresentationBalancer`, which implement `backward` and `fork`. The method itself registers its state in `_build`
    and adds its mathematics.

    State lives in buffers of at least float32: it is part of `state_dict`, follows the model's device, and is not cast
    down by `half()` or `bfloat16()`. It is created by `setup`, by the first step or by `load_state_dict`.

    A task is *absent* from a step if its loss does not depend on the parameters, or its gradient is exactly zero; use a
    loss of 0 for a task without valid rows in the batch. It contributes nothing, and its state stays. A task whose loss
    or gradient is not finite is left out in the same way, and counted in `skipped`. No step waits for the device.

    Losses that are scaled by a `GradScaler`, or divided for accumulation, are balanced exactly if the balancer knows
    the `scaler` and `loss_scale`. With a scaler no task is left out: the scaler skips the step, and the state stays.

    Attributes:
        names: The losses' names; None before they are known.
        head_names: The heads' names; None before they are known.
        regression_names: The names of the losses of regressions; the trainer sets them.
        processes: The processes that share each batch, at first this one alone; not part of the state.
        losses: The values of the last step's losses over all processes, `[K]`; None before the first `backward`.
        penalty: That of its penalty, `[]`; None without one.
        skipped: How often each task was left out because it was not finite, int64 `[K]` (`[H]` for representation
            methods); None before the state is created.
    """

    depends_on: ClassVar[tuple[str, ...]]
    search_space: ClassVar[Mapping[str, Any]] = {}  # what `recmtl tune` tries of the options, if it is not told
    additive: ClassVar[bool] = False  # whether the gradients of parts of a batch add up to those of the whole
    skipped: Tensor
    sizes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] | None = None
        self.head_names: tuple[str, ...] | None = None
        self.regression_names: tuple[str, ...] = ()
        self.processes: ProcessGroup = SINGLE_PROCESS
        self.losses: Tensor | None = None
        self.penalty: Tensor | None = None
        self._checked_leaves = False
        self._heads = 0  # of the last fork
        self._sizes: Sizes | None = None
        self.register_buffer("skipped", None)
        self.register_buffer("sizes", None)
        self.register_load_state_dict_pre_hook(_build_from_state)  # type: ignore[no-untyped-call]

    def setup(
        self,
        *,
        objectives: int,
        heads: int,
        features: int,
        parts: int,
        names: Sequence[str] | None = None,
        head_names: Sequence[str] | None = None,
        elements: int | None = None,
    ) -> None:
        """Create all state, so that optimizers and checkpoints find it; without this call the first step does.

        Args:
            objectives: The number of losses, K.
            heads: The number of views of the shared representation, H.
            features: The width of a view, D.
            parts: The number of parts of all shared tensors together, P.
            names: The losses' names, in their order.
            head_names: The heads' names, in their order.
            elements: Σ `SharedTensor.elements`; without it the first step creates the state of a method that needs it.

        Raises:
            ValueError: If the state was created for other sizes, or there are not as many different names.
        """
        self.names = validated_names("names", names, objectives, self.names)
        self.head_names = validated_names("head_names", head_names, heads, self.head_names)
        if elements is not None or "elements" not in self.depends_on:
            self._ensure_state(Sizes(objectives, heads, features, parts, elements or 0))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names for `weights` and `skipped`: those of the losses, or of the heads for representation methods."""
        return self.names

    def fork(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what the heads read of the views, one per head: the views themselves, unless the method changes them.

        Raises:
            ValueError: If `views` is no sequence of tensors. One tensor does not tell the number of heads.

        Shape:
            - views: H tensors `[B, D]`.
            - output: H tensors `[B, D]`.
        """
        self._check_parallel()
        found = validated_views(views)
        self._heads = len(found)
        return found

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Call `fork`."""
        return self.fork(views)

    @torch.no_grad()
    def fold(self, heads: Iterable[nn.Module], features: int) -> list[nn.Module]:
        """Return copies of the heads for export that need no fork.

        A rotation becomes part of the linear layer that reads the view, W ← W·R_k. If a head uses its view in another
        way, a linear layer is put before it.

        Args:
            heads: The modules that read the fork's outputs, in their order.
            features: The width of a view, D.

        Shape:
            - heads: H modules, each from `[B, D]` to one tensor.

        Example:
            >>> import torch
            >>> from recmtl.balance import RotoGrad
            >>> balancer, heads = RotoGrad(heads=2, features=3), [nn.Linear(3, 1), nn.Linear(3, 1)]
            >>> z = torch.ones(4, 3)
            >>> views, folded = balancer.fork([z, z]), balancer.fold(heads, features=3)
            >>> all(torch.allclose(f(z), h(v)) for f, h, v in zip(folded, heads, views))
            True
        """
        heads = list(heads)
        return [
            copy.deepcopy(head) if matrix is None else folded(head, matrix)
            for head, matrix in zip(heads, self._view_matrices(len(heads), features), strict=True)
        ]

    def changes_views(self, heads: int, features: int) -> bool:
        """Return whether a head of H reads something else than its view of D features, which `fold` would take in."""
        return self._sizes is not None and any(m is not None for m in self._view_matrices(heads, features))

    @torch.no_grad()
    def _view_matrices(self, heads: int, features: int) -> list[Tensor | None]:
        """Return the matrix by which each view is multiplied, None for the identity."""
        wide = any(state.dtype == torch.float64 for state in self.state_dict().values())
        device = None if self._sizes is None else self.skipped.device
        unit = torch.eye(features, dtype=torch.float64 if wide else torch.float32, device=device)
        return [None if m.equal(unit) else m for m in self.fork([unit] * heads)]  # a linear map of 1 is its matrix

    def backward(
        self,
        losses: Sequence[Tensor] | Mapping[str, Tensor],
        shared: Sequence[Tensor | SharedTensor],
        last: Sequence[Tensor] = (),
        private: Iterable[Tensor | SharedTensor] = (),
        penalty: Tensor | None = None,
    ) -> None:
        """Add the balanced gradient to `.grad` of every leaf, shared and private, and free the graph.

        If several processes share the batch, each passes its part of the losses (see `ProcessGroup`), and the gradients
        become those of the whole batch in every process.

        Args:
            losses: K scalars, one per objective; a mapping is ordered by its names.
            shared: The leaves that more than one objective trains, with their parts. All others are private.
            last: Those of them that come last before the views, for methods that measure there.
            private: All other trained leaves, such as the heads' parameters. Only several processes need them, to sum
                their gradients; `SharedTensor(rows, exchanged=…)` for rows that are spread over them.
            penalty: A scalar that is minimised beside the losses, outside balancing, and scaled as they are: its
                gradient is added as it is. It costs methods other than loss weights a backward pass. One that is not
                finite is left out as a loss is, unless there is a scaler, which then skips the step.

        Raises:
            ValueError: If a loss is not a scalar, a shared tensor cannot be balanced, or the state was created for
                other sizes; or, with several processes, if a leaf is neither shared nor private.
            LostRankError: If another process has ended, or did not answer in time.
        """
        names, tensors = self.names, as_shared_tensors(shared)
        last, others = listed_tensors("last", last), as_shared_tensors(private, "private")
        try:
            ordered = self._in_order(losses)
            if any(shared.tensor.dtype == torch.float64 for shared in tensors):
                ordered = [loss.double() for loss in ordered]  # an autocast or a loss of one's own may narrow them
            for index, tensor in enumerate(tensors):
                tensor.check(f"shared tensor {index}")
            self._check_leaves(ordered, [*tensors, *others])
            self._check_parallel()
            self._warn_of_scaled(ordered)
            values = loss_values(ordered)
            scale = self._scale_on(values.device)
            self.losses = self.processes.sum(values if scale is None else values / scale)[0]
            self.penalty = None if penalty is None else penalty_value(penalty, self.processes, scale)
            self._balance(BackwardInputs(ordered, self.losses, tensors, last, others, penalty))
            if self._guarded:
                poison_nonfinite_rows([*tensors, *others], self.processes)
        except BaseException:
            self.names = names  # a failed call leaves no names
            raise

    @abstractmethod
    def _balance(self, inputs: BackwardInputs) -> None:
        """Add the balanced gradients; what `backward` does once its arguments are checked."""

    @property
    @abstractmethod
    def weights(self) -> Tensor | None:
        """The weight of each task's gradient, `[K]` and detached; None before the state is created.

        The weights of the next step if the method keeps them, else those of the last step in which the task was
        present.
        """

    def get_extra_state(self) -> Tensor:
        """Return the names of losses and heads, the class and its options as bytes, for `state_dict`."""
        content = {"class": class_name(type(self)), "names": self.names, "head_names": self.head_names}
        return torch.tensor(list(json.dumps(content | {"options": options_in_json(self)}).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Load the names; those that are known must be the same. The options stay those of the constructor.

        Raises:
            RuntimeError: If the state is that of another method, of other tasks, or of these tasks in another order.
        """
        content = json.loads(bytes(state.tolist()))
        if content["class"].rpartition(".")[2] != type(self).__name__:  # a module may be imported by another name
            raise RuntimeError(f"expected the state of {class_name(type(self))}, got that of {content['class']}")
        names, head_names = (content[key] and tuple(content[key]) for key in ("names", "head_names"))
        for own, saved in ((self.names, names), (self.head_names, head_names)):
            if own is not None and saved is not None and own != saved:
                raise RuntimeError(f"expected the state of {type(self).__name__} for {list(own)}, got {list(saved)}")
        self.names, self.head_names = self.names or names, self.head_names or head_names

    def extra_repr(self) -> str:
        """Return the constructor's options."""
        return ", ".join(f"{name}={value!r}" for name, value in constructor_options(self).items())

    def _warn_if_late(self) -> None:
        """Warn that the first step creates the state, if that is a problem for the method."""

    @abstractmethod
    def _build(self, sizes: Sizes) -> None:
        """Register the method's state; `sizes` holds the sizes named in `depends_on`."""

    def _ensure_state(self, sizes: Sizes) -> None:
        wanted = Sizes(**{name: getattr(sizes, name) for name in self.depends_on})
        if self._sizes is None:
            with torch.inference_mode(False):  # state created in an evaluation may be trained later
                self._build(wanted)
                self.skipped = torch.zeros(wanted.objectives or wanted.heads, dtype=torch.int64)
                self.sizes = torch.tensor(wanted)
            self._sizes = wanted
        elif self._sizes != wanted:
            raise ValueError(f"{type(self).__name__} was made for {self._sizes}; got {wanted}: use a new balancer")

    def _prepare(self, like: Tensor, sizes: Sizes) -> None:
        """Create the state if there is none, and move it to the device (and up to the precision) of `like`."""
        training = torch.is_grad_enabled()
        if self._sizes is None and training:
            self._warn_if_late()
        self._ensure_state(sizes)
        with torch.inference_mode(False):  # also allows gradients
            if self.skipped.device != like.device:
                self.to(like.device)
            if like.dtype == torch.float64 and training:
                self._widen()
        if training:
            self._keep_state()

    def _widen(self) -> None:
        if any(state.dtype == torch.float32 for state in self.state_dict().values()):
            self.double()

    def _in_order(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
        ordered, self.names = ordered_losses(losses, self.names, self.head_names)
        check_losses(ordered, self.names, self._heads)
        return ordered

    def _check_leaves(self, losses: Sequence[Tensor], leaves: Sequence[SharedTensor]) -> None:
        """Check at the first step that the gradient of every leaf will be that of all processes."""
        if exchanges(leaves):
            check_exchanges(leaves, self.processes)
        if self.processes.size > 1 and not self._checked_leaves:
            check_leaves(losses, [*leaves, *map(SharedTensor, self.parameters())])
            self._checked_leaves = True

    def _check_parallel(self) -> None:
        if torch.is_grad_enabled() and self.training:
            check_parallel(self, self.processes, self.additive)

    def _finite(self, values: Tensor) -> Tensor:
        """Return which tasks have a finite loss, bool `[K]`; all tasks if a scaler looks for what is not finite."""
        return torch.ones_like(values, dtype=torch.bool) if self._guarded else is_finite(values)


def class_name(cls: type) -> str:
    """Return the name by which `imported_balancer` finds a class: that of the export, or else the full name."""
    return cls.__name__ if cls.__module__.startswith("recmtl.balance.") else f"{cls.__module__}.{cls.__qualname__}"


def _build_from_state(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object) -> None:
    """Create the state that a saved one is loaded into."""
    assert isinstance(module, Balancer)
    if module._loss_scale is not None:
        module._loss_scale.forget()
    saved = state_dict.get(prefix + "sizes")
    if saved is None:
        return
    if prefix + "_extra_state" in state_dict:
        module.set_extra_state(state_dict[prefix + "_extra_state"])
    sizes = Sizes(*saved.tolist())
    if module._sizes not in (None, sizes):
        raise RuntimeError(f"{type(module).__name__} was made for {module._sizes}; the state is for {sizes}")
    module._ensure_state(sizes)
    if any(state.dtype == torch.float64 for name, state in state_dict.items() if name.startswith(prefix)):
        module._widen()
