"""The best weights of a training so far: in the run folder, or in memory without one."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from recmtl.features.embedding_table import spread_tables
from recmtl.runs.folder import BEST
from recmtl.train.setup import TrainingSetup


class BestWeights:
    """Keeps a copy of the model's weights in the first process, and of spread tables in each process its part."""

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        self._weights: dict[str, Tensor] | None = None  # without a run folder

    def save(self, epoch: int) -> None:
        """Keep the weights as they are."""
        model = self._setup.model
        if self._setup.folder:
            state = {"fingerprint": model.schema.fingerprint, "epoch": epoch, "model": model.state_dict()}
            self._setup.folder.save_best(state)
        elif not self._setup.run.folder:
            own = model.state_dict() if self._setup.processes.first else spread_weights(model)
            self._weights = copy.deepcopy(own)

    def load(self) -> None:
        """Load the weights that were kept."""
        if self._weights is not None:
            self._setup.model.load_state_dict(self._weights, strict=self._setup.processes.first)
        elif self._setup.folder:
            state = self._setup.folder.load_checkpoint(BEST, self._setup.device)
            self._setup.load_weights(state, self._setup.folder.path)


def spread_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return this process's part of the tables that are spread over processes, by name."""
    return {f"{name}.weight": table.weight.detach() for name, table in spread_tables(model).items()}
