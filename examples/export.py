"""A model trained with RotoGrad, exported as a folder that scores raw rows without the balancer."""

import tempfile
from pathlib import Path

import pandas as pd
import torch

import recmtl


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.synthesize(Path(folder), rows=5_000, click_rate=0.2, conversion_rate=0.3)
        data = recmtl.prepare(recmtl.card("aliexpress"), f"{folder}/train.csv", f"{folder}/valid.csv")
        torch.manual_seed(0)
        model = recmtl.MMOE(data.schema, experts=2, layers=[32, 16])
        options = recmtl.Optimization(batch_size=256, balancer_rate=0.01)
        trainer = recmtl.Trainer(model, recmtl.RotoGrad(), epochs=2, optimization=options).fit(data.train, data.valid)

        # ONNX by default; rotations become part of the towers' first layers
        found = recmtl.export_model(trainer, f"{folder}/model", format="torch", rows=data.valid)
        print(f"on {found.rows:,} rows the exported model differs by {found.difference:.1e}")

        rows = pd.read_csv(f"{folder}/valid.csv", nrows=100)
        scores, expected = recmtl.Scorer(f"{folder}/model").score(rows), trainer.predict(rows)
    for name in ("ctr", "cvr", "ctcvr"):
        difference = (scores[name] - expected[name]).abs().max()
        print(f"{name}: raw rows are scored with a difference of {difference:.1e}")


if __name__ == "__main__":
    main()
