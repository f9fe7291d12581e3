"""RLW: random loss weights."""

import torch
from torch import Tensor

from recmtl.balance.counter_generator import CounterGenerator
from recmtl.balance.weighting.base import LossValueBalancer, present_softmax


class RLW(LossValueBalancer):
    r"""Random loss weights, drawn anew in each step.

    Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning",
    TMLR 2022, arXiv:2111.10603, section 2. With K independent standard normal numbers ξ_k in each step,

    $$
    w_k = K \cdot \mathrm{softmax}(\xi)_k
    $$

    Use it as a baseline beside `Sum`: a method whose weights do not beat random ones has not found better ones. It
    costs one backward pass.

    Note:
        The paper's weights add up to 1; ours, as those of LibMTL and of `Sum`, to K.

        The numbers come from a counter, not from a global generator: seed and counter are state, every device draws the
        same, and a resumed training goes on with them. The softmax is over the tasks that are present.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, positive, with sum K.

    Args:
        seed: The seed of the random weights, below 2³².

    Raises:
        ValueError: If `seed` is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> balancer = RLW(seed=0)
        >>> balancer.backward([1 + x[0], 1 + x[1]], shared=[x])
        >>> x.grad.sum()
        tensor(2.)
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.random = CounterGenerator(seed)
        self.seed = seed

    def _weights_of(self, values: Tensor, present: Tensor) -> Tensor:
        weights = present.sum() * present_softmax(self.random.normal(len(values)), present)
        self.random.advance(present.any())
        return weights.to(torch.promote_types(values.dtype, torch.float32))
