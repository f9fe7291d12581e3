"""Folding of a linear map of the view into the head that reads it."""

import copy
import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def folded(head: nn.Module, matrix: Tensor) -> nn.Module:
    """Return a copy of a head whose output for z is that of the head for z·M, with the map M `[D, D]` of the view.

    The map becomes part of the weights of the linear layers that read the view, W ← W·Mᵀ, if a trial with a random
    rotation shows that nothing else reads it. Otherwise a linear layer is put before the head, which is always correct.
    """
    like = next(head.parameters(), matrix)
    result = copy.deepcopy(head)
    readers = _foldable_layers(head, matrix.shape[0], like.device)
    if readers:
        _fold_into(result, readers, matrix)
        return result
    with torch.device("meta"):  # draws no random weights
        before = nn.Linear(len(matrix), len(matrix), bias=False, dtype=like.dtype)
    before.weight = nn.Parameter(matrix.mT.to(like, copy=True))
    return nn.Sequential(before, result)


def _foldable_layers(head: nn.Module, features: int, device: torch.device) -> list[str]:
    """Return the names of the linear layers that a map of the view can be folded into; none if a trial fails.

    The trial runs in float64 on views of several sizes, so that a path around the layers shows even if it is weak or
    active for some views only. The layers of an ensemble read a multiple of `ensemble` rows, the number of its members;
    their adapters stand between view and weight, and fail the trial unless they are all the same.
    """
    generator = torch.Generator().manual_seed(0)
    members = math.lcm(*(k for k in (getattr(m, "ensemble", 1) for m in head.modules()) if isinstance(k, int)))
    sizes = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64).repeat_interleave(16 * members)
    view = sizes[:, None] * torch.randn(len(sizes), features, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=torch.float64))[0]
    view, rotation = view.to(device), rotation.to(device)
    trial = copy.deepcopy(head).eval().double()
    try:
        readers = _readers(trial, view)
        expected = trial(view @ rotation)
        _fold_into(trial, readers, rotation)
        error = (trial(view) - expected).abs().max()
    except (RuntimeError, TypeError):  # for example a head that only works in float32
        return []
    spread = (expected - expected.mean(0)).abs().max()
    return readers if error <= 1e-10 * spread + 1e-14 * expected.abs().max() else []


def _readers(head: nn.Module, view: Tensor) -> list[str]:
    """Return the names of the linear layers whose input is the view itself."""
    found: list[str] = []
    handles = []
    for name, module in head.named_modules():
        if isinstance(module, nn.Linear):

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if inputs and inputs[0] is view:
                    found.append(name)

            handles.append(module.register_forward_pre_hook(note))
    head(view)
    for handle in handles:
        handle.remove()
    return sorted(set(found))


def _fold_into(head: nn.Module, readers: list[str], matrix: Tensor) -> None:
    for name in readers:
        weight = head.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.copy_(weight.double() @ matrix.mT.to(weight.device, torch.float64))
