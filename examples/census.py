"""Two tasks on Census-Income, from the files to a table: python examples/census.py FOLDER

FOLDER holds census_train.csv.gz and census_valid.csv.gz. The training file alone decides the weights and when to stop.
"""

import argparse
from pathlib import Path

import torch

import recmtl


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    data = recmtl.prepare(
        recmtl.card("census_income"),
        train=arguments.folder / "census_train.csv.gz",
        test=arguments.folder / "census_valid.csv.gz",
    )
    for balancer in (recmtl.Sum(), recmtl.NormalizedSplitter()):
        torch.manual_seed(0)
        model = recmtl.SharedBottom(data.schema, layers=[128, 64], style=recmtl.LayerStyle(dropout=0.2))
        trainer = recmtl.Trainer(
            model,
            balancer,
            epochs=arguments.epochs,
            optimization=recmtl.Optimization(batch_size=512),
            stopping=recmtl.EarlyStopping(monitor="income.auc", patience=2),
        )
        print(type(balancer).__name__)
        print(trainer.fit(data.train, data.valid).evaluate(data.test))


if __name__ == "__main__":
    main()
