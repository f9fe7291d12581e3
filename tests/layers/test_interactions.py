"""Interactions equal their papers' equations row by row, start as they should, and say what does not fit."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl.balance.shared import shared_tensors
from recmtl.data import Batch, Loader
from recmtl.layers import CrossLayers, FinalMLP, GatedCrossLayers, Interaction, LayerStyle, MaskNet

WIDTH = 6
VARIANTS = {
    "cross": CrossLayers,
    "cross of low rank": partial(CrossLayers, layers=3, rank=2),
    "parallel cross": partial(CrossLayers, layers=1, structure="parallel"),
    "gated cross": GatedCrossLayers,
    "parallel gated cross": partial(GatedCrossLayers, layers=3, structure="parallel"),
    "final MLP": partial(FinalMLP, layers=[5, 4], second_layers=[6], heads=2, gate_layers=[3]),
    "masks in series": partial(MaskNet, blocks=3, width=4, reduction_ratio=2.0),
    "parallel masks": partial(MaskNet, blocks=2, width=3, arrangement="parallel"),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def built(variant: str) -> Any:
    """An interaction with weights drawn at random, so that no bias or scale hides as 0 or 1."""
    torch.manual_seed(0)
    block = VARIANTS[variant](WIDTH).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block


def numbers(parameter: Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def norm(x: np.ndarray, layer: nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + layer.eps) * numbers(layer.weight) + numbers(layer.bias)


def linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    product = numbers(layer.weight) @ x
    return product if layer.bias is None else product + numbers(layer.bias)


def crossed(block: CrossLayers | GatedCrossLayers, first: np.ndarray) -> np.ndarray:
    x = first
    for module in block.maps:
        if isinstance(block, GatedCrossLayers):
            mapped = linear(x, module.linear) * sigmoid(numbers(module.gate.weight) @ x)
        elif isinstance(module, nn.Linear):
            mapped = linear(x, module)
        else:
            v, u = module
            mapped = numbers(u.weight) @ numbers(v.weight) @ x + numbers(u.bias)
        x = first * mapped + x
    return x if block.structure == "stacked" else np.concatenate([x, first])


def two_streams(block: FinalMLP, x: np.ndarray) -> np.ndarray:
    outputs = []
    for (hidden, last), stream in zip(block.gates, block.streams, strict=True):
        gate = x
        for layer in hidden.layers[::2]:
            gate = np.maximum(linear(gate, layer), 0)
        output = 2 * sigmoid(linear(gate, last)) * x
        for layer in stream.layers[::2]:
            output = np.maximum(linear(output, layer), 0)
        outputs.append(output)
    parts = [np.split(output, block.heads) for output in outputs]
    products = [a @ w @ b for a, w, b in zip(parts[0], numbers(block.bilinear), parts[1], strict=True)]
    return np.concatenate([*outputs, products])


def masked(block: MaskNet, x: np.ndarray) -> np.ndarray:
    hidden, outputs = norm(x, block.norm), []
    for module in block.blocks:
        mask = linear(np.maximum(linear(x, module.mask[0]), 0), module.mask[2])
        output = np.maximum(norm(numbers(module.linear.weight) @ (mask * hidden), module.after[0]), 0)
        outputs.append(output)
        hidden = output if block.arrangement == "serial" else hidden
    return outputs[-1] if block.arrangement == "serial" else np.concatenate(outputs)


@each_variant
def test_equals_the_paper_row_by_row(variant: str) -> None:
    block = built(variant)
    twin = {CrossLayers: crossed, GatedCrossLayers: crossed, FinalMLP: two_streams, MaskNet: masked}[type(block)]
    x = torch.randn(7, WIDTH, dtype=torch.float64)
    expected = torch.from_numpy(np.stack([twin(block, row) for row in x.numpy()]))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape[1] == block.out_features


@each_variant
def test_gradients(variant: str) -> None:
    block = built(variant)
    x = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@each_variant
def test_bf16_returns_what_the_trunk_can_read(variant: str) -> None:
    torch.manual_seed(0)
    block, x = VARIANTS[variant](WIDTH), torch.randn(16, WIDTH) / 2
    with torch.autocast("cpu", torch.bfloat16):
        output = block(x)
    torch.testing.assert_close(output.float(), block(x), rtol=0.05, atol=0.05)


def test_one_cross_layer_by_hand() -> None:
    """x = (2, 3), W = [[0, 1], [1, 0]], b = (0, 1): x ⊙ (3, 3) + x = (8, 12), the first entry 2·3 + 2."""
    for rank in (None, 2):
        block = CrossLayers(2, layers=1, rank=rank)
        swap, bias = torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([0.0, 1])
        values = [swap, bias] if rank is None else [torch.eye(2), swap, bias]
        for parameter, value in zip(block.parameters(), values, strict=True):
            parameter.data = value
        assert block(torch.tensor([[2.0, 3]])).tolist() == [[8, 12]]


def test_a_closed_gate_returns_the_row_and_an_open_one_the_cross_layer() -> None:
    gated, plain = GatedCrossLayers(2, layers=1), CrossLayers(2, layers=1)
    x = torch.tensor([[2.0, 3]])
    plain.maps[0].weight.data = gated.maps[0].linear.weight.data
    for value, expected in ((-100.0, x), (0.0, (plain(x) + x) / 2), (100.0, plain(x))):
        nn.init.constant_(gated.maps[0].gate.weight, value)
        torch.testing.assert_close(gated(x), expected)


def test_a_linear_layer_on_the_two_streams_is_the_papers_logit() -> None:
    """o₁ = (1, 2), o₂ = (3, 4), two heads of W = 1: f = (3, 8); with weights 1 the logit is 1 + 2 + 3 + 4 + 3 + 8."""
    block = FinalMLP(2, layers=[2], heads=2, gate_layers=[])
    for gate in block.gates:
        nn.init.zeros_(gate[1].weight)  # 2σ(0) = 1
    for stream, factor in zip(block.streams, (1.0, 2.0), strict=True):
        stream.layers[0].weight.data = factor * torch.eye(2)
    block.streams[1].layers[0].bias.data = torch.tensor([1.0, 0])
    nn.init.ones_(block.bilinear)
    output = block(torch.tensor([[1.0, 2]]))
    assert output.tolist() == [[1, 2, 3, 4, 3, 8]]


def test_a_mask_chooses_what_a_block_reads() -> None:
    """With a mask of (1, 0) and LN(3, 1) = (1, -1), W = I: LN(1, 0) = (1, -1) without ε, and ReLU gives (1, 0)."""
    block = MaskNet(2, blocks=1, width=2)
    (module,) = block.blocks
    module.linear.weight.data = torch.eye(2)
    nn.init.zeros_(module.mask[2].weight)
    module.mask[2].bias.data = torch.tensor([1.0, 0])
    torch.testing.assert_close(block(torch.tensor([[3.0, 1]])), torch.tensor([[1.0, 0]]), rtol=1e-4, atol=1e-6)


def test_cross_layers_start_near_the_row_and_masks_near_1() -> None:
    torch.manual_seed(0)
    x = 0.01 * torch.randn(64, 32)  # as embeddings start
    for block in (CrossLayers(32, layers=3), GatedCrossLayers(32, layers=3)):
        torch.testing.assert_close(block(x), x, rtol=0.1, atol=1e-3)
    for module in MaskNet(32, blocks=2).blocks:
        assert (module.mask(x) - 1).abs().max() < 0.1
    gates = FinalMLP(32).gates
    assert all((2 * gate(x).sigmoid() - 1).abs().max() < 0.1 for gate in gates)


def test_low_rank_has_fewer_weights() -> None:
    full, low = (sum(p.numel() for p in CrossLayers(100, layers=2, rank=rank).parameters()) for rank in (None, 5))
    assert (full, low) == (2 * (100 * 100 + 100), 2 * (2 * 100 * 5 + 100))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(CrossLayers, layers=0), "`layers` must be at least 1, got 0"),
        (partial(GatedCrossLayers, layers=-1), "`layers` must be at least 1, got -1"),
        (partial(CrossLayers, rank=7), "`rank` must be from 1 to 6, the width of the encoder, got 7"),
        (partial(CrossLayers, rank=0), "`rank` must be from 1 to 6, the width of the encoder, got 0"),
        (partial(CrossLayers, structure="both"), r"`structure` must be one of \('stacked', 'parallel'\), got 'both'"),
        (partial(FinalMLP, layers=[]), "`layers` must hold at least one layer, got none"),
        (partial(FinalMLP, second_layers=[]), "`second_layers` must hold at least one layer, got none"),
        (partial(FinalMLP, heads=3), "`heads` must be at least 1 and divide 64, the last of `layers`, got 3"),
        (partial(FinalMLP, second_layers=[9]), "`heads` must be at least 1 and divide 9, the last of `second_layers`"),
        (partial(FinalMLP, style=LayerStyle(ensemble=3)), "`ensemble` of its `style` must be 1, got 3"),
        (partial(MaskNet, blocks=0), "`blocks` must be at least 1, got 0"),
        (partial(MaskNet, width=0), "`width` must be at least 1, got 0"),
        (partial(MaskNet, reduction_ratio=0.0), "`reduction_ratio` must be above 0, got 0.0"),
        (partial(MaskNet, arrangement="ring"), r"`arrangement` must be one of \('serial', 'parallel'\), got 'ring'"),
    ],
)
def test_refused(build: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(WIDTH)


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": rng.integers(0, 4, 80), "x": rng.normal(size=80), "y": np.arange(80) % 2})
    schema = recmtl.Schema([recmtl.Categorical("c"), recmtl.Numeric("x")], [recmtl.Task("t", "y")])
    return recmtl.prepare(schema, frame, holdout=0)


def rows(data: recmtl.PreparedData) -> Batch:
    return next(Loader(data.train, 50).epoch())


@each_variant
def test_encoder_returns_what_the_interaction_makes_of_the_row(variant: str, data: recmtl.PreparedData) -> None:
    encoders = []
    for interaction in (None, VARIANTS[variant]):
        torch.manual_seed(0)
        encoders.append(recmtl.FeatureEncoder(data.schema, width=4, interaction=interaction))
    plain, encoder = encoders
    assert (plain.interaction, plain.out_features) == (None, 8)
    torch.testing.assert_close(encoder(rows(data)), encoder.interaction(plain(rows(data))))
    assert encoder(rows(data)).shape == (50, encoder.out_features)
    before = [tuple(shared.tensor.shape) for shared in plain.shared_tensors()]
    found = encoder.shared_tensors()
    assert [tuple(shared.tensor.shape) for shared in found[: len(before)]] == before
    assert [id(s.tensor) for s in found[len(before) :]] == [id(s.tensor) for s in shared_tensors(encoder.interaction)]
    assert {id(shared.tensor) for shared in found} == {id(p) for p in encoder.parameters()}


class Pair(Interaction):
    """An interaction that says another width than it returns, or returns other rows."""

    def __init__(self, in_features: int, says: Any = 2, reads: int | None = None, repeats: int = 1) -> None:
        super().__init__(in_features if reads is None else reads, says)
        self.repeats = repeats

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2].repeat(self.repeats, 1)


@pytest.mark.parametrize(
    ("interaction", "message"),
    [
        (partial(Pair, reads=3), "the interaction Pair must read the 8 columns of the encoder, but reads 3"),
        (partial(Pair, says=None), "the interaction Pair must say in `out_features` how wide its output is, got None"),
        (
            partial(nn.LayerNorm),
            "the interaction LayerNorm must say in `out_features` how wide its output is, got None",
        ),
        (partial(Pair, says=3), r"the interaction Pair must map \[50, 8\] to \[50, 3\], got \[50, 2\]"),
        (partial(Pair, repeats=2), r"the interaction Pair must map \[50, 8\] to \[50, 2\], got \[100, 2\]"),
        (lambda width: width, "`interaction` must build a module from a width, got a int"),
        (nn.Identity(), "`interaction` must build a module from a width, got the module Identity: give its class"),
    ],
)
def test_interactions_that_do_not_fit_are_refused(interaction: Any, message: str, data: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=message):
        recmtl.FeatureEncoder(data.schema, width=4, interaction=interaction)(rows(data))
