"""Whether a training can still come to something: looked at where it is logged, measured or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recmtl.data import Rows
from recmtl.errors import DivergenceError
from recmtl.features import EmbeddingTable
from recmtl.runs.folder import BEST, CHECKPOINTS
from recmtl.train.losses import DEFAULT_LOSS
from recmtl.train.nonfinite import NonFiniteEvent, bad_weights, weights
from recmtl.train.step import Step

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer


from typing import NamedTuple

import pyarrow as pa

from recmtl.balance import SharedTensor, gradient_stats
from recmtl.data import Loader
from recmtl.io.memory import explain_oom
from recmtl.models import RankingModel
from recmtl.models.base import starting_bias
from recmtl.train.losses import Losses
from recmtl.train.options import Optimization
from recmtl.train.predictor import inferring
from recmtl.train.step import in_row_mode

ABSURD = 100.0  # times the loss at the start, or that of the labels' mean: no training that learns comes there
SQUARES = {"mse"}  # losses that grow with the square of an error
FEW, ONE = 0.02, 0.001  # of the different predictions at the start: hardly any is left; as good as none
WORSE = 1.05  # times the loss of the labels' mean
VARIED = 50  # different predictions at the start, from which on their loss means anything
EARLY = 20  # steps in which a model may still overcome what the first ones did to it
QUICK = 1_000_000  # numbers in a tensor that every look can afford
NAMES = 6  # that a message holds


class DivergenceMonitor:
    """Looks whether a training can still come to something, and ends it where it cannot.

    Args:
        trainer: The model and the options.
        step: Counts what was not finite.
        rows: The training rows.
        note: Told once of what is bad, but may be overcome.
    """

    def __init__(self, trainer: Trainer, step: Step, rows: Rows, note: Callable[[str], None]) -> None:
        self._trainer, self._step, self._note = trainer, step, note
        self._model, self._objectives = trainer.model, trainer.model.objectives
        self._probe = Probe(trainer.model, rows, trainer.device, trainer.optimization)
        self._start = self._probe.read()
        self._sound_at = 0  # the last step after which all weights were finite
        self._counted = 0
        self._said: set[str] = set()

    def look(self, done: int, losses: Mapping[str, float]) -> None:
        """Look at what was counted and at the weights; the mean losses since the last look may be worth a note.

        Raises:
            DivergenceError: Weights are not finite, or too many steps in a row were not.
        """
        incidents = list(self._step.incidents.found())
        before, self._counted = self._counted, sum(incident.steps for incident in incidents)
        self.check_weights(done, None if self._counted > before else QUICK)
        reached = [incident for incident in incidents if incident.reached]
        if reached:
            self._end(self._too_many(reached))
        for step in sorted({incident.first for incident in incidents}):
            names = {i.name: i.name for i in incidents if i.first == step}
            self._say(names, f"step {step}: left out for not being finite: {{}}")
        high = {t.name: f"{t.name} ({losses[t.name]:.3g})" for t, limit in self._limits() if losses[t.name] > limit}
        hint = f"step {done}: the loss is absurdly high: {{}}: {self._advice}"
        self._say({f"loss {name}": text for name, text in high.items()}, hint)

    def check(self, done: int) -> None:
        """Look at the weights and at what the model makes of training rows.

        Raises:
            DivergenceError: It is by far worse than at the start, or no longer tells rows apart.
        """
        self.check_weights(done)
        now = self._probe.read()
        few = self._dead(now, FEW)
        dead = few if len(few) == len(self._objectives) else self._dead(now, ONE, least=1)
        hopeless = self._absurd(now) or self._lost(dead, now)
        if hopeless and done >= EARLY:
            self._end(f"the training has diverged by step {done}: {listed(hopeless.values())}: {self._advice}")
        self._say(hopeless or few, f"step {done}: {{}}: {self._advice}")

    def check_weights(self, done: int, largest: int | None = None) -> None:
        """Look at all weights, so that none that is not finite is kept.

        Args:
            done: The steps done.
            largest: Tensors of more numbers are not looked at.

        Raises:
            DivergenceError: Some are not finite.
        """
        state = weights(self._model)
        quick = {name: tensor for name, tensor in state.items() if largest is None or tensor.numel() <= largest}
        bad = bad_weights(self._model, quick)
        if bad:
            since = self._sound_at + 1
            when = f"in step {done}" if done <= since else f"in one of the steps {since} to {done}"
            self._end(f"the weights of {listed(bad)} became NaN or infinite {when}: {self._advice}")
        if len(quick) == len(state):
            self._sound_at = done

    def state_dict(self) -> dict[str, Any]:
        """Give what the model was at the start, and what was said."""
        return {"losses": self._start.losses, "values": self._start.values, "said": sorted(self._said)}

    def load_state_dict(self, state: Mapping[str, Any], done: int) -> None:
        """Go on from what another one's `state_dict` gave."""
        self._start, self._said, self._sound_at = Reading(state["losses"], state["values"]), set(state["said"]), done

    def _limits(self) -> Iterator[tuple[Any, float]]:
        """Each objective, and the loss above which it is absurd; where labels do not vary, none is."""
        for task, *losses in zip(self._objectives, self._start.losses, self._probe.constant, strict=True):
            factor = ABSURD**2 if (task.loss or DEFAULT_LOSS[task.kind]) in SQUARES else ABSURD
            yield task, factor * max(losses) if losses[1] else float("inf")

    def _absurd(self, now: Reading) -> dict[str, str]:
        """By name the objectives whose loss is absurd, and how high it is.

        NaN is not: it may come of a single row, and where it comes of all, no prediction is left.
        """
        found = zip(self._limits(), now.losses, self._start.losses, strict=True)
        return {
            task.name: f"the loss of {task.name!r} on training rows is {loss:.3g}, and was {before:.3g} at the start"
            for (task, limit), loss, before in found
            if loss > limit
        }

    def _dead(self, now: Reading, share: float, least: int = 0) -> dict[str, str]:
        """By name the objectives of which no more than a share of the different predictions is left, and how few.

        A single task that has none at all, as none is finite, is left to what becomes of such losses.
        """
        found = zip(self._objectives, now.values, self._start.values, self._probe.constant, strict=True)
        return {
            task.name: f"{task.name!r} has {few:,} different predictions for {self._probe.rows:,} training rows, and "
            f"had {before:,} at the start"
            for task, few, before, learnable in found
            if learnable and before >= VARIED and least <= few <= max(1, share * before)
        }

    def _lost(self, dead: Mapping[str, str], now: Reading) -> dict[str, str]:
        """Those that will not come back: worse than the labels' mean, or all of them and without any gradient.

        A model that has learned the labels' mean, as there is nothing else to learn or its weights decay, is sound.
        """
        if len(dead) == len(self._objectives) and all(self._probe.stuck()):
            return dict(dead)
        means = zip(self._objectives, now.losses, self._probe.constant, strict=True)
        worse = {task.name for task, loss, mean in means if loss > WORSE * mean}
        return {name: text for name, text in dead.items() if name in worse}

    def _too_many(self, reached: Sequence[NonFiniteEvent]) -> str:
        names = listed(i.name for i in reached)
        first, limit = min(i.reached for i in reached), self._trainer.optimization.nonfinite_steps
        if self._trainer.optimization.nonfinite == "error":
            return f'not finite in step {first}: {names}: {self._advice}, or leave it out by `nonfinite` "skip"'
        return f"not finite in {limit} steps in a row, up to step {first}: {names}: {self._advice}"

    @property
    def _advice(self) -> str:
        clip = "" if self._trainer.optimization.clip_norm else ", or set `clip_norm`"
        decay = any(group.get("weight_decay") for group in self._step.optimizers[0].param_groups)
        return f"lower the learning rate ({self._step.learning_rate:g} by now){' or `weight_decay`' * decay}{clip}"

    def _end(self, reason: str) -> None:
        folder = self._trainer.folder
        kept = [*folder.steps().values()] if folder else []
        if folder and not kept and folder.checkpoint(BEST).exists():
            kept = [folder.path / CHECKPOINTS / BEST]
        raise DivergenceError(reason + (f"; {kept[-1]} holds the last good weights" if kept else ""))

    def _say(self, found: Mapping[str, str], text: str) -> None:
        """Say once of each name what was found."""
        new = {name: said for name, said in found.items() if name not in self._said}
        if new:
            self._note(text.format(listed(new.values())))
        self._said.update(new)


