"""Detection of diverged training: NaN and infinite values, counted on the device, and losses that stay too high."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recmtl.balance import Balancer, ProcessGroup
from recmtl.balance.backward import nonfinite_and_zero, on_host
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.errors import DivergenceError, shortened
from recmtl.features import EmbeddingTable
from recmtl.features.embedding_table import spread_tables
from recmtl.models.links import link_of
from recmtl.runs.folder import BEST, CHECKPOINTS
from recmtl.train.setup import TrainingSetup

COUNTER_STATE = ("steps", "counts", "streaks", "first", "reached", "trained", "skipped")
LOSS_FACTOR = 100.0  # times the loss of the first step or of the label rate: training that learns stays below
SQUARED_LOSSES = {"mse"}  # which grow with the square of an error
HIGH_STEPS = 20  # a loss that stays too high for so many steps ends training
SKIPPED_STEPS = 3  # in a row, at least, end a training that goes on: the only step of an epoch may be a bad one
SMALL_TENSOR = 1_000_000  # elements; larger tensors are not checked at every logged step


class NonFiniteEvent(NamedTuple):
    """The steps in which something was not finite."""

    name: str  # of a task, a layer or a feature
    steps: int  # their number
    first: int  # the first of them, counted from 1
    reached: int  # the step that completed the longest run of steps allowed; 0 if none did


class NonFiniteCounter:
    """Counts the steps in which a task, a layer's gradient or a feature's embedding gradient is not finite.

    All state is on the device and updated in place, so that the steps of a CUDA graph count too. Of tables in row mode
    the gathered rows are checked, in all processes if the rows are spread over them; `limit` consecutive steps are too
    many, without those in which a task had no label. `trained` is the last step that trained a task or a tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        balancer: Balancer,
        layers: Sequence[nn.Parameter],
        tables: Sequence[EmbeddingTable],
        limit: int,
    ) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        checked = {id(layer) for layer in layers} | {id(table.weight) for table in tables}
        all_tables = (module for module in model.modules() if isinstance(module, EmbeddingTable))
        self._tables = [table for table in all_tables if id(table.weight) in checked]
        labels = balancer.labels if len(balancer.labels or ()) == len(balancer.skipped) else None
        self._tasks = [str(label) for label in labels or range(len(balancer.skipped))]
        features = [f"feature {owner}" for table in self._tables for owner in table.owners]
        tensors = [*layers, *(table.weight for table in tables)]
        self.names = [*(f"task {t}" for t in self._tasks), *(names[id(tensor)] for tensor in tensors), *features]
        self._gradients = slice(len(self._tasks), len(self._tasks) + len(tensors))
        self._place = {id(tensor): place for place, tensor in enumerate(tensors)}
        spread = {id(table.weight) for table in tables if table.sharded}
        of_features = [id(table.weight) in spread for table in self._tables for _ in table.owners]
        flags = [*(False for _ in self._tasks), *(id(tensor) in spread for tensor in tensors), *of_features]
        self._spread = torch.tensor(flags, device=balancer.skipped.device).nonzero().flatten() if spread else None
        self._balancer, self.limit = balancer, limit
        self.skipped, self.steps = balancer.skipped.clone(), balancer.skipped.new_zeros(())  # by the last step's end
        self._matrices = [n for n, tensor in enumerate(tensors, len(self._tasks)) if tensor.dim() > 1]
        self._none = torch.zeros(len(self.names), dtype=torch.bool, device=self.skipped.device)
        state = self.skipped.new_zeros(5, len(self.names))
        self.counts, self.streaks, self.trained, self.first, self.reached = state.unbind()
        self._steps_found = state[3:]  # first, reached

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor]) -> None:
        """Set the non-finite entries of a step's gradients (layers, then gathered rows) to zero, and count them."""
        norms = [table.gradient_norms() for table in self._tables]
        marks, zero = nonfinite_and_zero(tensors)
        pairs = zip(self._tables, norms, strict=True)  # of a marked table, features with bad norms
        features = [marks[self._place[id(table.weight)]] > (norm < math.inf) for table, norm in pairs]
        left_out, of_features = self._balancer.skipped != self.skipped, self._none[self._gradients.stop :]
        both = torch.cat([left_out, marks, *features, self._absent(), zero, of_features]).view(2, -1)
        bad, still = both
        if self._spread is not None:  # each process has seen its own rows
            found, moved = self._balancer.processes.sum(bad[self._spread], ~still[self._spread])
            bad[self._spread], still[self._spread] = found > 0, moved == 0
        self.skipped.copy_(self._balancer.skipped)
        self.steps += 1
        self.counts += bad
        stopped = both.any(0)
        self.streaks.add_(bad).mul_(stopped)
        torch.where(stopped, self.trained, self.steps, out=self.trained)
        now = (self._steps_found == 0) & torch.stack([bad, self.streaks == self.limit])
        torch.where(now, self.steps, self._steps_found, out=self._steps_found)

    def _absent(self) -> Tensor:
        """Return which tasks have a loss of exactly 0, as those without a label in the batch have, bool ``[tasks]``."""
        losses = self._balancer.losses
        return self._none[: len(self._tasks)] if losses is None or len(losses) != len(self._tasks) else losses == 0

    def skip(self, tensors: Sequence[Tensor]) -> None:
        """Count a step that was skipped as a whole, and what was not finite in it if the tensors are given."""
        trained = self.trained.clone()
        if tensors:
            self.update(tensors)
        else:
            self.steps += 1
        self.trained.copy_(trained)

    def events(self, state: Mapping[str, Tensor] | None = None) -> list[NonFiniteEvent]:
        """Return what was not finite so far, by a `state_dict` that was read before. Waits for the device without."""
        state = state or self.state_dict()
        rows = torch.stack([state["counts"], state["first"], state["reached"]], 1).tolist()
        return [NonFiniteEvent(name, *row) for name, row in zip(self.names, rows, strict=True) if row[0]]

    def skipped_steps(self, state: Mapping[str, Tensor] | None = None) -> dict[str, int]:
        """Return how often something was left out; names without any are missing. As `events`, it may wait.

        Steps by the name of the objective (of the head, for representation methods) whose loss or shared gradient was
        left out, and under `gradients` the number of tensors that had entries set to 0.
        """
        state = state or self.state_dict()
        counts = dict(zip(self._tasks, state["skipped"].tolist(), strict=True))
        counts["gradients"] = int(state["counts"][self._gradients].sum())
        return {name: count for name, count in counts.items() if count}

    def idle(self) -> int:
        """Return how many steps, up to the last one, trained nothing. Waits for the device.

        In such a step every task was left out or had no label, or no weight matrix had a finite gradient other than 0.
        """
        trained = self.trained.tolist()
        of_tasks, of_matrices = trained[: len(self._tasks)], [trained[place] for place in self._matrices]
        return int(self.steps - min(max(part) for part in (of_tasks, of_matrices) if part))

    def skipped_in_a_row(self, ended: bool, overflows: int) -> int:
        """Return what `idle` does, or 0 if fewer than 3 of these steps were not finite. Waits for the device.

        One is enough if a training `ended` that trained nothing. `overflows` of them were not taken.
        """
        idle, streaks = self.idle(), self.streaks.tolist()
        failed = max(overflows, *streaks[: len(self._tasks)], *(streaks[place] for place in self._matrices))
        return idle if failed >= (1 if ended and idle == int(self.steps) else SKIPPED_STEPS) else 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {name: getattr(self, name) for name in COUNTER_STATE}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the counts that `state_dict` returned."""
        for name in COUNTER_STATE:
            getattr(self, name).copy_(state[name])


class DivergenceMonitor:
    """Ends training that has diverged.

    That is: weights are not finite, too many consecutive steps were not, all steps of an epoch were skipped, or the
    loss of an objective stays far above that of the first step and that of predicting the label rate. The losses
    ``[K]`` of the first step must be set as `first_losses`.

    Args:
        setup: The setup.
        counter: Counts what was not finite.
        optimizer: The optimizer of the model.
        skipped_in_a_row: What `Step.skipped_in_a_row` returns.
        note: Called once for each problem that training may overcome.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        counter: NonFiniteCounter,
        optimizer: Optimizer,
        skipped_in_a_row: Callable[[bool], int],
        note: Callable[[str], None],
    ) -> None:
        self._setup, self._counter, self._optimizer, self._note = setup, counter, optimizer, note
        self._skipped_in_a_row = skipped_in_a_row
        self.first_losses: Tensor | None = None
        self._high_since: dict[str, int] = {}  # the step of the first of the last logs in which a loss was too high
        self._finite_at = 0  # the last step after which all weights were finite
        self._counted = 0
        self._noted: set[str] = set()

    def to_read(self) -> dict[str, Tensor | None]:
        """Return what `check` needs of the device: the counts, which small weights are finite, and the first losses."""
        finite = finite_by_tensor(self._small_tensors().values())
        return {**self._counter.state_dict(), "first_losses": self.first_losses, "finite": finite}

    def check(self, done: int, losses: Mapping[str, float], read: Mapping[str, Any]) -> None:
        """Check the counts, small weights, and the mean losses since the last check; raise a `DivergenceError`.

        `read` is what `to_read` returned, in the host's memory.
        """
        events = self._counter.events(read)
        before, self._counted = self._counted, sum(event.steps for event in events)
        if self._counted > before:
            self.check_weights(done)
        else:
            self._check_finite(done, self._small_tensors(), read["finite"])
        if reached := [event for event in events if event.reached]:
            good = min(event.reached for event in reached) - self._counter.limit
            self._end(self._too_many([self._with_own_loss(event) for event in reached]), good)
        for step in sorted({event.first for event in events}):
            names = {event.name: self._with_own_loss(event).name for event in events if event.first == step}
            self._note_once(names, f"step {step}: left out for not being finite: {{}}")
        self._check_losses(done, losses, read["first_losses"])

    def check_weights(self, done: int) -> None:
        """Raise a `DivergenceError`, in all processes, if weights are not finite. Waits for the device."""
        tensors = float_tensors(self._setup.model)
        finite = finite_by_tensor(tensors.values())
        if spread_tables(self._setup.model):
            finite = self._setup.processes.sum(~finite)[0] == 0
        self._check_finite(done, tensors, finite)

    def check_skipped(self, done: int, epoch: int, ended: bool) -> None:
        """Raise a `DivergenceError` if all steps of an epoch or of the training were skipped. Waits for the device.

        Args:
            done: The number of steps done.
            epoch: The number of steps of an epoch.
            ended: Whether no step follows.
        """
        skipped, limit = self._skipped_in_a_row(ended), max(epoch, SKIPPED_STEPS)
        if skipped < (min(done, limit) if ended else limit):
            return
        names = shortened(self._with_own_loss(event).name for event in self._counter.events())
        which = f"all {done} steps" if skipped >= done else f"the last {skipped} steps, up to step {done},"
        precision = self._setup.optimization.precision
        other = "" if precision == "fp32" else f", or train in `precision` 'fp32' instead of {precision!r}"
        reason = f"{which} trained nothing because losses or gradients were not finite{f' ({names})' if names else ''}"
        self._end(f"{reason}: look at labels and numbers, {self._advice}{other}", done - skipped)

    def _small_tensors(self) -> dict[str, Tensor]:
        spread = {f"{name}.weight" for name in spread_tables(self._setup.model)}  # of which processes have other parts
        tensors = float_tensors(self._setup.model)
        return {name: t for name, t in tensors.items() if t.numel() <= SMALL_TENSOR and name not in spread}

    def _check_finite(self, done: int, tensors: Iterable[str], finite: Tensor) -> None:
        names = [name for name, good in zip(tensors, finite.tolist(), strict=True) if not good]
        bad = [part for name in names for part in nonfinite_parts(self._setup.model, name, self._setup.processes)]
        if bad:
            since = self._finite_at + 1
            when = f"in step {done}" if done <= since else f"in one of the steps {since} to {done}"
            self._end(f"the weights of {shortened(bad)} became NaN or infinite {when}: {self._advice}", done)
        if len(finite) == len(float_tensors(self._setup.model)):
            self._finite_at = done

    def state_dict(self) -> dict[str, Any]:
        """Return the losses of the first step, since when losses are too high, and what was noted."""
        return {"losses": self.first_losses, "high": self._high_since, "said": sorted(self._noted)}

    def load_state_dict(self, state: Mapping[str, Any], done: int) -> None:
        """Load what `state_dict` returned after so many steps."""
        self.first_losses, self._high_since = state["losses"], dict(state["high"])
        self._noted, self._finite_at = set(state["said"]), done

    def _check_losses(self, done: int, losses: Mapping[str, float], first_losses: Tensor) -> None:
        first, limits = self._first_and_limits(first_losses)
        high = [name for name, loss in losses.items() if loss > limits.get(name, math.inf)]
        self._high_since = {name: self._high_since.get(name, done) for name in high}
        since = min(self._high_since.values(), default=done)
        if done - since >= HIGH_STEPS:
            found = (f"the loss of {n!r} is {losses[n]:.3g}, and was {first[n]:.3g} in the first step" for n in high)
            self._end(f"the training has diverged by step {done}: {shortened(found)}: {self._advice}", since - 1)
        text = f"step {done}: the loss is far too high: {{}}: {self._advice}"
        self._note_once({f"loss {name}": f"{name} ({losses[name]:.3g})" for name in high}, text)

    def _first_and_limits(self, first_losses: Tensor) -> tuple[dict[str, float], dict[str, float]]:
        """Return by objective the loss of the first step, and the one above which it is too high."""
        model, first, limits = self._setup.model, dict[str, float](), dict[str, float]()
        values = first_losses.nan_to_num(nan=0.0, posinf=0.0).tolist()
        losses = model.task_losses.by_objective(dict(zip(model.loss_names, values, strict=False)))
        for task in model.objectives:
            loss = losses[task.name]
            constant = task.weight * link_of(task).constant_loss(task, model.schema.rate(task), model.schema)
            limit = LOSS_FACTOR ** (2 if task.loss_name in SQUARED_LOSSES else 1) * max(loss, constant)
            first[task.name], limits[task.name] = loss, math.inf if task.own_loss else limit or math.inf
        return first, limits

    def _with_own_loss(self, event: NonFiniteEvent) -> NonFiniteEvent:
        """Return an event, that of a task with a loss of one's own with its name."""
        own = {f"task {task.name}": task.loss_name for task in self._setup.model.objectives if task.own_loss}
        loss = own.get(event.name.partition("@")[0])
        return event if loss is None else event._replace(name=f"{event.name}, by its loss {loss}")

    def _too_many(self, reached: Sequence[NonFiniteEvent]) -> str:
        names = shortened(event.name for event in reached)
        options = self._setup.optimization
        first, limit = min(event.reached for event in reached), options.nonfinite_steps
        if options.nonfinite == "error":
            return f'not finite in step {first}: {names}: {self._advice}, or leave it out by `nonfinite` "skip"'
        return f"not finite in {limit} steps in a row, up to step {first}: {names}: {self._advice}"

    @property
    def _advice(self) -> str:
        groups = self._optimizer.param_groups
        clip = "" if self._setup.optimization.clip_norm else ", or set `clip_norm`"
        decay = " or `weight_decay`" if any(group.get("weight_decay") for group in groups) else ""
        return f"lower the learning rate ({float(groups[0]['lr']):g} by now){decay}{clip}"

    def _end(self, reason: str, good: int) -> None:
        """Raise a `DivergenceError`, with the last checkpoint up to the step whose weights were `good`."""
        folder = self._setup.folder if good else None
        kept = [path for step, path in folder.steps().items() if step <= good] if folder else []
        if folder and not kept and folder.checkpoint(BEST).exists():
            kept = [folder.path / CHECKPOINTS / BEST]
        raise DivergenceError(reason + (f"; {kept[-1]} holds the last good weights" if kept else ""))

    def _note_once(self, found: Mapping[str, str], text: str) -> None:
        """Put what was found into the text and note it, but for the keys that were noted before."""
        new = {name: what for name, what in found.items() if name not in self._noted}
        if new:
            self._note(text.format(shortened(new.values())))
        self._noted.update(new)


def float_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return by name the floating-point tensors of a model's state."""
    tensors = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def finite_by_tensor(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether all entries of each tensor are finite, bool ``[tensors]`` on their device."""
    tensors = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in tensors]
    if not tensors:
        return torch.ones(0, dtype=torch.bool)
    if on_host(tensors[0]):
        return torch.stack([torch.stack(torch.aminmax(tensor)).isfinite().all() for tensor in tensors])
    largest = torch._foreach_norm([tensor.detach() for tensor in tensors], float("inf"))  # a few launches for all
    return torch.stack(largest).isfinite()


def nonfinite_parts(model: nn.Module, name: str, processes: ProcessGroup = SINGLE_PROCESS) -> list[str]:
    """Return the name of a tensor that is not all finite; of an embedding table, those of the features."""
    module, _, last = name.rpartition(".")
    table = model.get_submodule(module)
    if not (isinstance(table, EmbeddingTable) and last == "weight"):
        return [name]
    found = table.owners_of(~table.weight.detach().isfinite().all(1))
    every = processes.all_gather_object(found) if table.sharded else [found]
    return [f"feature {owner}" for owner in table.owners if any(owner in each for each in every)]
