"""Losses of one's own: a function of logits and labels, or its import path."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recmtl.errors import RunError, UsageError, shown
from recmtl.io.import_paths import imported, path_of
from recmtl.io.machine import is_out_of_memory
from recmtl.schema import Task


class OwnLoss:
    """The loss of a task that is a function, from logits ``[B]`` and labels ``[B]`` to the loss of each row ``[B]``.

    A function that is named by its import path is imported when it is called for the first time: to predict, it need
    not be there. An ensemble's members are rows. The function gets copies, which it may change.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._name = f"the loss {path_of(task.loss or '')!r} of task {task.name!r}"

    @cached_property
    def function(self) -> Any:
        """The function; imported if it is named by its path. A `RunError` says if it is not trusted or no function."""
        loss = self._task.loss
        if not isinstance(loss, str):
            return loss
        try:
            found = imported(loss, "function")
        except UsageError as error:
            raise RunError(f"{self._name}: {error}") from error
        if not callable(found) or isinstance(found, type):
            raise RunError(f"{self._name} must be a function, got {shown(found)}")
        return found

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, shaped as the labels ``[B]`` or ``[B, k]``.

        Raises:
            RunError: The function cannot be imported, raises, or returns something else or no gradient.
        """
        function = self.function
        expected = [labels.numel()]
        wide = logits.shape[labels.dim() :]  # of a task with several outputs
        try:
            found = function(logits.reshape(-1, *wide).clone(), labels.reshape(-1).clone())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's function raises, also SystemExit
            if is_out_of_memory(error) or _recording():
                raise
            raise RunError(f"{self._name} raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Tensor) or list(found.shape) != expected or not found.is_floating_point():
            got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise RunError(f"{self._name} must return a float for each row, of shape {expected}, got {got}")
        if torch.is_grad_enabled() and logits.requires_grad and not found.requires_grad:
            if not _recording() and not found.any():  # such as that of a batch without pairs
                return 0 * logits.reshape(*labels.shape, wide.numel()).sum(-1)
            raise RunError(f"{self._name} has no gradient: compute it from the logits, without `detach` or `no_grad`")
        return found.reshape(labels.shape)


def _recording() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