def listed(names: Iterable[str]) -> str:
    """List names, the first ones of many."""
    names = list(names)
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


STRETCHES, STRETCH = 64, 128  # of rows all over the training rows


class Reading(NamedTuple):
    """What a model makes of the rows, objective by objective.

    Args:
        losses: The loss.
        values: How many different predictions there are, those that are not finite left out.
    """

    losses: list[float]
    values: list[int]


class Probe:
    """Measures a model on the same training rows again and again, without dropout.

    Args:
        model: The model.
        rows: The training rows.
        device: Where the model is.
        options: Name the precision.

    Attributes:
        rows: How many rows are taken.
        constant: The loss of each objective for a model that predicts the mean of the labels for all rows; 0 where
            the labels do not vary.
    """

    def __init__(self, model: RankingModel, rows: Rows, device: torch.device, options: Optimization) -> None:
        self._model, self._device, self._options = model, device, options
        self._losses = Losses(model.schema.schema, model.objectives)
        sample = stretches_of(rows)
        self.rows = len(sample)
        self._batch = next(Loader(sample, self.rows, device).epoch())
        rates = [(task, model.schema.rate(task)) for task in model.objectives]
        biases = {task.name: starting_bias(task, rate) for task, rate in rates}
        losses = self._measured({n: torch.full((self.rows,), b, device=device) for n, b in biases.items()})
        one_class = [task.kind == "binary" and rate.mean in (0, 1) for task, rate in rates]
        self.constant = [0.0 if one else loss for one, loss in zip(one_class, losses, strict=True)]

    def read(self) -> Reading:
        """Measure the model. Waits for the device."""
        predictions = explain_oom(f"predictions of {self.rows:,} training rows at once")
        plain = torch.inference_mode(False)
        with predictions, inferring(self._model, self._device, self._options), plain, torch.no_grad():
            logits = self._model(self._batch)
        values = [len(found[found.isfinite()].unique()) for found in (logits[t.name] for t in self._model.objectives)]
        return Reading(self._measured(logits), values)

    def stuck(self) -> list[bool]:
        """Say of each objective whether it would move nothing that is shared, or that embeds: all units are off."""
        tables = [m for m in self._model.modules() if isinstance(m, EmbeddingTable) and m.weight.requires_grad]
        learning = torch.inference_mode(False), torch.enable_grad(), in_row_mode(tables)
        with inferring(self._model, self._device, self._options), learning[0], learning[1], learning[2]:
            losses = self._losses(self._model(self._batch), self._batch)
            leaves = [SharedTensor(*tensor) for tensor in self._model.shared().tensors]
            norms = gradient_stats(losses, leaves or [SharedTensor(table.gathered.rows) for table in tables]).norms
        return [norm == 0 and bool(leaves or tables) for norm in norms.tolist()]

    def _measured(self, logits: dict[str, Tensor]) -> list[float]:
        return torch.stack(list(self._losses(logits, self._batch).values())).tolist()


def stretches_of(rows: Rows) -> Rows:
    """Take stretches of rows from all over them, or all where there are few."""
    if len(rows) <= STRETCHES * STRETCH:
        return rows
    starts = [i * (len(rows) - STRETCH) // (STRETCHES - 1) for i in range(STRETCHES)]
    return Rows(rows.schema, pa.concat_tables([rows.table.slice(start, STRETCH) for start in starts]), rows.name)
