"""A model of one day, scored as a service would, and trained on with the rows of the next day."""

import tempfile
from pathlib import Path

import pandas as pd
import torch

import recmtl


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.plant_days(Path(folder), rows=3_000, days=3)
        days = [f"{folder}/days/date=2024-01-0{day}/rows.csv" for day in (1, 2, 3)]
        data = recmtl.prepare(recmtl.card(f"{folder}/card.yaml"), days[0])
        torch.manual_seed(0)
        model = recmtl.SharedBottom(data.schema, layers=[16])
        trainer = recmtl.Trainer(model, epochs=2, run=recmtl.RunConfig(progress=False)).fit(data.train, data.valid)
        trainer.save(f"{folder}/first")

        recmtl.export_model(trainer, f"{folder}/model", format="torch", rows=data.valid)
        scorer = recmtl.Scorer(f"{folder}/model")
        requests = pd.read_csv(days[1], nrows=3)[list(scorer.fields)].to_dict("records")
        for task, scores in scorer.score(requests).items():
            print(f"{task} of three rows of the second day: {scores.round(3)}")

        second = recmtl.continue_run(f"{folder}/first", days[1], folder=f"{folder}/second", note=print)
        for name, trained in {"the first day": trainer, "two days": second}.items():
            auc = trained.evaluate(trained.encode(days[2]))["auc"]
            print(f"AUC on the third day, trained on {name}: " + ", ".join(f"{t} {a:.3f}" for t, a in auc.items()))


if __name__ == "__main__":
    main()
