"""The base of every ranking model: encoder, trunk, fork and one head per task."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from recmtl.balance.base import Balancer
from recmtl.balance.restoring import balancer_of_state
from recmtl.balance.shared import SharedTensor, shared_tensors
from recmtl.calibration import Calibration
from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models.head import Head, default_tower
from recmtl.models.links import link_of, predictions_of
from recmtl.models.loss_options import check_untrained
from recmtl.models.losses import Losses
from recmtl.models.recorded_module import RecordedModule
from recmtl.models.thinned_rows import all_rows_logits, counts_sampling_weights
from recmtl.schema import FittedSchema, Schema, Task

Tower = Callable[[int], nn.Module]
"""Builds a tower from D, the width of its view: a module from ``[B, D]`` to ``[B]``, ``[B, 1]`` or ``[B, C]``."""
EncoderFactory = Callable[[FittedSchema], FeatureEncoder]
"""Builds the encoder of a model from the fitted schema."""


class Shared(NamedTuple):
    """The tensors that more than one objective trains through the trunk.

    Args:
        tensors: The shared tensors with their parts.
        last: Those of them that come last before the fork, where `GradNorm` measures (its W); if empty, `GradNorm`
            takes the last shared tensor with two dimensions.
    """

    tensors: tuple[SharedTensor, ...]
    last: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, *modules: nn.Module, last: Sequence[Tensor] = ()) -> Shared:
        """Collect the parameters of modules, in order; encoders have a part per feature, experts a part per expert."""
        return cls(tuple(shared_tensors(*modules)), tuple(last))


class IdentityFork(nn.Module):
    """A fork that returns every view as it is."""

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the views."""
        return tuple(views)

    def fold(self, heads: Iterable[nn.Module], features: int) -> list[nn.Module]:
        """Return copies of the heads."""
        return [copy.deepcopy(head) for head in heads]


