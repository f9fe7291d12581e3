"""Your own model: a shared bottom behind a cross layer. From it follow heads, balancers, checkpoints and options.

The command finds it by its module: recmtl train --model own_model.CrossBottom ... (run in the folder of this file).
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import recmtl
from recmtl import MLP, Batch, EncoderFactory, FeatureEncoder, FittedSchema, LayerStyle, RankingModel, Shared, Tower


class CrossBottom(RankingModel):
    """A shared bottom behind one cross layer, which multiplies features (Wang et al., DCN-v2, WWW 2021).

    Args:
        schema: The fitted schema.
        layers: The widths of the shared layers.
        tower_layers: The widths of the hidden layers of the default towers.
        style: Normalization, dropout and activation of the layers.
        towers: Your own towers by task.
        encoder: Builds the encoder.
    """

    def __init__(
        self,
        schema: FittedSchema,
        layers: Sequence[int] = (64, 32),
        tower_layers: Sequence[int] = (32,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        super().__init__(schema, encoder=encoder)
        width = self.encoder.out_features
        self.cross = nn.Linear(width, width)
        self.bottom = MLP(width, layers, style)
        self.build_heads(self.objectives, self.bottom.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return one view of the shared representation per head."""
        x = self.encoder(batch)  # [B, W]
        crossed = x + x * self.cross(x)  # [B, W]
        return (self.bottom(crossed),) * len(self.heads)  # H times [B, D]

    def shared(self) -> Shared:
        """Return the tensors that several tasks train through the trunk."""
        return Shared.of(self.encoder, self.cross, self.bottom)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recmtl.synthesize(Path(folder), rows=5_000, click_rate=0.2, conversion_rate=0.3)
        data = recmtl.prepare(
            recmtl.card("aliexpress"), f"{folder}/train.csv", f"{folder}/valid.csv", f"{folder}/test.csv"
        )
    torch.manual_seed(0)
    options = recmtl.Optimization(batch_size=256)
    trainer = recmtl.Trainer(CrossBottom(data.schema), recmtl.PCGrad(), epochs=2, optimization=options)
    print(trainer.fit(data.train, data.valid).evaluate(data.test))


if __name__ == "__main__":
    main()
