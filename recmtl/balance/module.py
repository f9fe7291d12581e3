"""A backbone, its heads and a balancer as one module."""

import copy
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from recmtl.balance.base import Balancer
from recmtl.balance.weighting.sum import Sum


class BalancedModule(nn.Module):
    """A backbone, a balancer's fork and several heads as one module.

    All three are submodules, so that `state_dict` holds backbone, heads and the balancer's state.

    Args:
        backbone: The shared part, from the input to the shared representation `[B, D]`.
        heads: One module per task that reads its view `[B, D]`, in the order of the losses.
        balancer: The balancer between them.

    Raises:
        ValueError: If `heads` is empty, or `balancer` is not a balancer.

    Example:
        >>> import torch
        >>> from recmtl.balance import RotoGrad
        >>> model = BalancedModule(nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 2)], RotoGrad(heads=2, features=4))
        >>> [tuple(output.shape) for output in model(torch.ones(5, 3))]
        [(5, 1), (5, 2)]
        >>> tuple(model[1](torch.ones(5, 3)).shape)
        (5, 2)
    """

    def __init__(self, backbone: nn.Module, heads: Iterable[nn.Module], balancer: Balancer) -> None:
        super().__init__()
        if not isinstance(balancer, Balancer):
            raise ValueError(
                f"`balancer` must be a balancer such as `RotoGrad(heads=2, features=16)`, got {balancer!r}"
            )
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.balancer = balancer
        if not len(self.heads):
            raise ValueError("`heads` must hold at least one module, got none")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the output of every head."""
        return [head(view) for head, view in zip(self.heads, self._views(x), strict=True)]

    def __getitem__(self, index: int) -> "Branch":
        """Return the path to one head, as a module that shares the weights."""
        return Branch(self, range(len(self.heads))[index])

    def backward(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Add the balanced gradient of one loss per head to `.grad` of every parameter; the backbone is shared."""
        self.balancer.backward(losses, list(self.backbone.parameters()), private=self.heads.parameters())

    def after_step(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Take the same batch's losses after the optimizer's step, which `FAMO` needs; see `Balancer.after_step`."""
        self.balancer.after_step(losses)

    def fold(self, features: int) -> "BalancedModule":
        """Return a copy for export whose balancer is `Sum`; rotations become part of the heads, see `Balancer.fold`.

        Args:
            features: The width of the shared representation, D.
        """
        return BalancedModule(copy.deepcopy(self.backbone), self.balancer.fold(self.heads, features), Sum())

    def _views(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.balancer.fork([self.backbone(x)] * len(self.heads))


class Branch(nn.Module):
    """The path through a `BalancedModule` to one of its heads."""

    def __init__(self, model: BalancedModule, index: int) -> None:
        super().__init__()
        self.model = model
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the head."""
        output: Tensor = self.model.heads[self.index](self.model._views(x)[self.index])
        return output
