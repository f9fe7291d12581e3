"""IMTL-L: learned scales that bring all losses to the same size."""

from torch import Tensor

from recmtl.balance.weighting.base import LearnedWeightBalancer


class IMTLL(LearnedWeightBalancer):
    r"""Impartial multi-task learning of the losses: a learned scale per task that brings its loss to 1.

    Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR 2021, section 3.2,
    equation 7. Model and scales s_k descend

    $$
    \sum_{k=1}^{K} \left( e^{s_k} L_k - s_k \right), \qquad w_k = e^{s_k}
    $$

    The derivative of s_k is e^{s_k}·L_k − 1: at its optimum every scaled loss w_k·L_k is 1, whatever their scales.

    Use it if the losses differ in scale and all of them matter alike; add IMTL-G to balance the gradients. It costs one
    backward pass.

    Note:
        The scales have an Adam of their own, in place of the model's optimizer and its weight decay, and are buffers.
        The model's step uses the scales from before their update. They move slowly at first where a loss is far above
        1, as their Adam remembers the first large gradients.

        No scale brings a loss below 0 to 1: it is left out of the step and counted in `skipped`.

    Shape:
        - losses: K scalars, positive.
        - weights: `[K]`, positive.

    Args:
        lr: The learning rate of the scales' own Adam.

    Raises:
        ValueError: If `lr` is not positive.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> balancer = IMTLL(lr=0.1)
        >>> for _ in range(200):
        ...     balancer.backward([5 * x[0], x[1] / 5], shared=[x])
        >>> (balancer.weights * balancer.losses).round(decimals=1)
        tensor([1., 1.])
    """

    def _weights_of(self, numbers: Tensor) -> Tensor:
        return numbers.exp()

    def _slope(self, weights: Tensor, values: Tensor) -> Tensor:
        return weights * values - 1
