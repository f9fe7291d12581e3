"""Shared tensors and their parts, and the inputs of a balancer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recmtl.balance.backward import as_real, constant_factor, on_host

CHUNK = 1 << 18  # elements of all gradients that a CPU multiplies at a time: what its cache holds


class SharedTensor(NamedTuple):
    """A tensor that several tasks train, and the parts that a balancer treats as tensors of their own.

    Experts may be stacked in one wide weight, and the tables of several features in one; a method that works tensor by
    tensor still sees each expert and each feature by itself. A plain tensor is one part.

    Attributes:
        tensor: A leaf of the graph, of any shape.
        parts: The number of parts.
        part_of_row: The part of each row of dimension 0, int64 `[rows]`; None for `parts` equal chunks of it.
        bounds: The first row of each part, and the number of rows, int64 `[parts + 1]`, if parts are blocks of rows.
        exchanged: What `exchange_rows` made of the tensor, if that is this process's part of rows that are spread over
            several processes; `parts` are then the same in each process.

    Example:
        >>> import torch
        >>> experts = torch.zeros(4 * 16, 32, requires_grad=True)  # the first layers of four experts in one weight
        >>> SharedTensor(experts, parts=4).norms(torch.ones(4 * 16, 32)).shape
        torch.Size([4])
    """

    tensor: Tensor
    parts: int = 1
    part_of_row: Tensor | None = None
    bounds: Tensor | None = None
    exchanged: Tensor | None = None

    def check(self, name: str) -> None:
        """Check that the tensor is a leaf and splits into its parts; `name` is its name in the message."""
        shape, rows = tuple(self.tensor.shape), self.part_of_row
        if not self.tensor.is_leaf:
            raise ValueError(f"{name} must be a leaf of the graph, got the output of {self.tensor.grad_fn}")
        if self.parts < 1:
            raise ValueError(f"{name} must have at least 1 part, got {self.parts}")
        if rows is None and self.parts > 1 and (not shape or shape[0] % self.parts):
            raise ValueError(f"{name} must split into {self.parts} equal parts, got shape {shape}")
        if rows is not None and (not shape or rows.shape != shape[:1]):
            raise ValueError(f"`part_of_row` of {name} must have shape {shape[:1]}, got {tuple(rows.shape)}")
        if self.exchanged is not None and rows is None and self.parts > 1:
            raise ValueError(f"{name} has exchanged rows and {self.parts} parts, expected `part_of_row` beside them")
        if self.bounds is not None and (rows is None or self.bounds.shape != (self.parts + 1,)):
            expected = f"shape {(self.parts + 1,)}, beside `part_of_row`"
            raise ValueError(f"`bounds` of {name} must have {expected}, got {tuple(self.bounds.shape)}")

    @property
    def elements(self) -> int:
        """The numbers for which a method can keep state; 0 for rows, as a step may gather other ones."""
        return as_real(self.tensor).numel() if self.part_of_row is None and self.exchanged is None else 0

    def norms(self, gradient: Tensor | None) -> Tensor:
        """Return the norm of each part of a gradient, `[parts]` of at least float32; zeros for None."""
        if gradient is None:
            return self._zeros()
        norms = torch.linalg.vector_norm(self._flat_blocks(gradient), dim=1, dtype=self._dtype)  # [blocks]
        return norms if self.part_of_row is None else self._per_part(norms.square()).sqrt()

    def products(self, a: Tensor | None, b: Tensor | None) -> Tensor:
        """Return the inner product of each part of two gradients, `[parts]` of at least float32; zeros for None."""
        if a is None or b is None:
            return self._zeros()
        return self._per_part((self._flat_blocks(a).to(self._dtype) * self._flat_blocks(b)).sum(1))

    def gram(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the inner products of K gradients by part, `[parts, K, K]`, as `products` of all pairs.

        Gradients are copied side by side for one product per part; on a CPU a few elements at a time, in its cache.
        """
        tasks, found = len(gradients), [self._flat_blocks(g) for g in gradients if g is not None]
        gram = self._zeros().new_zeros(self.parts, tasks, tasks)
        if not found:
            return gram
        each, absent = iter(found), found[0].new_zeros(()).expand_as(found[0])
        blocks = [absent if g is None else next(each) for g in gradients]  # K of [blocks, elements]
        rows, width = absent.shape
        limit = CHUNK // tasks if on_host(gram) else rows * width
        if self.part_of_row is None:
            for columns in _slices(0, width, limit // rows):
                beside = torch.stack([b[:, columns] for b in blocks], 1).to(self._dtype)  # [parts, K, columns]
                gram.baddbmm_(beside, beside.mT)
        elif self.bounds is not None and on_host(gram):
            for part, (first, end) in enumerate(pairwise(self.bounds.tolist())):
                for some in _slices(first, end, limit // width):
                    beside = torch.stack([b[some].flatten() for b in blocks]).to(self._dtype)  # [K, elements]
                    gram[part].addmm_(beside, beside.mT)
        else:
            for some in _slices(0, rows, limit // width):
                beside = torch.stack([b[some] for b in blocks], 1).to(self._dtype)  # [rows, K, elements]
                gram += self.sums(beside @ beside.mT, some)
        return gram

    def add_weighted(self, gradients: Sequence[Tensor | None], weights: Tensor) -> None:
        """Add Σ_k w_k·G_k to `.grad`, for K gradients and weights `[K, parts]`; may write into the gradients."""
        if self.part_of_row is not None:
            weights = weights.index_select(1, self.part_of_row)  # [K, parts] -> [K, rows]
        for weight, gradient in zip(weights.to(self.tensor.dtype).unbind(), gradients, strict=True):
            if gradient is None:
                continue
            blocks = self._blocks(gradient)
            weight = weight.view(-1, *[1] * (blocks.dim() - 1))  # [blocks, 1, ...]
            if self.tensor.grad is None:
                blocks.mul_(weight)
                self.tensor.grad = gradient
            else:
                self._blocks(self.tensor.grad).addcmul_(blocks, weight)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.tensor.dtype.to_real(), torch.float32)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.parts, dtype=self._dtype, device=self.tensor.device)

    def _blocks(self, gradient: Tensor) -> Tensor:
        """Return a view whose dimension 0 runs over the parts; over the rows, if these have a part each."""
        if gradient.dim() == 0:
            return gradient.unsqueeze(0)
        if self.part_of_row is not None:
            return gradient
        return gradient.view(self.parts, gradient.shape[0] // self.parts, *gradient.shape[1:])

    def _flat_blocks(self, gradient: Tensor) -> Tensor:
        blocks = as_real(self._blocks(gradient))
        return blocks.flatten(1) if blocks.dim() > 1 else blocks.unsqueeze(1)  # [blocks, elements]

    def _per_part(self, per_block: Tensor) -> Tensor:
        return per_block if self.part_of_row is None else self.sums(per_block)

    def sums(self, per_row: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the sums by part of what each row has, `[rows, …]` to `[parts, …]`, for a tensor with `part_of_row`.

        On a GPU the result is the same in each run: every part is summed by itself, without atomic additions. Only a
        CPU can sum some of the `rows`.
        """
        assert self.part_of_row is not None
        if on_host(per_row):
            return per_row.new_zeros(self.parts, *per_row.shape[1:]).index_add_(0, self.part_of_row[rows], per_row)
        bounds = self.bounds
        if bounds is None:
            ordered, order = self.part_of_row.sort(stable=True)  # [rows]
            bounds = torch.searchsorted(ordered, torch.arange(self.parts + 1, device=ordered.device))
            per_row = per_row.index_select(0, order)
        return torch.segment_reduce(per_row, "sum", offsets=bounds, unsafe=True)  # the safe form waits for the device


def _slices(first: int, end: int, size: int) -> Iterator[slice]:
    """Cut a range into slices of at most `size`, which is raised to 1."""
    step = max(size, 1)
    return (slice(start, min(start + step, end)) for start in range(first, end, step))


class Measured(NamedTuple):
    """A shared tensor with each task's gradient of it; or several tensors that are taken for one.

    Attributes:
        shared: The tensor.
        gradients: Each task's gradient of it, None if the task does not reach it.
        merged: The tensors whose parts are those of `shared`, in order; empty for a tensor by itself.
    """

    shared: SharedTensor
    gradients: Sequence[Tensor | None]
    merged: Sequence[Tensor] = ()

    def add_weighted(self, weights: Tensor) -> None:
        """Add Σ_k w_k·G_k to `.grad`, with weights `[K, parts]`; may write into the gradients."""
        self.shared.add_weighted(self.gradients, weights)
        if not self.merged:
            return
        total = self.shared.tensor.grad
        assert total is not None
        parts = torch.split(total.flatten(), [tensor.numel() for tensor in self.merged])
        for tensor, part in zip(self.merged, parts, strict=True):
            part = part.view(tensor.shape)
            tensor.grad = part if tensor.grad is None else tensor.grad.add_(part)


def validated_views(views: object) -> tuple[Tensor, ...]:
    """Return the views if they are a sequence of tensors, one per head."""
    expected = "`views` must be a sequence with one view per head"
    if isinstance(views, Tensor):
        raise ValueError(f"{expected}, got a tensor of {tuple(views.shape)}")
    if not isinstance(views, Iterable) or isinstance(views, str | Mapping):
        raise ValueError(f"{expected}, got {f'a {type(views).__name__}' if views is not None else None}")
    found = tuple(views)
    for index, view in enumerate(found):
        if not isinstance(view, Tensor):
            raise ValueError(f"view {index} must be a tensor, got {view!r}")
    return found


def listed_losses(losses: object) -> list[Tensor]:
    """Return the losses in a list if they are a sequence or a mapping of scalars, one per objective."""
    expected = "`losses` must hold one loss per objective, in a list or by name"
    if isinstance(losses, Tensor) and losses.dim() == 0:
        raise ValueError(f"{expected}, got one scalar: pass the losses themselves, not their sum")
    if not isinstance(losses, Iterable) or isinstance(losses, str):
        raise ValueError(f"{expected}, got {losses!r}")
    return list(losses.values() if isinstance(losses, Mapping) else losses)


def ordered_losses(
    losses: Sequence[Tensor] | Mapping[str, Tensor], names: tuple[str, ...] | None, head_names: tuple[str, ...] | None
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """Return the losses in the order of their names, and these names; those of a first mapping may be the heads'."""
    if not isinstance(losses, Mapping):
        return listed_losses(losses), names
    if names is None:
        as_heads = head_names is not None and set(losses) == set(head_names)
        names = head_names if as_heads else tuple(losses)
    assert names is not None
    if set(losses) != set(names):
        raise ValueError(f"`losses` must be named {sorted(names)}, got {sorted(losses)}")
    return [losses[name] for name in names], names


def check_losses(losses: Sequence[object], names: Sequence[str] | None, heads: int = 0) -> None:
    """Check that there are losses, that they are real scalars, and that none is the sum of those of several heads."""
    if not losses:
        raise ValueError("`losses` must hold one loss per objective, got none")
    for index, loss in enumerate(losses):
        label = f"loss {index}" if names is None else f"loss '{names[index]}'"
        if not isinstance(loss, Tensor):
            raise ValueError(f"{label} must be a tensor, got {loss!r}: use torch.zeros(()) for an absent task")
        if loss.dim():
            raise ValueError(f"{label} must be a scalar, got shape {tuple(loss.shape)}")
        if loss.is_complex():
            raise ValueError(f"{label} must be a real number, got {loss.dtype}")
        if heads > 1 and len(losses) == 1 and _is_sum(loss):
            raise ValueError(
                f"`losses` must hold one loss per objective, got one sum for {heads} heads: pass the losses themselves"
            )


def _is_sum(loss: Tensor) -> bool:
    """Return whether a loss is `a + b`, `sum(losses)` or `torch.stack(losses).sum()`, perhaps times a number."""
    node: Any = loss.grad_fn
    while node is not None and constant_factor(node) is not None:
        node = next((following for following, _ in node.next_functions if following is not None), None)
    reached = [following for following, _ in getattr(node, "next_functions", ()) if following is not None]
    if node is None or node.name() not in ("SumBackward0", "MeanBackward0"):
        return node is not None and node.name() == "AddBackward0" and len(reached) > 1
    return any(following.name() == "StackBackward0" for following in reached)


def as_shared_tensors(tensors: Iterable[Tensor | SharedTensor], argument: str = "shared") -> list[SharedTensor]:
    """Return plain tensors as shared tensors of one part."""
    return [t if isinstance(t, SharedTensor) else SharedTensor(t) for t in _listed(argument, tensors, SharedTensor)]


def listed_tensors(argument: str, tensors: object) -> list[Tensor]:
    """Return the tensors of an argument if they are a sequence of tensors."""
    return _listed(argument, tensors)


def _listed(argument: str, tensors: object, *others: type) -> list[Any]:
    if isinstance(tensors, nn.Module) and not isinstance(tensors, nn.ParameterList):
        kind = type(tensors).__name__
        raise ValueError(f"`{argument}` must hold tensors, got the module {kind}: pass `list(module.parameters())`")
    if isinstance(tensors, Tensor | str | Mapping) or not isinstance(tensors, Iterable):
        raise ValueError(f"`{argument}` must be a list of tensors, got a {type(tensors).__name__}")
    found = list(tensors)
    for item in found:
        if not isinstance(item, (Tensor, *others)):
            hint = ": pass `list(module.parameters())`" if isinstance(item, nn.Module | tuple) else ""
            raise ValueError(f"`{argument}` must hold tensors, got a {type(item).__name__}{hint}")
    return found


def shared_tensors(*modules: nn.Module) -> list[SharedTensor]:
    """Collect the parameters of modules as shared tensors, each once.

    A module that knows its parts, such as a feature encoder or experts, has a method `shared_tensors`, which is used
    at any depth.

    Example:
        >>> [tuple(shared.tensor.shape) for shared in shared_tensors(nn.Linear(3, 2))]
        [(2, 3), (2,)]
    """
    found = (shared for module in modules for shared in _collect(module))
    return list({id(shared.tensor): shared for shared in found}.values())


def _collect(module: nn.Module) -> Iterator[SharedTensor]:
    own = getattr(module, "shared_tensors", None)
    if callable(own):
        yield from own()
        return
    yield from map(SharedTensor, module.parameters(recurse=False))
    for child in module.children():
        yield from _collect(child)


class BackwardInputs(NamedTuple):
    """The arguments of a `backward` call, checked and in order; see `Balancer.backward`."""

    losses: Sequence[Tensor]
    values: Tensor  # of the losses over all processes, [K] of at least float32, detached
    shared: Sequence[SharedTensor]
    last: Sequence[Tensor]
    private: Sequence[SharedTensor]
    penalty: Tensor | None = None

    @property
    def leaves(self) -> list[SharedTensor]:
        """The shared and the private tensors."""
        return [*self.shared, *self.private]


class Sizes(NamedTuple):
    """The sizes that a balancer's state may depend on; 0 if it does not depend on one.

    Attributes:
        objectives: The number of losses, K.
        heads: The number of views, H.
        features: The width of a view, D.
        parts: The number of parts of all shared tensors together, P.
        elements: The numbers in all shared tensors that can keep state for each, E.
    """

    objectives: int = 0
    heads: int = 0
    features: int = 0
    parts: int = 0
    elements: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{size} {name}" for name, size in self._asdict().items() if size) or "no sizes"
