"""TabM: an ensemble of k networks that share one set of weights, its members folded into the rows.

Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling",
ICLR 2025, arXiv:2410.24210. The activations of an ensemble are matrices ``[B·k, D]``, where row b·k + i belongs to
member i, so that whatever works row by row needs no change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recmtl.balance.backward import on_host


class EnsembleLinear(nn.Linear):
    r"""A linear layer for each of k members, with one weight matrix for all and adapters per member.

    TabM, section 3.2, after Wen, Tran and Ba, "BatchEnsemble", ICLR 2020:

    $$
    l_i(x) = s_i \odot W (r_i \odot x) + b_i
    $$

    It is computed as the product with diag(s_i)·W·diag(r_i), which costs less than to scale the rows.

    Shape:
        - input: ``[B·k, in_features]``, or ``[B, in_features]`` with `expand`
        - output: ``[B·k, stacked · out_features]``

    Attributes:
        weight: W, ``[stacked · out_features, in_features]``.
        r: The adapters of the input, ``[stacked · k, in_features]``: random signs with `expand`, otherwise 1.
        s: The adapters of the output, ``[stacked · k, out_features]``, at first 1.
        bias: ``[stacked · k, out_features]``, at first the same for all members.

    Args:
        in_features: The width of the input.
        out_features: The width of the output.
        ensemble: The number of members, k.
        stacked: The number of such layers side by side, each with adapters of its own.
        expand: Whether the layer is the first of the ensemble, whose members all read the same rows.

    Example:
        >>> EnsembleLinear(3, 2, ensemble=4, expand=True)(torch.zeros(5, 3)).shape
        torch.Size([20, 2])
    """

    def __init__(
        self, in_features: int, out_features: int, ensemble: int, stacked: int = 1, expand: bool = False
    ) -> None:
        super().__init__(in_features, stacked * out_features)
        self.ensemble, self.stacked, self.expand = ensemble, stacked, expand
        shape = (stacked * ensemble, in_features)
        self.r = nn.Parameter(random_signs(*shape) if expand else torch.ones(shape))
        self.s = nn.Parameter(torch.ones(stacked * ensemble, out_features))
        self.bias = nn.Parameter(self.bias.detach().view(stacked, out_features).repeat_interleave(ensemble, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return each member's output for its rows; with `expand`, for all rows."""
        weight = self.member_weights()  # [k, N, in]
        bias = self._by_member(self.bias).reshape(self.ensemble, self.out_features)  # [k, N]
        if self.expand:  # one product with the weights of all members: [B, k·N]
            return member_products(x[None], weight.flatten(0, 1)[None], bias.view(1, -1), self.out_features)
        return member_products(by_member(x, self.ensemble).transpose(0, 1), weight, bias, self.out_features)

    def member_weights(self) -> Tensor:
        """Return the weight matrix of each member, diag(s_i)·W·diag(r_i): ``[k, stacked · out_features, in]``."""
        weight = torch.unflatten(self.weight, 0, (self.stacked, -1))  # [S, out, in]
        scaled = weight * self._by_member(self.s)[..., None] * self._by_member(self.r)[:, :, None]  # [k, S, out, in]
        return scaled.flatten(1, 2)

    def _by_member(self, adapters: Tensor) -> Tensor:
        return torch.unflatten(adapters, 0, (self.stacked, self.ensemble)).transpose(0, 1)  # [k, S, width]

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{super().extra_repr()}, ensemble={self.ensemble}, stacked={self.stacked}, expand={self.expand}"


