"""Your own tower in MMOE: any module from a view [B, D] to [B] or [B, 1]."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import recmtl


class ResidualTower(nn.Module):
    """Two layers with a shortcut around them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        self.output = nn.Linear(features, 1, bias=False)

    def forward(self, view: Tensor) -> Tensor:
        logit: Tensor = self.output(view + self.hidden(view))
        return logit


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.synthesize(Path(folder), rows=5_000, click_rate=0.2, conversion_rate=0.3)
        data = recmtl.prepare(
            recmtl.card("aliexpress"),
            train=f"{folder}/train.csv",
            valid=f"{folder}/valid.csv",
            test=f"{folder}/test.csv",
        )
    torch.manual_seed(0)
    model = recmtl.MMOE(data.schema, experts=2, layers=[32, 16], towers={"ctcvr": ResidualTower})
    # Every balancer still applies; the tower is private to its task.
    trainer = recmtl.Trainer(
        model, recmtl.MetaBalance(target="ctcvr"), epochs=2, optimization=recmtl.Optimization(batch_size=256)
    )
    print(trainer.fit(data.train, data.valid).evaluate(data.test))


if __name__ == "__main__":
    main()
