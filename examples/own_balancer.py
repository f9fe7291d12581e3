"""Your own balancer: one class that computes the weight of each loss."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import recmtl
from recmtl.balance import LossWeightBalancer, SharedTensor, Sizes


class GeometricMean(LossWeightBalancer):
    """The gradient of Σ log L_k: the weight of each loss is the inverse of its value."""

    @property
    def weights(self) -> None:
        """None: the method keeps nothing from one step to the next."""

    def _build(self, sizes: Sizes) -> None:
        """Register nothing: the method has no state."""

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        return torch.where(values > 0, 1 / values, 0.0)  # [K]; a task without rows has a loss of 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.synthesize(Path(folder), rows=5_000, click_rate=0.2, conversion_rate=0.3)
        data = recmtl.prepare(
            recmtl.card("aliexpress"), f"{folder}/train.csv", f"{folder}/valid.csv", f"{folder}/test.csv"
        )
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[32, 16])
    trainer = recmtl.Trainer(model, GeometricMean(), epochs=2, optimization=recmtl.Optimization(batch_size=256))
    print(trainer.fit(data.train, data.valid).evaluate(data.test))


if __name__ == "__main__":
    main()
