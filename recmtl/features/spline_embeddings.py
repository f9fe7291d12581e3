"""Embeddings of numbers by linear splines: an embedding per knot, and mixtures of two between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.data.columns.numeric import places_of
from recmtl.features.growth import RowOrigins, knot_origins
from recmtl.features.numeric_embeddings import NumericEmbedding
from recmtl.schema import FittedSchema

INITIAL_STD = 0.01  # of each knot, around the feature's line
WIDTH, NARROW, MANY = 4, 2, 32  # embeddings of more than `MANY` numbers are narrow
INITIAL_SLOPE = 0.2  # standard deviation; the knots of a feature lie between -1 and 1


class SplineEmbeddings(NumericEmbedding):
    r"""Linear splines: each knot has an embedding, and a number between two knots has a mixture of theirs.

    With the knots t_1 < … < t_n of feature i (see the transform ``knots`` of `Numeric`) and their embeddings e_j,

    $$
    f_i(x_i) = (1 - \lambda)\, e_j + \lambda\, e_{j+1}, \qquad t_j \le x_i \le t_{j+1}, \qquad
    \lambda = \frac{x_i - t_j}{t_{j+1} - t_j}
    $$

    The embeddings of a feature's knots start near a line of random slope: what rises or falls along a number is then
    learned from few rows, too.

    This is the piecewise linear encoding of Gorishniy, Rubachev and Babenko, NeurIPS 2022, arXiv:2203.05556, section
    3.2, with a linear layer, in terms of the values at the knots: the place of a number among the knots is found when
    rows are prepared, so that an embedding reads two rows of a table of all knots. A number with few values has an
    embedding per value, like a category.

    Numbers with another transform are passed on as they were prepared, after the embeddings.

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F' · d + F - F']``, for F' features with knots

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding; ``None`` takes 4, or 2 if there are more than 32 numbers, as many
            wide ones slow a step.

    Raises:
        ValueError: `width` is below 1.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Numeric("age")], [recmtl.Task("ctr", "click")])
        >>> data = recmtl.prepare(schema, pd.DataFrame({"age": [20.0, 30, 60], "click": [0, 1, 1]}), holdout=0)
        >>> embeddings = SplineEmbeddings(data.schema, width=4)
        >>> between = embeddings(torch.tensor([[0.5]]))  # 45, half way from 30, which is at 0, to 60, which is at 1
        >>> torch.allclose(between, embeddings.weight[1:].mean(0))
        True
    """

    columns: Tensor
    others: Tensor
    last: Tensor
    middle: Tensor
    part_of_row: Tensor
    bounds: Tensor

    def __init__(self, schema: FittedSchema, width: int | None = None) -> None:
        if width is None:
            width = WIDTH if len(schema.numeric) <= MANY else NARROW
        super().__init__(schema, width)
        splines = torch.tensor([f.transform == "knots" for f in schema.numeric], dtype=torch.bool)
        knots = [len(schema.quantiles[f.name]) for f in schema.numeric if f.transform == "knots"]
        sizes = torch.tensor(knots, dtype=torch.int64)  # [F']
        buffers = {
            "columns": splines.nonzero().flatten(),  # [F']
            "others": (~splines).nonzero().flatten(),  # [F - F']
            "last": (sizes - 2).clamp(min=0).float(),  # [F'], the index of the last knot with one after it
            "middle": (sizes - 1) / 2,  # [F'], the index of the middle
            "part_of_row": torch.arange(len(sizes)).repeat_interleave(sizes),  # [knots]
            "bounds": torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),  # [F' + 1], the row of a feature's first knot
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        slopes = torch.randn(len(sizes), width).mul_(INITIAL_SLOPE)  # [F', d]
        places = [torch.from_numpy(places_of(size)).float() for size in knots]  # F' of [knots of the feature]
        lines = [place[:, None] * slope for place, slope in zip(places, slopes, strict=True)]
        lines.append(torch.empty(0, width))  # if no feature has knots
        self._splines = buffers["columns"].tolist()
        self.weight = nn.Parameter(torch.cat(lines) + torch.randn(sum(knots), width).mul_(INITIAL_STD))
        self.out_features = len(sizes) * width + len(self.others)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of the numbers with knots, then the other numbers."""
        if not len(self.columns):
            return x
        if not len(self.others):
            return self.embed(x).flatten(1)
        embedded = self.embed(x.index_select(1, self.columns)).flatten(1)  # [B, F' · d]
        return torch.cat([embedded, x.index_select(1, self.others)], 1)

    def fields(self, x: Tensor) -> list[Tensor]:
        """Return the embedding of each number with knots, ``[B, d]``, and each other number, ``[B, 1]``."""
        found = list(torch.split(x, 1, dim=1))  # F of [B, 1]
        embedded = self.embed(x.index_select(1, self.columns)).unbind(1) if self._splines else ()
        for column, own in zip(self._splines, embedded, strict=True):
            found[column] = own
        return found

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of the numbers with knots, ``[B, F']`` to ``[B, F', d]``."""
        place = torch.addcmul(self.middle, x, self.middle)  # [B, F'], in knots from the first one
        before = place.nan_to_num().floor().clamp(self.last.new_zeros(()), self.last)  # [B, F'], an index even of NaN
        share = (place - before)[..., None]  # [B, F', 1]
        rise = torch.cat([self.weight.diff(dim=0), self.weight.new_zeros(1, self.weight.shape[1])])  # [knots, d]
        row = before.long() + self.bounds[:-1]  # [B, F']
        rows = torch.cat([self.weight, rise], 1).index_select(0, row.flatten())  # [B·F', 2d]
        value, slope = rows.view(*x.shape, rows.shape[1]).chunk(2, dim=-1)  # [B, F', d]
        return torch.addcmul(value, share, slope)

    def row_origins(self, old: FittedSchema, new: FittedSchema) -> dict[str, RowOrigins]:
        """Return what the rows of the knots start as, given those for an older schema: the same functions."""
        return {"weight": knot_origins(old, new)}

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the rows of all knots as one shared tensor with one part per feature."""
        if not len(self.weight):
            return []
        return [SharedTensor(self.weight, len(self.columns), self.part_of_row, self.bounds)]
