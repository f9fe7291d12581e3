"""A model trained with RotoGrad, exported for serving without the balancer and without recmtl."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import recmtl


class Served(nn.Module):
    """From two tensors to a probability per task."""

    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model.fold().eval()  # rotations are now part of the towers' first layers

    def forward(self, ids: Tensor, numeric: Tensor) -> dict[str, Tensor]:
        batch = recmtl.Batch(ids, numeric, labels=numeric[:, :0])
        return {name: logit.sigmoid() for name, logit in self.model(batch).items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.synthesize(Path(folder), rows=5_000, click_rate=0.2, conversion_rate=0.3)
        data = recmtl.prepare(recmtl.card("aliexpress"), f"{folder}/train.csv", f"{folder}/valid.csv")
        torch.manual_seed(0)
        model = recmtl.MMOE(data.schema, experts=2, layers=[32, 16])
        options = recmtl.Optimization(batch_size=256, balancer_rate=0.01)
        trainer = recmtl.Trainer(model, recmtl.RotoGrad(), epochs=2, optimization=options).fit(data.train, data.valid)

        batch = next(recmtl.Loader(data.valid, 500).epoch())
        inputs = batch.ids.clone(), batch.numeric.clone()  # copies, not views of the batch's matrices
        rows = {0: torch.export.Dim("rows")}
        program = torch.export.export(Served(model), inputs, dynamic_shapes={"ids": rows, "numeric": rows})
        torch.export.save(program, f"{folder}/model.pt2")
        served = torch.export.load(f"{folder}/model.pt2").module()

    few = next(recmtl.Loader(data.valid, 100).epoch())  # any number of rows
    expected = trainer.predict(data.valid)
    for name, probability in served(few.ids, few.numeric).items():
        difference = (probability - torch.tensor(expected[name][:100])).abs().max().item()
        print(f"{name}: the exported model differs by {difference:.1e}")


if __name__ == "__main__":
    main()
