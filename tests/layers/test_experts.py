"""Experts laid out for speed equal experts built as separate modules, in value and in gradient."""

from typing import Any

import pytest
import torch
from torch import nn

from recmtl.layers import MLP, Experts, Gates, LayerStyle
from recmtl.layers.experts import mixtures, own_mixtures

STYLES = [LayerStyle(), LayerStyle(normalization="batch"), LayerStyle(normalization="layer", activation="silu")]


def separate(experts: Experts, sizes: list[int], style: LayerStyle) -> nn.ModuleList:
    """The same experts as plain MLPs."""
    count, (first, *rest) = experts.experts, sizes
    alone = nn.ModuleList(MLP(experts.wide.in_features, sizes, style) for _ in range(count)).double()
    for index, mlp in enumerate(alone):
        chunk = slice(index * first, (index + 1) * first)
        mlp.layers[0].weight.data, mlp.layers[0].bias.data = (
            experts.wide.weight.data[chunk],
            experts.wide.bias.data[chunk],
        )
        if rest:
            for mine, theirs in zip(mlp.layers[2:].parameters(), experts.towers[index].parameters(), strict=True):
                mine.data = theirs.data
    return alone


@pytest.mark.parametrize("sizes", [[6], [6, 4], [6, 5, 3]])
@pytest.mark.parametrize("style", STYLES, ids=["plain", "batch", "layer"])
def test_equal_separate_modules(sizes: list[int], style: LayerStyle) -> None:
    experts = Experts(7, 3, sizes, style).double()
    alone = separate(experts, sizes, style)
    x = torch.randn(9, 7, dtype=torch.float64)
    wide, plain = experts(x), torch.stack([mlp(x) for mlp in alone], dim=1)
    torch.testing.assert_close(wide, plain, rtol=1e-12, atol=1e-12)
    target = torch.randn_like(wide)
    (wide * target).sum().backward()
    (plain * target).sum().backward()
    expected = torch.cat([mlp.layers[0].weight.grad for mlp in alone])
    torch.testing.assert_close(experts.wide.weight.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [[6], [6, 4], [6, 5, 3]])
@pytest.mark.parametrize("style", STYLES, ids=["plain", "batch", "layer"])
def test_experts_on_a_gpu_equal_separate_modules(sizes: list[int], style: LayerStyle, on_a_device: None) -> None:
    test_equal_separate_modules(sizes, style)
    experts = Experts(7, 3, sizes, style).double()
    alone = separate(experts, sizes, style)
    x = torch.randn(9, 7, dtype=torch.float64)
    target = torch.randn(9, 3, sizes[-1], dtype=torch.float64)
    (experts(x) * target).sum().backward()
    (torch.stack([mlp(x) for mlp in alone], dim=1) * target).sum().backward()
    for index, mlp in enumerate(alone):
        for tower in experts.towers[index : index + 1]:
            for mine, theirs in zip(tower.parameters(), mlp.layers[2:].parameters(), strict=True):
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("style", [LayerStyle(), LayerStyle(dropout=0.5, activation="gelu"), STYLES[1], STYLES[2]])
def test_a_gpu_multiplies_all_plain_experts_at_once(style: LayerStyle, on_a_device: None) -> None:
    """Those with a normalisation have statistics or scales of their own."""
    names = {node.name() for node in nodes(Experts(7, 3, [6, 4], style)(torch.randn(9, 7)))}
    assert ("_MemberProductsBackward" in names) == (style.normalization == "none")


def nodes(output: torch.Tensor) -> list[Any]:
    found, seen = [output.grad_fn], set()
    for node in found:
        seen.add(node)
        found += [n for n, _ in node.next_functions if n is not None and n not in seen]
    return found


def test_the_wide_layer_counts_expert_by_expert() -> None:
    shared = Experts(7, 3, [6, 4], LayerStyle(normalization="batch")).shared_tensors()
    parts = [(tuple(s.tensor.shape), s.parts) for s in shared]
    assert parts[:4] == [((18, 7), 3), ((18,), 3), ((18,), 3), ((18,), 3)]
    assert sum(s.parts for s in shared) == 3 * 8  # two layers of weight, bias, scale and shift per expert


def test_last_weights() -> None:
    assert [tuple(w.shape) for w in Experts(7, 3, [6, 4], LayerStyle()).last_weights] == [(4, 6)] * 3
    assert [tuple(w.shape) for w in Experts(7, 3, [6], LayerStyle()).last_weights] == [(18, 7)]


def test_gates_are_distributions_of_their_own() -> None:
    gates = Gates(5, heads=2, experts=3, style=LayerStyle())
    weights = gates(torch.randn(4, 5))
    assert weights.shape == (4, 2, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 2))
    assert not torch.equal(weights[:, 0], weights[:, 1])


@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)], ids=["both", "gates", "experts"])
@pytest.mark.parametrize(
    ("dtype", "autocast", "error"),
    [(torch.float64, False, 1e-12), (torch.float32, False, 1e-6), (torch.float32, True, 0.02)],
    ids=["double", "float", "bf16"],
)
@pytest.mark.parametrize("experts", [1, 3])
def test_mixtures_are_the_sums_of_the_papers(
    experts: int, dtype: torch.dtype, autocast: bool, error: float, trained: tuple[bool, bool]
) -> None:
    """Each precision in value and gradient, whichever of the two is trained, as is a mixture of own experts alone."""
    gates, outputs, target = torch.rand(9, 2, experts), torch.randn(9, experts, 5), torch.randn(9, 2, 5)
    twins = [each.double().requires_grad_(needed) for each, needed in zip((gates, outputs), trained, strict=True)]
    expected = sum(twins[0][:, :, e, None] * twins[1][:, e, None] for e in range(experts))
    (expected * target).sum().backward()
    given = [each.to(dtype).requires_grad_(needed) for each, needed in zip((gates, outputs), trained, strict=True)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixed = mixtures(*given)
        own = own_mixtures(given[0], given[1].repeat(1, 2, 1))  # both tasks have experts of the same outputs
    (mixed * target).sum().backward()
    assert mixed.dtype == own.dtype == (torch.bfloat16 if autocast else dtype)
    found = [mixed, own, *(tensor.grad for tensor in given)]
    for mine, theirs in zip(found, [expected, expected, *(twin.grad for twin in twins)], strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert (mine.double() - theirs).norm() <= error * theirs.norm()


@pytest.mark.parametrize(
    ("experts", "sizes", "said"), [(0, [4], "`experts`"), (2, [], "at least one layer"), (2, [0], "width of a layer")]
)
def test_bad_sizes(experts: int, sizes: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Experts(3, experts, sizes, LayerStyle())
