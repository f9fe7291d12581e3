"""What every balancer is: losses in, gradients out, all state in buffers."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from recmtl.balance.backward import detached, leaves_of
from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup
from recmtl.balance.folding import folded
from recmtl.balance.shared import BackwardInputs, SharedTensor, Sizes


class Balancer(nn.Module, ABC):
    """Turns K losses into gradients; the base of the three families.

    A method belongs to one of `LossWeightBalancer`, `TaskGradientBalancer` and `RepresentationBalancer`, which
    implement `backward` and `fork`. What is left to the method is its state (`_build`) and its mathematics.

    State lives in buffers of at least float32: it is in `state_dict`, follows the model's device, and is not cast
    down by `half()` or `bfloat16()`. It is made by `setup`, or at first use, or by `load_state_dict`.

    A task is *absent* from a step when its loss does not depend on the parameters, or its gradient is exactly zero
    (give a loss of 0 for a task without a valid row in the batch). It contributes nothing and its state stays. A
    task whose loss or gradient is not finite is left out in the same way, and counted in `skipped`. Neither is
    looked up on the host: no step waits for the device.

    Attributes:
        names: The losses' names, or None while they have none.
        head_names: The heads' names, or None while they have none.
        processes: The processes that share each batch; no part of the state. At first this one alone.
        losses: The values of the last step's losses, over all processes, `[K]`; None before the first `backward`.
        skipped: How often each task was left out for not being finite, int64 `[K]` (`[H]` for representation
            methods); None before the state is made.
    """

    depends_on: ClassVar[tuple[str, ...]]
    skipped: Tensor
    sizes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] | None = None
        self.head_names: tuple[str, ...] | None = None
        self.processes: ProcessGroup = SINGLE_PROCESS
        self.losses: Tensor | None = None
        self._checked_private = False
        self._sizes: Sizes | None = None
        self.register_buffer("skipped", None)
        self.register_buffer("sizes", None)
        self.register_load_state_dict_pre_hook(_build_like)  # type: ignore[no-untyped-call]

    def setup(
        self,
        *,
        objectives: int,
        heads: int,
        features: int,
        parts: int,
        names: Sequence[str] | None = None,
        head_names: Sequence[str] | None = None,
    ) -> None:
        """Makes all state, so that optimizers and checkpoints find it. Without it the first step does so.

        Args:
            objectives: The number of losses, K.
            heads: The number of views of the shared representation, H.
            features: The width of a view, D.
            parts: The number of parts of all shared leaves together, P.
            names: The losses' names, in their order.
            head_names: The heads' names, in their order.

        Raises:
            ValueError: If the state was made for other sizes, or the names are not different or not as many.
        """
        self.names = checked_names("names", names, objectives, self.names)
        self.head_names = checked_names("head_names", head_names, heads, self.head_names)
        self._fit(Sizes(objectives, heads, features, parts))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of what `weights` and `skipped` count: losses, or heads for representation methods."""
        return self.names

    def fork(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Stands between trunk and heads; hands the views on as they are, unless the method works on them.

        Args:
            views: One view of the shared representation per head.

        Returns:
            What the heads read.

        Raises:
            ValueError: If one tensor is given: this method does not know the number of heads.

        Shape:
            - views: H tensors `[B, D]`.
            - output: H tensors `[B, D]`.
        """
        if isinstance(views, Tensor):
            raise ValueError(f"`views` must be a sequence with one view per head, got a tensor of {tuple(views.shape)}")
        return tuple(views)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Calls `fork`, so that the balancer can be a submodule of a model."""
        return self.fork(views)

    @torch.no_grad()
    def fold(self, heads: Iterable[nn.Module], features: int) -> list[nn.Module]:
        """Gives copies of the heads that need no fork: what it does to the views is taken into them, for export.

        A linear layer that reads the view takes a rotation in, W ← W·R_k, and nothing is added to the head. In a
        head that does something else with its view a linear layer of its own goes before it.

        Args:
            heads: The modules that read the fork's outputs, in their order; they stay as they are.
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
        widened = any(state.dtype == torch.float64 for state in self.state_dict().values())
        device = None if self._sizes is None else self.skipped.device
        unit = torch.eye(features, dtype=torch.float64 if widened else torch.float32, device=device)
        matrices = self.fork([unit] * len(heads))  # what a linear map makes of the identity is its matrix
        return [
            copy.deepcopy(head) if matrix.equal(unit) else folded(head, matrix)
            for head, matrix in zip(heads, matrices, strict=True)
        ]

    def backward(
        self,
        losses: Sequence[Tensor] | Mapping[str, Tensor],
        shared: Sequence[Tensor | SharedTensor],
        last: Sequence[Tensor] = (),
        private: Iterable[Tensor] = (),
    ) -> None:
        """Adds the balanced gradient to `.grad` of every leaf, shared and private, and frees the graph.

        Where several processes share the batch, each gives its share of the losses (see `ProcessGroup`), and the gradients
        become those of the whole batch, on every process.

        Args:
            losses: K scalars, one per objective; names match a mapping to the order of the names.
            shared: The leaves that more than one objective trains, with their parts. All others are private.
            last: Those of them that come last before the views, for methods that measure there.
            private: All other leaves that are trained, such as the parameters of the heads. Only several processes
                need them, to add their gradients up.

        Raises:
            ValueError: If a loss is no scalar, a shared tensor cannot be balanced, or the sizes are not those that
                the state was made for; or, with several processes, a leaf is neither shared nor private.
            LostRankError: If another process has ended, or did not answer in time.
        """
        leaves = [leaf if isinstance(leaf, SharedTensor) else SharedTensor(leaf) for leaf in shared]
        names, others = self.names, list(private)
        try:
            ordered = self._ordered(losses)
            self._check_private(ordered, leaves, others)
            self.losses = self.processes.sum(detached(ordered))[0]
            self._balance(BackwardInputs(ordered, self.losses, leaves, last, others))
        except BaseException:
            self.names = names  # those of a call that failed do not count
            raise

    @abstractmethod
    def _balance(self, given: BackwardInputs) -> None:
        """What `backward` does, with all that it was given in order."""

    @property
    @abstractmethod
    def weights(self) -> Tensor | None:
        """What each task's gradient is multiplied by, `[K]` and detached; None before there is any state.

        The weights of the next step where a method keeps them, or else those of the last step in which the task was
        present.
        """

    def get_extra_state(self) -> Tensor:
        """The names of losses and heads, as bytes: part of `state_dict`."""
        return torch.tensor(list(json.dumps([self.names, self.head_names]).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the names over where there are none yet.

        Raises:
            RuntimeError: If the state is that of other tasks, or of the same ones in another order.
        """
        names, head_names = (None if found is None else tuple(found) for found in json.loads(bytes(state.tolist())))
        for mine, saved in ((self.names, names), (self.head_names, head_names)):
            if mine is not None and saved is not None and mine != saved:
                raise RuntimeError(f"the state of {type(self).__name__} is for {list(saved)}, not for {list(mine)}")
        self.names, self.head_names = self.names or names, self.head_names or head_names

    def _made_late(self) -> None:
        """Called where the first step makes the state; nothing to say by default."""

    @abstractmethod
    def _build(self, sizes: Sizes) -> None:
        """Registers the method's state; `sizes` holds those named in `depends_on`."""

    def _fit(self, sizes: Sizes) -> None:
        wanted = Sizes(**{name: getattr(sizes, name) for name in self.depends_on})
        if self._sizes is None:
            with torch.inference_mode(False):  # state made in an evaluation will be trained, too
                self._build(wanted)
                self.skipped = torch.zeros(wanted.objectives or wanted.heads, dtype=torch.int64)
                self.sizes = torch.tensor(wanted)
            self._sizes = wanted
        elif self._sizes != wanted:
            raise ValueError(f"{type(self).__name__} was made for {self._sizes}; got {wanted}: use a new balancer")

    def _ready(self, like: Tensor, sizes: Sizes) -> None:
        """Makes the state if there is none, and moves it to the device (and up to the precision) of `like`."""
        training = torch.is_grad_enabled()
        if self._sizes is None and training:
            self._made_late()
        self._fit(sizes)
        with torch.inference_mode(False):  # which allows gradients within
            if self.skipped.device != like.device:
                self.to(like.device)
            if like.dtype == torch.float64 and training:
                self._widen()

    def _widen(self) -> None:
        if any(state.dtype == torch.float32 for state in self.state_dict().values()):
            self.double()

    def _ordered(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
        if isinstance(losses, Mapping):
            if self.names is None:
                as_heads = self.head_names is not None and set(losses) == set(self.head_names)
                self.names = self.head_names if as_heads else tuple(losses)
            assert self.names is not None
            if set(losses) != set(self.names):
                raise ValueError(f"`losses` must be named {sorted(self.names)}, got {sorted(losses)}")
            ordered = [losses[name] for name in self.names]
        else:
            ordered = list(losses)
        if not ordered:
            raise ValueError("`losses` must hold one loss per objective, got none")
        for index, loss in enumerate(ordered):
            if not isinstance(loss, Tensor):
                raise ValueError(f"{self._label(index)} must be a tensor, got {loss!r}: an absent task's is a zero one")
            if loss.dim():
                raise ValueError(f"{self._label(index)} must be a scalar, got shape {tuple(loss.shape)}")
        return ordered

    def _check_private(
        self, losses: Sequence[Tensor], leaves: Sequence[SharedTensor], private: Sequence[Tensor]
    ) -> None:
        """Checks at the first step that no gradient would stay that of one process."""
        if self.processes.size == 1 or self._checked_private:
            return
        known = {id(tensor) for tensor in (*(leaf.tensor for leaf in leaves), *private, *self.parameters())}
        for leaf in leaves_of(losses):
            if leaf.requires_grad and id(leaf) not in known:
                raise ValueError(
                    f"with several processes `private` must name all leaves that are not shared, but one of shape "
                    f"{tuple(leaf.shape)} is missing"
                )
        self._checked_private = True

    def _label(self, index: int) -> str:
        return f"loss {index}" if self.names is None else f"loss '{self.names[index]}'"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_precision(state: Tensor) -> Tensor:
            moved = fn(state)
            return state.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]
        return self


def checked_names(
    what: str, names: Sequence[str] | None, count: int, known: tuple[str, ...] | None = None
) -> tuple[str, ...] | None:
    """The names, if there are so many different ones, and they are those known; those known if none are given."""
    if names is None:
        return known
    if isinstance(names, str) or len(names) != count or len(set(names)) != count:
        raise ValueError(f"`{what}` must be {count} different names, got {names!r}")
    if known is not None and tuple(names) != known:
        raise ValueError(f"`{what}` must be {list(known)}, as they were before, got {list(names)}")
    return tuple(names)


def _build_like(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object) -> None:
    """Makes the state that a saved one needs to be loaded into."""
    assert isinstance(module, Balancer)
    saved = state_dict.get(prefix + "sizes")
    if saved is None:
        return
    if prefix + "_extra_state" in state_dict:
        module.set_extra_state(state_dict[prefix + "_extra_state"])
    if module._sizes is None:
        module._fit(Sizes(*saved.tolist()))
    if any(state.dtype == torch.float64 for name, state in state_dict.items() if name.startswith(prefix)):
        module._widen()
