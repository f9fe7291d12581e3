"""The best weights of a training so far: in the run folder, or in memory without one."""

from __future__ import annotations

import copy

from torch import Tensor

from recmtl.runs.folder import BEST
from recmtl.train.setup import TrainingSetup


class BestWeights:
    """Keeps a copy of the model's weights in the first process."""

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        self._weights: dict[str, Tensor] | None = None  # without a run folder

    def save(self, epoch: int) -> None:
        """Keep the weights as they are."""
        model = self._setup.model
        if not self._setup.processes.first:
            return
        if self._setup.folder:
            state = {"fingerprint": model.schema.fingerprint, "epoch": epoch, "model": model.state_dict()}
            self._setup.folder.save_best(state)
        else:
            self._weights = copy.deepcopy(model.state_dict())

    def load(self) -> None:
        """Load the weights that were kept."""
        if self._weights is not None:
            self._setup.model.load_state_dict(self._weights)
        elif self._setup.folder:
            state = self._setup.folder.load_checkpoint(BEST, self._setup.device)
            self._setup.load_weights(state, self._setup.folder.path)
