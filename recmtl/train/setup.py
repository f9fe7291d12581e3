"""Which balancer goes with which model."""

from __future__ import annotations

import weakref

from recmtl.balance import Balancer, Sum
from recmtl.models import RankingModel

OWNERS: weakref.WeakKeyDictionary[Balancer, weakref.ref[RankingModel]] = weakref.WeakKeyDictionary()


def claim(balancer: Balancer, model: RankingModel) -> None:
    """Note that a balancer's state is that of a model.

    Raises:
        ValueError: It is another model's, or it is no balancer.
    """
    if not isinstance(balancer, Balancer):
        raise ValueError(f"`balancer` must be a balancer such as `recmtl.MetaBalance()`, got {balancer!r}")
    owner = OWNERS.get(balancer)
    if owner is not None and owner() not in (None, model):
        raise ValueError(f"this {type(balancer).__name__} balances another model, whose state it holds: use a new one")
    OWNERS[balancer] = weakref.ref(model)


def check_shares(model: RankingModel, balancer: Balancer) -> None:
    """Refuse to balance where there is nothing to.

    Raises:
        ValueError: The model's tasks share no tensor, and the balancer is not the plain sum.
    """
    if not (model.shared().tensors or isinstance(balancer, Sum)):
        name, method = type(model).__name__, type(balancer).__name__
        raise ValueError(f"the tasks of {name} share no tensor that {method} could balance: train it with `Sum`")
