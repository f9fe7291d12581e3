"""The floor: MMOE's step written by hand for one shape, with nothing around it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recmtl.data import Batch
from recmtl.schema import FittedSchema
from recmtl.train.device import matmul_precision

WIDTH, EXPERTS, FIRST, SECOND, TOWER, TASKS = 16, 4, 256, 128, 64, 2


class FlatStep:
    """Embedding, four experts [256, 128], gates and two towers [64], without normalisation; Adam.

    Args:
        schema: Says how many ids and numbers there are.
        bf16: Whether products are in bfloat16.
    """

    def __init__(self, schema: FittedSchema, bf16: bool) -> None:
        torch.manual_seed(0)
        sizes = torch.tensor([block.size for block in schema.id_blocks])
        self.offsets, self.bf16 = (sizes.cumsum(0) - sizes).int(), bf16
        inputs = WIDTH * len(sizes) + len(schema.numeric)
        self.table = made(int(sizes.sum()), WIDTH)
        self.first, self.first_bias = made(EXPERTS * FIRST, inputs), made(EXPERTS * FIRST)
        self.second = [(made(SECOND, FIRST), made(SECOND)) for _ in range(EXPERTS)]
        self.gates, self.gates_bias = made(TASKS * EXPERTS, inputs), made(TASKS * EXPERTS)
        self.towers = [(made(TOWER, SECOND), made(TOWER), made(1, TOWER), made(1)) for _ in range(TASKS)]
        parameters = [self.table, self.first, self.first_bias, self.gates, self.gates_bias]
        parameters += [p for layer in (*self.second, *self.towers) for p in layer]
        self.adam = torch.optim.Adam(parameters, fused=True)

    def __call__(self, batch: Batch) -> None:
        with matmul_precision(batch.ids.device):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                logits = self.logits(batch)
            pairs = zip(logits, batch.labels.unbind(1), strict=True)
            losses = [binary_cross_entropy_with_logits(logit.float(), label) for logit, label in pairs]
            torch.autograd.backward(losses)
            self.adam.step()
            self.adam.zero_grad()

    def logits(self, batch: Batch) -> list[Tensor]:
        linear = torch.nn.functional.linear
        rows = self.table.index_select(0, (batch.ids + self.offsets).flatten().long())
        x = torch.cat([rows.view(len(batch), -1), batch.numeric], 1)  # [B, W]
        hidden = torch.split(linear(x, self.first, self.first_bias).relu_(), FIRST, 1)
        experts = [linear(h, *layer).relu_() for h, layer in zip(hidden, self.second, strict=True)]
        gates = linear(x, self.gates, self.gates_bias).view(-1, TASKS, EXPERTS).softmax(2)
        views = torch.bmm(gates.to(experts[0].dtype), torch.stack(experts, 1)).unbind(1)  # TASKS of [B, SECOND]
        return [
            linear(linear(view, w, b).relu_(), v, c).squeeze(1)
            for view, (w, b, v, c) in zip(views, self.towers, strict=True)
        ]


def made(*shape: int) -> Tensor:
    return (torch.randn(shape) * 0.05).requires_grad_()
