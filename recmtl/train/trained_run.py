"""A finished run from which another training starts: its weights and its balancer, whose schema may have grown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from recmtl.balance import Balancer
from recmtl.balance.restoring import balancer_of_state
from recmtl.errors import RunError
from recmtl.features.growth import RowOrigins, model_origins
from recmtl.features.saved_tables import saved_weights
from recmtl.io.files import digest
from recmtl.models import RankingModel
from recmtl.runs.checkpoint_file import TABLES, read_checkpoint
from recmtl.runs.folder import BEST, RunFolder
from recmtl.schema import FittedSchema

BalancerState = Literal["keep", "fresh"]
FINGERPRINT_LETTERS = 16
FORK = "fork."  # what the names of the balancer's state begin with
START_AGAIN = "leave out the options of the balancer, or let it start anew by `--trainer.balancer_state fresh`"


@dataclass(frozen=True)
class TrainedRun:
    """A finished run from which another training starts.

    Args:
        folder: Its folder.
        schema: Its fitted schema.
    """

    folder: RunFolder
    schema: FittedSchema

    @classmethod
    def open(cls, folder: str | Path) -> TrainedRun:
        """Open the folder of a run.

        Raises:
            RunError: The run is unfinished.
            DataError: The folder is no run.
        """
        run = RunFolder(folder)
        schema = run.schema()
        if not run.finished:
            raise RunError(f"{str(run.path)!r} holds an unfinished run: resume it first, by `--run` and `--resume`")
        return cls(run, schema)

    def record(self) -> dict[str, str]:
        """Return what identifies the run: its folder, and the hashes of its weights and its schema."""
        weights = digest(self.folder.checkpoint(BEST))[:FINGERPRINT_LETTERS]
        return {"run": str(self.folder.path), "weights": weights, "schema": self.schema.fingerprint}

    def balancer(self) -> Balancer:
        """Return a new balancer like that of the run."""
        return self._balancer_of(read_checkpoint(self.folder.checkpoint(BEST))["model"])

    def _balancer_of(self, state: Mapping[str, Any]) -> Balancer:
        try:
            return balancer_of_state(state, FORK)
        except (RuntimeError, LookupError) as error:
            raise RunError(f"the balancer of {str(self.folder.path)!r} cannot be built: {error}") from error

    def origins(self, model: RankingModel) -> Mapping[str, RowOrigins]:
        """Return the origins of those parameters of a model that grow with its schema.

        Raises:
            RunError: The schema of the model does not extend the run's.
        """
        own = model.schema
        if self.schema.fingerprint not in (own.fingerprint, *own.history.parents):
            raise RunError(
                f"the model's schema does not extend that of {str(self.folder.path)!r}: prepare the rows by "
                "`recmtl.prepare(…, extend=run)`, or `recmtl prepare --extend RUN`"
            )
        return model_origins(model, self.schema, own)

    def load_weights(self, model: RankingModel, balancer: BalancerState) -> None:
        """Load the best weights of the run, and its balancer's state, into a model with a balancer.

        Raises:
            RunError: The checkpoint is damaged or that of another model, or the balancer is another one.
        """
        assert isinstance(model.fork, Balancer)
        saved = self.folder.load_checkpoint(BEST, processes=model.fork.processes)
        state, own = {**saved["model"], **saved_weights(saved.get(TABLES), model)}, model.state_dict()
        for name, origins in self.origins(model).items():
            if name in state and state[name].shape[1:] == own[name].shape[1:]:
                state[name] = origins.grown(state[name], own[name].cpu())
        if balancer == "fresh":
            self._check_views(model, state)
            state = {name: value for name, value in state.items() if not name.startswith(FORK)}
            state |= {name: value for name, value in own.items() if name.startswith(FORK)}
        else:
            self._check_balancer(model, state)
        try:
            model.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())
            raise RunError(f"the run {str(self.folder.path)!r} does not fit the model: {detail}") from error

    def _check_views(self, model: RankingModel, state: Mapping[str, Any]) -> None:
        """Check that no head of the run reads its view through a rotation, which another balancer would replace."""
        before = self._balancer_of(state)
        before.load_state_dict({k.removeprefix(FORK): v for k, v in state.items() if k.startswith(FORK)})
        if before.changes_views(len(model.heads), model.view_features):
            raise RunError(
                f"the heads of {str(self.folder.path)!r} were trained behind the rotations of {type(before).__name__}, "
                "without which they predict something else: keep its state"
            )

    def _check_balancer(self, model: RankingModel, state: Mapping[str, Any]) -> None:
        """Check that the run was balanced by the same method for the same tasks."""
        content = json.loads(bytes(state[f"{FORK}_extra_state"].tolist()))
        fork, before = model.fork, content["class"].rpartition(".")[2]
        assert isinstance(fork, Balancer)
        if before != type(fork).__name__:
            raise RunError(
                f"{str(self.folder.path)!r} was balanced by {before}, not {type(fork).__name__}: {START_AGAIN}"
            )
        if content["names"] is not None and tuple(content["names"]) != fork.names:
            raise RunError(
                f"{str(self.folder.path)!r} balanced {', '.join(content['names'])}, not "
                f"{', '.join(fork.names or ())}: {START_AGAIN}"
            )
        if not torch.equal(fork.sizes.cpu(), state[f"{FORK}sizes"].cpu()):
            raise RunError(
                f"{before} keeps a state for each shared part, and there are more than in "
                f"{str(self.folder.path)!r}, such as those of new domains: {START_AGAIN}"
            )
