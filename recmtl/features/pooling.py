"""Pooling of lists: from the embeddings of a row's elements to one vector.

B rows, T elements in all of their lists, d numbers in an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features.embedding_table import EmbeddingTable, Lists
from recmtl.schema import MultiCategorical

HIDDEN = 16  # units of the activation unit
SLOPE = 0.25  # of its activation below 0
SMALLEST = 1e-6  # added to mean squares


class ListPooling(nn.Module, ABC):
    """The base class of poolings.

    Shape:
        - lists: ``[T, d]`` and their offsets
        - target: ``[B, d]``, only for target attention
        - output: ``[B, d]``; of an empty list zeros

    Args:
        width: d, the width of an embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def __call__(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Call `forward`, with its types."""
        pooled: Tensor = super().__call__(lists, target)
        return pooled

    @abstractmethod
    def forward(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Return the pooled embeddings, ``[B, d]``."""


class SumPooling(ListPooling):
    """The sum of the elements."""

    def forward(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Return the pooled embeddings, ``[B, d]``."""
        return sum_by_row(lists.values, lists.offsets)


class MeanPooling(ListPooling):
    """The mean of the elements."""

    def forward(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Return the pooled embeddings, ``[B, d]``."""
        return mean_of(lists)


class SelfAttentionPooling(ListPooling):
    r"""The elements weighted by a learned query: one hop of structured self-attention.

    Lin, Feng, dos Santos, Yu, Xiang, Zhou and Bengio, "A Structured Self-attentive Sentence Embedding", ICLR 2017,
    arXiv:1703.03130, equation 5, on the embeddings e_i themselves:

    $$
    v = \sum_i \alpha_i e_i, \qquad \alpha = \operatorname{softmax}_i\left(q^\top \tanh(W e_i)\right)
    $$

    The query starts at 0, so that pooling starts as the mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.key = nn.Linear(width, width, bias=False)  # W
        self.query = nn.Linear(width, 1, bias=False)  # q
        nn.init.zeros_(self.query.weight)

    def forward(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Return the pooled embeddings, ``[B, d]``."""
        longest = longest_if_filled(lists)
        if longest:
            return self._padded(lists, longest)
        values, offsets = lists
        scores: Tensor = self.query(self.key(values).tanh()).to(values.dtype)  # [T, 1]
        row = row_of_element(offsets, values.shape[0])
        lowest = scores.new_full((offsets.shape[0] - 1,), -torch.inf)
        largest = lowest.scatter_reduce(0, row, scores.detach()[:, 0], "amax")  # [B]
        weights = (scores - largest.index_select(0, row)[:, None]).exp()  # [T, 1]
        sums = by_element(sum_by_row(weights, offsets), offsets, values.shape[0])
        weights = weights / sums  # exactly 1 of a list with one element
        return sum_by_row(values * weights, offsets)  # [B, d]

    def _padded(self, lists: Lists, longest: int) -> Tensor:
        """Return the same by lists padded with zeros, ``[B, L, d]``."""
        values = padded_values(lists, longest)
        pooled: Tensor = _PaddedSelfAttention.apply(  # type: ignore[no-untyped-call]
            values, self.key.weight, self.query.weight, lists.offsets.diff()
        )
        return pooled


class TargetAttention(ListPooling):
    r"""The elements weighted by how they go with the row's own item: the local activation of DIN.

    Zhou, Zhu, Song, Fan, Zhu, Ma, Yan, Jin, Li and Gai, "Deep Interest Network for Click-Through Rate Prediction",
    KDD 2018, equation 3. With e_t the embedding of the item, a an MLP with one hidden layer, and $\hat e$ an embedding
    scaled to a root mean square of 1 (Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019),

    $$
    v = \sum_i a(e_i, e_t)\, e_i, \qquad
    a(e_i, e_t) = w^\top \sigma\left(W\,[e_i, e_t, e_i - e_t, e_i \circ e_t] + b\right) + c
    + \frac{g}{\sqrt d}\, \hat e_i^\top \hat e_t
    $$

    Weights are not normalized: their sum says how strongly the history speaks for the item.

    Note:
        The last term is not in the paper; g starts at 1 and is learned. Embeddings start near 0, where the products of
        two of them say next to nothing, and training overfits before the MLP finds that equal items go together.

        The MLP has 16 hidden units, where figure 2 of the paper has 36, which costs far less. σ is the paper's PReLU
        with its initial slope, which is not learned. The parts of W that e_i and e_t are multiplied by are added up
        first. If at least half of the places up to the longest list of a batch are filled, a CPU multiplies the
        elements of a row by one matrix, which is fast for many elements.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.hidden = nn.Linear(4 * width, HIDDEN)  # W, b
        self.output = nn.Linear(HIDDEN, 1)  # w, c
        self.gain = nn.Parameter(torch.ones(1))  # g

    def forward(self, lists: Lists, target: Tensor | None = None) -> Tensor:
        """Return the pooled embeddings, ``[B, d]``."""
        assert target is not None
        element, item, difference, product = self.hidden.weight.chunk(4, 1)  # [h, d] each
        element, item = element + difference, item - difference  # of e_i and e_t
        direction = target * inverse_rms(target) * (self.gain / self.width**0.5)  # [B, d]
        longest = longest_if_filled(lists)
        if longest:
            by_row = torch.addcmul(element.T, target[..., None], product.T)  # [B, d, h]
            of_item = F.linear(target, item, self.hidden.bias).to(target.dtype)  # [B, h]
            output = self.output.weight.T, self.output.bias  # [h, 1] and [1]
            padded = padded_values(lists, longest)
            pooled: Tensor = _PaddedAttention.apply(padded, by_row, of_item, direction, *output)  # type: ignore[no-untyped-call]
            return pooled
        values, offsets = lists
        own, towards = by_element(torch.cat([target, direction], 1), offsets, values.shape[0]).chunk(2, 1)  # [T, d]
        inputs = torch.cat([values, values * own, own], 1)  # [T, 3d]
        hidden = F.leaky_relu(F.linear(inputs, torch.cat([element, product, item], 1), self.hidden.bias), SLOPE)
        similarity = (values * towards).sum(1, keepdim=True) * inverse_rms(values)  # [T, 1]
        weights: Tensor = (self.output(hidden) + similarity).to(values.dtype)  # [T, 1]
        return sum_by_row(values * weights, offsets)


POOLINGS: Mapping[str, Callable[[int], ListPooling]] = {
    "mean": MeanPooling,
    "sum": SumPooling,
    "self_attention": SelfAttentionPooling,
    "target_attention": TargetAttention,
}


def inverse_rms(values: Tensor) -> Tensor:
    """Return what scales vectors to a root mean square of 1, ``[…, d]`` to ``[…, 1]``; those near 0 stay near 0."""
    return (values.square().mean(-1, keepdim=True) + SMALLEST).rsqrt()


def longest_if_filled(lists: Lists) -> int:
    """Return the length of the longest list on a CPU, if half of the places up to it are filled; else 0."""
    values, offsets = lists
    if values.device.type != "cpu" or torch.compiler.is_exporting() or not values.shape[0]:
        return 0
    longest = int(offsets.diff().max())
    return longest if 2 * int(offsets[-1]) >= longest * (offsets.shape[0] - 1) else 0


def padded_values(lists: Lists, longest: int) -> Tensor:
    """Return lists padded with zeros, ``[B, L, d]``; a view if all of them have L elements."""
    values, offsets = lists
    rows = offsets.shape[0] - 1
    if values.shape[0] == rows * longest and bool(offsets[-1] == values.shape[0]):
        return values.view(rows, longest, -1)
    return lists.padded(longest).values


def side_by_side(table: EmbeddingTable, batch: Batch) -> Tensor:
    """Return the embeddings of a table's features, ``[B, features · width]``; of lists the sum or else the mean."""
    singles, lists = table(batch.ids, batch.lists)
    summed = [isinstance(b.feature, MultiCategorical) and b.feature.pooling == "sum" for b in table.lists]
    pooled = (sum_by_row(*own) if by_sum else mean_of(own) for own, by_sum in zip(lists, summed, strict=True))
    return torch.cat([singles.flatten(1), *pooled], 1)


def mean_of(lists: Lists) -> Tensor:
    """Return the mean of each list, ``[B, d]``; of an empty one zeros."""
    lengths = lists.offsets.diff()[:, None]
    return sum_by_row(lists.values, lists.offsets) / lengths.clamp(min=1)


def sum_by_row(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sums of the elements of each list, ``[T, d]`` to ``[B, d]``; spare elements belong to none."""
    if torch.compiler.is_exporting():  # segment_reduce fixes the number of rows
        zeros = values.new_zeros(offsets.shape[0] - 1, values.shape[1])
        return zeros.index_add(0, row_of_element(offsets, values.shape[0]), values)
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)  # the safe form waits for the device


def by_element(rows: Tensor, offsets: Tensor, count: int) -> Tensor:
    """Return for each element what belongs to its row, ``[B, n]`` to ``[T, n]``."""
    if torch.compiler.is_exporting():
        return rows.index_select(0, row_of_element(offsets, count))
    spread: Tensor = _ByElement.apply(rows, offsets, count)  # type: ignore[no-untyped-call]
    return spread


def row_of_element(offsets: Tensor, count: int) -> Tensor:
    """Return the row of each element, int64 ``[T]``; of spare ones the last row."""
    if torch.compiler.is_exporting():  # ONNX has no bucketize: count the lists that end up to each place
        ends = offsets[1:].clamp(max=count)
        ended = offsets.new_zeros(count + 1).scatter_add(0, ends, torch.ones_like(ends)).cumsum(0)
        return ended[:count].clamp(max=offsets.shape[0] - 2)
    place = torch.arange(count, device=offsets.device)
    return torch.bucketize(place, offsets[1:], right=True).clamp(max=offsets.shape[0] - 2)


class _ByElement(torch.autograd.Function):
    """Repeats rows; the backward sums segments, which is faster than adding element by element."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, offsets: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(offsets)
        return rows.index_select(0, row_of_element(offsets, count))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (offsets,) = ctx.saved_tensors
        return torch.segment_reduce(gradients[0].contiguous(), "sum", offsets=offsets, unsafe=True), None, None


def products_by_element(values: Tensor, rows: Tensor) -> Tensor:
    """Return the products of a row's vector ``[B, d]`` with its elements ``[B, L, d]``, ``[B, L]``.

    A row times a matrix takes a third of the time of a matrix times a column.
    """
    return torch.bmm(rows[:, None], values.mT)[:, 0]


class _PaddedAttention(torch.autograd.Function):
    """Target attention over padded lists; its backward makes far fewer passes over the elements than autograd's."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, by_row: Tensor, of_item: Tensor, direction: Tensor, *output: Tensor
    ) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            hidden = F.leaky_relu_(torch.bmm(values, by_row).add_(of_item[:, None]), SLOPE)  # [B, L, h]
            norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
            scale = norm.square_().div_(values.shape[-1]).add_(SMALLEST).rsqrt_()  # [B, L, 1]
            similarity = products_by_element(values, direction)[..., None].mul_(scale)  # [B, L, 1]
            weights = torch.matmul(hidden, output[0]).add_(output[1]).add_(similarity)  # [B, L, 1]
            ctx.save_for_backward(values, by_row, direction, output[0], hidden, scale, similarity, weights)
            return torch.bmm(weights.mT, values)[:, 0]  # [B, d]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        values, by_row, direction, output, hidden, scale, similarity, weights = ctx.saved_tensors
        above = gradients[0]
        with torch.autocast(values.device.type, enabled=False):
            of_weights = products_by_element(values, above)[..., None]  # [B, L, 1]
            of_hidden = of_weights * output.T  # [B, L, h]
            torch.ops.aten.leaky_relu_backward(of_hidden, hidden, SLOPE, True, grad_input=of_hidden)
            of_dot = of_weights * scale  # [B, L, 1], of e_i · direction
            of_values = torch.bmm(of_hidden, by_row.mT)  # [B, L, d]
            both = torch.cat([weights, of_dot], 2), torch.stack([above, direction], 1)  # [B, L, 2] and [B, 2, d]
            of_values = of_values.baddbmm_(*both).addcmul_(
                values, of_dot * similarity * scale, value=-1 / values.shape[-1]
            )
            return (
                of_values,
                torch.bmm(values.mT, of_hidden),
                of_hidden.sum(1),
                torch.bmm(of_dot.mT, values)[:, 0],
                torch.matmul(hidden.flatten(0, 1).T, of_weights.flatten(0, 1)),
                of_weights.sum().view(1),
            )


class _PaddedSelfAttention(torch.autograd.Function):
    """Self-attention pooling of padded lists, with few passes over the elements; of an empty list zeros."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, key: Tensor, query: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            keys = torch.matmul(values, 2 * key.T)  # [B, L, d]
            keys.sigmoid_().mul_(2).sub_(1)  # tanh(x) = 2 σ(2x) - 1: half of the time of `tanh_`
            scores = torch.matmul(keys, query[0])  # [B, L]
            if int(lengths.min()) < values.shape[1]:
                spare = torch.arange(values.shape[1], device=values.device) >= lengths[:, None]
                scores.masked_fill_(spare, torch.finfo(scores.dtype).min)
            weights = scores.softmax(1)  # [B, L]
            ctx.save_for_backward(values, key, query, keys, weights)
            return torch.bmm(weights[:, None], values)[:, 0]  # [B, d]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, key, query, keys, weights = ctx.saved_tensors
        above = gradients[0]
        with torch.autocast(values.device.type, enabled=False):
            of_weights = products_by_element(values, above)  # [B, L]
            mean = (weights * of_weights).sum(1, keepdim=True)  # exactly its gradient where a list has one element
            of_scores = weights * (of_weights - mean)  # [B, L]
            of_query = torch.mv(keys.flatten(0, 1).T, of_scores.flatten())[None]  # [1, d]
            of_keys = of_scores[..., None] * query  # [B, L, d]
            torch.ops.aten.tanh_backward(of_keys, keys, grad_input=of_keys)
            of_values = torch.matmul(of_keys, key)
            of_values.addcmul_(weights[..., None], above[:, None])
            of_key = torch.matmul(of_keys.flatten(0, 1).T, values.flatten(0, 1))
            return of_values, of_key, of_query, None
