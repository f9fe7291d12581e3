"""A backbone, its heads and a balancer as one module."""

import copy
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from recmtl.balance.base import Balancer
from recmtl.balance.weighting.sum import Sum


class BalancedModule(nn.Module):
    """A backbone whose output goes through a balancer's fork to several heads.

    All three are submodules: `state_dict` holds the backbone, the heads and the balancer's state.

    Attributes:
        backbone: From the input to the shared representation `[B, D]`.
        heads: From a view `[B, D]` to whatever a head gives.
        balancer: What lies between.

    Args:
        backbone: The shared part.
        heads: The task's own parts, in the order of the losses; the list itself is not kept.
        balancer: The balancer.

    Raises:
        ValueError: If there is no head, or no balancer.

    Example:
        >>> import torch
        >>> from recmtl.balance import RotoGrad
        >>> model = as_module(nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 2)], RotoGrad(heads=2, features=4))
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
        """Gives the output of every head."""
        return [head(view) for head, view in zip(self.heads, self._views(x), strict=True)]

    def __getitem__(self, index: int) -> "Branch":
        """The way through the model to one head, as a module that shares its weights."""
        return Branch(self, range(len(self.heads))[index])

    def backward(self, losses: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        """Adds the balanced gradient of the losses to `.grad`; the backbone's parameters are what is shared.

        Args:
            losses: One scalar per head, in their order.
        """
        self.balancer.backward(losses, list(self.backbone.parameters()), private=self.heads.parameters())

    def fold(self, features: int) -> "BalancedModule":
        """Gives a copy for export whose balancer is `Sum`: a rotation is taken into the heads, see `Balancer.fold`.

        Args:
            features: The width of the shared representation, D.
        """
        return BalancedModule(copy.deepcopy(self.backbone), self.balancer.fold(self.heads, features), Sum())

    def _views(self, x: Tensor) -> tuple[Tensor, ...]:
        shared = self.backbone(x)
        return self.balancer.fork([shared] * len(self.heads))


class Branch(nn.Module):
    """The way through a `BalancedModule` to one head.

    Args:
        model: The whole.
        index: The head.
    """

    def __init__(self, model: BalancedModule, index: int) -> None:
        super().__init__()
        self.model = model
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Gives the output of the head."""
        output: Tensor = self.model.heads[self.index](self.model._views(x)[self.index])
        return output


def as_module(backbone: nn.Module, heads: Iterable[nn.Module], balancer: Balancer) -> BalancedModule:
    """Puts a backbone, its heads and a balancer together; see `BalancedModule`."""
    return BalancedModule(backbone, heads, balancer)
