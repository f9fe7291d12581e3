"""The best weights of a training so far: in the run folder, or in memory without one."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.features.embedding_table import spread_tables
from recmtl.features.saved_tables import spread_weights, whole_weights
from recmtl.runs.checkpoints import save_checkpoint
from recmtl.runs.folder import BEST, RunFolder
from recmtl.train.setup import TrainingSetup


class BestWeights:
    """Keeps a copy of the model's weights in the first process, and of spread tables in each process its part."""

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        self._weights: dict[str, Tensor] | None = None  # without a run folder

    def save(self, epoch: int) -> None:
        """Keep the weights as they are."""
        model, setup = self._setup.model, self._setup
        if setup.run.folder:
            state = {"fingerprint": model.schema.fingerprint, "epoch": epoch, "model": whole_weights(model)}
            save_checkpoint(setup.folder, BEST, state, spread_weights(model), setup.processes)
        else:
            own = model.state_dict() if setup.processes.first else own_weights(model)
            self._weights = copy.deepcopy(own)

    def load(self) -> None:
        """Load the weights that were kept."""
        setup = self._setup
        if self._weights is not None:
            setup.model.load_state_dict(self._weights, strict=setup.processes.first)
        elif (spread := spread_tables(setup.model)) or setup.folder:
            folder, readers = RunFolder(setup.run.folder or ""), setup.processes if spread else SINGLE_PROCESS
            setup.load_weights(folder.load_checkpoint(BEST, setup.device, readers), folder.path)


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return this process's part of the tables that are spread over processes, by name."""
    return {f"{name}.weight": table.weight.detach() for name, table in spread_tables(model).items()}