class RankingModel(RecordedModule, ABC):
    """The base class of models that predict several tasks from one batch.

    ``model(batch)`` returns the logits (of a regression: the values, in its label's units) by task, ``{name: [B]}``,
    of a multi-class task with C classes ``[B, C]``:

    batch → ``encoder`` → ``trunk`` → H views → ``fork`` → ``heads`` → ``outputs``

    A model of your own needs a constructor and two methods:

    - The constructor calls ``super().__init__(schema)``, which builds ``self.encoder`` (output width
      ``self.encoder.out_features``); then it builds its layers; at last it calls ``build_heads(tasks, view_features)``,
      which builds one head per task and sets ``view_features`` to D, the width of a view.
    - ``trunk(batch)`` returns a tuple of H tensors ``[B, D]``, one view per head in the order of ``heads``. If all
      heads read the same tensor, return it H times: ``(x,) * len(self.heads)``.
    - ``shared()`` returns the tensors that several objectives train through the trunk. In the ordinary case that is
      ``Shared.of(self.encoder, self.bottom)``, all modules that every task uses. Not shared are gates, which belong to
      one head each, and all that comes after the fork: heads and balancer.

    Balancers, towers of your own, checkpoints, export and recipes then work as with the models of the package.
    ``outputs``, ``losses``, ``penalty``, ``expert_usage`` and ``check_schema`` are optional.

    With ``LayerStyle(ensemble=k)`` the model is k networks that share weights. Their rows stand side by side, b·k + i
    for member i: the first layers of the trunk make ``[B·k, …]`` of ``[B, …]``, and so the views are ``[B·k, D]``. In
    training mode the model returns the logits of each member, ``{name: [B, k]}``, and `Losses` averages the members'
    losses. In evaluation mode it returns ``{name: [B]}``: the log-odds of the mean probability, for a regression the
    mean. Heads are averaged before ``outputs``.

    If the training file was thinned, logits are those of the thinned rows in training mode, and those of all rows in
    evaluation mode. The rates of a funnel are made to agree where probabilities are taken of them, by
    `recmtl.schema.consistent_rates`: when a trainer predicts or measures, and in an exported model.

    ``load_state_dict`` takes the state of a trained model with its balancer: a model without one gets that of the
    state, with the same options.

    Attributes:
        schema: The fitted schema.
        encoder: From a batch to ``[B, W]``.
        fork: From H views to H views: the identity, until a trainer puts its balancer there.
        heads: One head per task that is predicted from a view, by name.
        objectives: The tasks whose losses are trained, in the order of the losses.
        task_losses: The losses of the objectives by `Losses`.
        calibration: What calibrates its probabilities; ``None`` leaves them as they are.
        view_features: D, the width of a view.
        ensemble: k, the number of networks that share the weights; 1 without an ensemble.

    Args:
        schema: The fitted schema.
        objectives: The tasks whose losses are trained; those of the schema by default.
        encoder: Builds the encoder; ``None`` for a model that builds its own.

    Raises:
        ValueError: A task of the schema is no objective, and has options of a loss.

    Example:
        >>> import pandas as pd, recmtl
        >>> class Bottom(recmtl.RankingModel):
        ...     def __init__(self, schema, width=16):
        ...         super().__init__(schema)
        ...         self.bottom = recmtl.MLP(self.encoder.out_features, [width])
        ...         self.build_heads(self.objectives, view_features=width)
        ...     def trunk(self, batch):
        ...         return (self.bottom(self.encoder(batch)),) * len(self.heads)
        ...     def shared(self):
        ...         return recmtl.Shared.of(self.encoder, self.bottom)
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> model = Bottom(data.schema)
        >>> {name: tuple(logits.shape) for name, logits in model(next(recmtl.Loader(data.train, 3).epoch())).items()}
        {'ctr': (3,), 'cvr': (3,)}
    """

    encoder: FeatureEncoder

    def __init__(
        self,
        schema: FittedSchema,
        objectives: Sequence[Task] | None = None,
        encoder: EncoderFactory | None = FeatureEncoder,
    ) -> None:
        super().__init__()
        self.check_schema(schema.schema)
        self.schema = schema
        self.objectives = tuple(schema.schema.tasks if objectives is None else objectives)
        check_untrained(type(self).__name__, schema.schema.tasks, self.objectives)
        self.task_losses = Losses(schema, self.objectives)
        self.calibration: Calibration | None = None
        if encoder is not None:
            self.encoder = encoder(schema)
        self.fork: IdentityFork | Balancer = IdentityFork()
        self.heads = nn.ModuleDict()
        self.view_features = 0
        self.ensemble = 1
        self.register_load_state_dict_pre_hook(_restore_fork)  # type: ignore[no-untyped-call]

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check what the model needs of a schema, such as a funnel; by default nothing.

        The constructor calls it, and a recipe before any row is read.

        Raises:
            ValueError: The schema lacks it, or has a task that the model cannot have.
        """

    def build_heads(
        self,
        tasks: Sequence[Task],
        view_features: int,
        layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
    ) -> None:
        """Build one head per task.

        Args:
            tasks: The task that each head predicts.
            view_features: D, the width of a view.
            layers: The hidden layers of the default tower.
            style: Normalisation, activation, dropout, initialisation and ensemble of its layers.
            towers: Towers of your own by the name of their head; each is called with D, and returns a module from
                ``[B, D]`` to ``[B]`` or ``[B, 1]``, or to ``[B, C]`` for a task with C outputs. The members of an
                ensemble share it.

        Raises:
            ValueError: `towers` names no head, or a task's name cannot be that of a module.
        """
        own = towers or {}
        for name in own:
            if name not in [task.name for task in tasks]:
                names = ", ".join(task.name for task in tasks)
                raise ValueError(f"`towers` must name heads ({names}), got {name!r}")
        self.view_features, self.ensemble = view_features, style.ensemble
        weighted = counts_sampling_weights(self.schema, self.objectives)
        self._predicted = {task.name: task for task in tasks}
        for task in tasks:
            build = own.get(task.name)
            tower = build(view_features) if build else default_tower(view_features, layers, style, task.outputs)
            if hasattr(self.heads, task.name) or "." in task.name:
                raise ValueError(
                    f"a task cannot be named {task.name!r}, which is no name of a module: give it another one, such as "
                    f"`--label NAME={task.label}`"
                )
            rate = self.schema.unthinned_rate(task) if weighted else self.schema.rate(task)
            link = link_of(task)
            bias = link.constant(task, rate, self.schema)
            self.heads[task.name] = Head(task.name, tower, bias, self.ensemble, link.scale(task, self.schema))

    @abstractmethod
    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return one view of the shared representation per head: H tensors ``[B, D]``, in the order of ``heads``."""

    @abstractmethod
    def shared(self) -> Shared:
        """Return the tensors that more than one objective trains through the trunk; see `Shared.of`.

        It is called after each forward pass, as a large embedding table is then represented by the rows it looked up.
        """

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weight of each expert in each row by head, ``{head: [B, E]}``; empty for models without gates.

        With an ensemble it is the mean over the members.
        """
        return {}

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's logits by task from those of the heads; the same by default.

        They are ``[B]``, or ``[B, k]`` while an ensemble is in training mode.
        """
        return logits

    def losses(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return one loss per objective, in their order: those of `Losses` by default.

        A model with losses of its own builds them from `task_losses` or `Losses.of_objective`, so that row weights,
        thinned files, several processes and domains count as everywhere.

        Args:
            logits: What the model returned in training mode, ``[B]``, or ``[B, k]`` with an ensemble.
            batch: The rows.
        """
        return self.task_losses(logits, batch)

    def penalty(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor | None:
        """Return a scalar that is minimised beside the losses, outside balancing; ``None`` (the default) for none.

        Its gradient is added to the balanced one as it is. Training logs it as the loss ``penalty``.

        Args:
            logits: As in `losses`.
            batch: The rows. If several processes share the batch, each returns its rows' part of the sum.
        """
        return None

    @property
    def loss_names(self) -> list[str]:
        """The names of the losses, and ``penalty`` if the model has one."""
        penalized = type(self).penalty is not RankingModel.penalty
        return [*self.task_losses.names, *(["penalty"] if penalized else [])]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits of each task, objectives included: ``{name: [B]}``, or ``[B, k]`` by member in training."""
        views = self.trunk(batch)
        self._check_views(views, batch)
        heads = zip(self.heads.items(), self.fork(views), strict=True)
        found = {name: head(view) for (name, head), view in heads}  # [B], or [B, k] with an ensemble
        if self.ensemble > 1 and not self.training:
            found = {name: self._mean_of_members(name, logits) for name, logits in found.items()}  # [B]
        logits = self.outputs(found)
        missing = [task.name for task in self.objectives if task.name not in logits]
        if missing:
            raise ValueError(
                f"`outputs` must return the logits of all objectives: expected {missing}, too, got {list(logits)}"
            )
        if self.training:
            return logits
        if self.schema.thinning:
            return all_rows_logits(self.schema, self.objectives, logits)
        return logits

    def _check_views(self, views: Sequence[Tensor], batch: Batch) -> None:
        if isinstance(views, Tensor) or len(views) != len(self.heads):
            found = f"a tensor of shape {list(views.shape)}" if isinstance(views, Tensor) else f"{len(views)} views"
            raise ValueError(f"`trunk` must return one view per head: expected {len(self.heads)}, got {found}")
        rows = batch.labels.shape[0]  # no len(): an exported model takes any number of rows
        for view in views:
            if view.shape[0] != rows * self.ensemble:
                raise ValueError(
                    f"`trunk` must return views of {rows * self.ensemble} rows for {rows} rows and an ensemble of "
                    f"{self.ensemble}, got {view.shape[0]}: `build_heads` takes the `style` of the trunk, whose first "
                    "layers have `expand=True` (the default) and all others `expand=False`"
                )

    def _mean_of_members(self, head: str, logits: Tensor) -> Tensor:
        """Return the prediction of an ensemble, ``[B]``, from those of its members, ``[B, k]``."""
        task = self._predicted[head]
        return link_of(task).mean_of_members(task, logits, self.schema)

    def predictions(self, logits: Mapping[str, Tensor], calibrated: bool = True) -> dict[str, Tensor]:
        """Return float64 predictions from logits in evaluation mode: probabilities, of a regression values.

        Args:
            logits: What the model returned, ``{name: [B]}``.
            calibrated: Whether to calibrate them, if the model has a calibration.
        """
        found = predictions_of(self.schema, self.objectives, logits)
        return self.calibration(self.schema.schema, found) if self.calibration is not None and calibrated else found

    def fold(self) -> Self:
        """Return a copy for export that predicts the same without a balancer: rotations become part of the towers.

        Tables that are spread over processes stay so: all of them fold, and look up together.
        """
        model = copy.deepcopy(self, {id(self.schema): self.schema})
        heads = model.fork.fold(model.heads.values(), self.view_features)
        model.heads = nn.ModuleDict(dict(zip(model.heads, heads, strict=True)))
        model.fork = IdentityFork()
        return model


def _restore_fork(model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object) -> None:
    """Give a model the balancer whose state is about to be loaded."""
    assert isinstance(model, RankingModel)
    fork = f"{prefix}fork."
    if isinstance(model.fork, IdentityFork) and fork + "_extra_state" in state_dict:
        model.fork = balancer_of_state(state_dict, fork).train(model.training)
