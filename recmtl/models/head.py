"""The head of a task: a tower and an output bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl.layers import MLP, LayerStyle
from recmtl.layers.ensemble import by_member
from recmtl.schema import Moments


class Head(nn.Module):
    """A tower, a module from ``[B, D]`` to ``[B, C]`` (``[B]`` as well if C is 1), and an output bias.

    C is the number of the task's outputs. With one the head returns ``[B]``, with several ``[B, C]``.
    Of a regression, tower and bias predict the standardized label; the output is in the label's own units: times the
    deviation of the training rows' labels, plus their mean. Both are buffers, `label_mean` and `label_deviation`.
    With an ensemble of k the rows are ``[B·k, D]``, each member has a bias of its own, and the output is ``[B, k]``, or
    ``[B, k, C]``.
    """

    label_mean: Tensor | None
    label_deviation: Tensor | None

    def __init__(
        self, name: str, tower: nn.Module, constant: Tensor, ensemble: int = 1, moments: Moments | None = None
    ) -> None:
        super().__init__()
        self._name = name
        self.ensemble = ensemble
        self.outputs = constant.numel()
        self.tower = tower
        bias = constant if moments is None else (constant - moments.mean) / moments.deviation  # [] or [C]
        self.bias = nn.Parameter(bias.float() if ensemble == 1 else bias.float().expand(ensemble, *bias.shape).clone())
        self.register_buffer("label_mean", None if moments is None else torch.tensor(moments.mean))
        self.register_buffer("label_deviation", None if moments is None else torch.tensor(moments.deviation))

    def forward(self, view: Tensor) -> Tensor:
        """Return the logits (of a regression: the value) of each row, in the weights' precision also under autocast."""
        output: Tensor = self.tower(view)
        rows, features = view.shape  # no len(): an exported model takes any number of rows
        if output.shape != (rows, self.outputs) and not (self.outputs == 1 and output.shape == (rows,)):
            expected = f"[{rows}] or [{rows}, 1]" if self.outputs == 1 else f"[{rows}, {self.outputs}]"
            raise ValueError(
                f"the tower of head {self._name!r} must map [{rows}, {features}] to {expected}, got "
                f"{list(output.shape)}"
            )
        in_training = self.training and torch.is_grad_enabled()
        if in_training and not output.requires_grad and has_weights_to_train(self.tower):
            raise ValueError(f"the tower of head {self._name!r} has weights to train, but its output has no gradient")
        output = (output.flatten() if self.outputs == 1 else output).to(self.bias.dtype)
        output = (output if self.ensemble == 1 else by_member(output, self.ensemble)) + self.bias
        if self.label_mean is None or self.label_deviation is None:
            return output
        return output * self.label_deviation + self.label_mean


def has_weights_to_train(module: nn.Module) -> bool:
    """Return whether a module has parameters that are not frozen."""
    return any(parameter.requires_grad for parameter in module.parameters())


def default_tower(in_features: int, layers: Sequence[int], style: LayerStyle, outputs: int = 1) -> nn.Module:
    """Build an MLP with an output for each logit and no output bias, which the head has."""
    hidden = MLP(in_features, layers, style, expand=False)
    return nn.Sequential(hidden, style.output(hidden.out_features, outputs))