class EnsembleOutput(nn.Linear):
    """The last layer of a tower, with weights of its own for each of k members.

    Shape:
        - input: ``[B·k, in_features]``
        - output: ``[B·k, outputs]``

    Attributes:
        weight: ``[k · outputs, in_features]``, member by member.

    Args:
        in_features: The width of the input.
        ensemble: The number of members, k.
        outputs: The width of the output.
    """

    def __init__(self, in_features: int, ensemble: int, outputs: int = 1) -> None:
        super().__init__(in_features, ensemble * outputs, bias=False)
        self.ensemble, self.outputs = ensemble, outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each row by the weights of its member."""
        rows = by_member(x, self.ensemble)  # [B, k, in]
        if self.outputs == 1:
            return (rows * self.weight).sum(-1).view(-1, 1)  # [B·k, 1]
        weight = torch.unflatten(self.weight, 0, (self.ensemble, self.outputs))  # [k, outputs, in]
        return torch.einsum("bki,koi->bko", rows, weight).flatten(0, 1)


class EnsembleInput(nn.Module):
    """The adapters that make k rows of each, for an ensemble that does not begin with a linear layer.

    Shape:
        - input: ``[B, features]``
        - output: ``[B·k, features]``

    Attributes:
        r: ``[k, features]``, at first random signs.

    Args:
        features: The width of the rows.
        ensemble: The number of members, k.
    """

    def __init__(self, features: int, ensemble: int) -> None:
        super().__init__()
        self.r = nn.Parameter(random_signs(ensemble, features))

    def forward(self, x: Tensor) -> Tensor:
        """Return every row once per member, scaled by its adapters."""
        return (x[:, None] * self.r).flatten(0, 1)  # [B, k, features] -> [B·k, features]


def member_products(x: Tensor, weight: Tensor, bias: Tensor, width: int) -> Tensor:
    """Return the rows x_i·W_iᵀ + b_i, member by member in turn: ``[B·M·N / width, width]``.

    Shape:
        - x: ``[M, B, in]``, weight: ``[M, N, in]``, bias: ``[M, N]``
    """
    if torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(lower), weight.to(lower), bias.to(lower)
    if torch.compiler.is_compiling():
        return torch.baddbmm(bias[:, None], x, weight.mT).transpose(0, 1).reshape(-1, width)
    rows: Tensor = _MemberProducts.apply(x, weight, bias, width)  # type: ignore[no-untyped-call]
    return rows


class _MemberProducts(torch.autograd.Function):
    """`member_products` without copies: each member's product is written among the rows where it belongs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, width: int) -> Tensor:
        members, rows = x.shape[:2]
        ctx.save_for_backward(x, weight)
        output = x.new_empty(rows * bias.numel() // width, width)  # no view, so that a ReLU can write over it
        by_row = output.view(rows, members, weight.shape[1])  # [B, M, N]
        _multiply(x, weight.mT, by_row.transpose(0, 1))
        by_row += bias
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        by_row = gradient.contiguous().view(x.shape[1], x.shape[0], weight.shape[1])  # [B, M, N]
        members = by_row.transpose(0, 1)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)  # in memory by row, like x
            _multiply(members, weight, of_x)
        of_weight = torch.empty_like(weight)
        _multiply(members.mT, x, of_weight)
        return of_x, of_weight, by_row.sum(0), None


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write the products of M pairs of matrices, whose rows or columns may lie apart, into `out`."""
    if not on_host(out):
        torch.bmm(a, b, out=out)
        return
    for left, right, result in zip(a, b, out, strict=True):  # on a CPU `bmm` would copy them
        torch.mm(left, right, out=result)


def random_signs(*shape: int) -> Tensor:
    """Draw -1 or 1 for each element."""
    return torch.randint(0, 2, shape) * 2.0 - 1.0


def by_member(rows: Tensor, ensemble: int) -> Tensor:
    """Return a view of the rows ``[B·k, ...]`` as ``[B, k, ...]``.

    Raises:
        ValueError: The number of rows is not a multiple of k.
    """
    if rows.shape[0] % ensemble:
        raise ValueError(
            f"an ensemble of {ensemble} must read {ensemble} rows for each row of the batch, got {rows.shape[0]} rows: "
            "its first layer is built with `expand=True`, all others with `expand=False`"
        )
    return torch.unflatten(rows, 0, (-1, ensemble))


def mean_probability_logit(logits: Tensor) -> Tensor:
    """Return the log-odds of the mean probability over the last dimension, exact even if probabilities underflow."""
    members = math.log(logits.shape[-1])
    positive = F.logsigmoid(logits).logsumexp(-1) - members
    negative = F.logsigmoid(-logits).logsumexp(-1) - members
    return positive - negative
