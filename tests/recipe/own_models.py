"""A model and a tower of a user's own, in a module that a recipe can name."""

from torch import nn

import recmtl


class Bottom(recmtl.RankingModel):
    def __init__(self, schema: recmtl.FittedSchema, width: int = 16) -> None:
        super().__init__(schema)
        self.bottom = recmtl.MLP(self.encoder.out_features, [width])
        self.build_heads(self.objectives, view_features=width)

    def trunk(self, batch: recmtl.Batch) -> tuple:
        return (self.bottom(self.encoder(batch)),) * len(self.heads)

    def shared(self) -> recmtl.Shared:
        return recmtl.Shared.of(self.encoder, self.bottom)


def narrow_tower(features: int) -> nn.Module:
    return nn.Linear(features, 1)
