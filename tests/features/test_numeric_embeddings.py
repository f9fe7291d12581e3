"""Embeddings of numbers: their values, and from files to trained weights."""

import math
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import recmtl
from recmtl.balance import SharedTensor
from recmtl.cli.main import main
from recmtl.data import Batch, Loader
from recmtl.features import (
    FeatureEncoder,
    LinearEmbeddings,
    LinearReLUEmbeddings,
    NumericEmbedding,
    PeriodicEmbeddings,
    PiecewiseLinearEmbeddings,
    PlainNumbers,
    SplineEmbeddings,
)
from recmtl.models import Losses
from recmtl.schema.features import NumericTransform

EMBEDDINGS = [LinearEmbeddings, LinearReLUEmbeddings, PiecewiseLinearEmbeddings, PeriodicEmbeddings]
MODELS = [recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM]
each_embedding = pytest.mark.parametrize("cls", EMBEDDINGS, ids=lambda c: c.__name__)
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda c: c.__name__)


def prepared(features: list[object], **columns: object) -> recmtl.PreparedData:
    frame = pd.DataFrame(columns)
    frame["y"] = np.arange(len(frame)) % 2
    return recmtl.prepare(recmtl.Schema(features, [recmtl.Task("t", "y")]), frame, holdout=0)


@pytest.fixture(scope="module")
def data() -> recmtl.PreparedData:
    """Numbers spread widely, of few values, constant, missing in part; bins and categories beside them."""
    rng = np.random.default_rng(0)
    rows = 300
    features = [
        recmtl.Numeric("wide", missing_indicator=True),
        recmtl.Categorical("c"),
        recmtl.Numeric("few", transform="quantile"),
        recmtl.Binned("b", bins=5, width=3),
        recmtl.Numeric("constant"),
    ]
    wide = np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(size=rows))
    columns = {"few": rng.integers(0, 3, rows), "c": rng.integers(0, 4, rows), "b": rng.normal(size=rows)}
    return prepared(features, wide=wide, constant=np.ones(rows), **columns)


def batch(data: recmtl.PreparedData, rows: int = 50) -> Batch:
    return next(Loader(data.train, rows).epoch())


def value(embeddings: NumericEmbedding, x: Tensor, feature: int) -> Tensor:
    """What the paper says that one feature's numbers `[B]` become, row by row: `[B, d]`."""
    rows = []
    for number in x.tolist():
        if isinstance(embeddings, LinearReLUEmbeddings):
            rows.append(torch.relu(number * embeddings.linear.weight[feature] + embeddings.linear.bias[feature]))
        elif isinstance(embeddings, LinearEmbeddings):
            rows.append(number * embeddings.weight[feature] + embeddings.bias[feature])
        elif isinstance(embeddings, PeriodicEmbeddings):
            v = [2 * math.pi * c * number for c in embeddings.frequencies[feature].tolist()]
            waves = torch.tensor([math.sin(a) for a in v] + [math.cos(a) for a in v], dtype=x.dtype)
            rows.append(torch.relu(waves @ embeddings.weight[feature] + embeddings.bias[feature]))
        else:
            encoded = torch.tensor(ple(embeddings, number, feature), dtype=x.dtype)
            rows.append(encoded @ embeddings.weight[feature] + embeddings.bias[feature])
    return torch.stack(rows)


def ple(embeddings: PiecewiseLinearEmbeddings, x: float, feature: int) -> list[float]:
    """The encoding bin by bin."""
    shares = []
    rates = embeddings.rate[feature].tolist()
    last = sum(rate > 0 for rate in rates) - 1
    for t, (low, rate) in enumerate(zip(embeddings.low[feature].tolist(), rates, strict=True)):
        if t > last or (x < low and t > 0):
            shares.append(0.0)
        elif x >= low + 1 / rate and t < last:
            shares.append(1.0)
        else:
            shares.append((x - low) * rate)
    return shares


@each_embedding
def test_equals_the_paper_feature_by_feature(cls: type, data: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    embeddings = cls(data.schema, width=5).double()
    x = torch.randn(40, 3, dtype=torch.float64) * 3
    expected = torch.cat([value(embeddings, x[:, feature], feature) for feature in range(3)], dim=1)
    torch.testing.assert_close(embeddings(x), expected)
    assert embeddings.out_features == 15


def test_bins_lie_between_quantiles_of_what_the_model_reads() -> None:
    numbers = np.exp(np.random.default_rng(0).normal(size=1001))
    for transform in get_args(NumericTransform):
        rows = prepared([recmtl.Numeric("x", transform=transform)], x=numbers)
        embeddings = PiecewiseLinearEmbeddings(rows.schema, bins=4)
        read = batch(rows, 1001).numeric
        shares = embeddings.encode(read)[:, 0]  # of bin t there is something for those above its lower edge
        torch.testing.assert_close((shares > 0).float().mean(0), torch.tensor([1, 0.75, 0.5, 0.25]), atol=0.01, rtol=0)
        assert ((shares >= 0) & (shares <= 1.00001)).all()


def test_equal_edges_are_one_bin_and_a_constant_has_none() -> None:
    numeric = [recmtl.Numeric("few", transform="none"), recmtl.Numeric("one", transform="none")]
    rows = prepared(numeric, few=[0.0, 0, 0, 0, 2, 3], one=[7.0] * 6)
    embeddings = PiecewiseLinearEmbeddings(rows.schema, bins=6)
    shares = embeddings.encode(torch.tensor([[-1.0, 7], [1, 9], [2.5, -9], [4, 7]]))
    assert shares[:, 0, :2].tolist() == [[-0.5, 0], [0.5, 0], [1, 0.5], [1, 2]]
    assert shares[:, 0, 2:].abs().sum() == shares[:, 1].abs().sum() == 0


@each_embedding
def test_changing_one_number_changes_its_embedding_alone(cls: type, data: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    embeddings = cls(data.schema, width=4)
    x = torch.randn(20, 3)
    for feature in range(3):
        changed = x.clone()
        changed[:, feature] += 0.5
        columns = (embeddings(changed) - embeddings(x)).abs().sum(0).nonzero().flatten().tolist()
        assert set(columns) <= set(range(4 * feature, 4 * feature + 4))
        assert columns or feature == 2  # the constant has no bin


@each_embedding
def test_encoder_sets_tables_numbers_and_indicators_side_by_side(cls: type, data: recmtl.PreparedData) -> None:
    encoder, rows = FeatureEncoder(data.schema, width=6, numeric=partial(cls, width=4)), batch(data)
    output = encoder(rows)
    assert output.shape == (50, encoder.out_features) == (50, 6 + 3 + 3 * 4 + 1)
    assert torch.equal(output[:, 9:-1], encoder.numeric(rows.numeric[:, :3]))
    assert torch.equal(output[:, -1], rows.numeric[:, 3])
    assert set(output[:, -1].tolist()) == {0, 1}


@each_embedding
def test_parameters_are_shared_feature_by_feature(cls: type, data: recmtl.PreparedData) -> None:
    encoder = FeatureEncoder(data.schema, numeric=cls)
    encoder(batch(data)).square().sum().backward()
    assert {id(s.tensor) for s in encoder.shared_tensors()} == {id(p) for p in encoder.parameters()}
    for shared in encoder.shared_tensors()[len(encoder.tables) :]:
        assert shared.parts == len(shared.tensor) == 3
        assert shared.tensor.grad.flatten(1).abs().sum(1)[:2].all()


@each_embedding
@each_model
def test_every_model_takes_and_shares_them(cls: type, model: type, aliexpress: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    built = model(aliexpress.schema, encoder=partial(FeatureEncoder, width=2, numeric=partial(cls, width=2)))
    rows, method = batch(aliexpress, 256), recmtl.MetaBalance()
    recmtl.Trainer(built, method, run=recmtl.RunConfig(progress=False, device="cpu"))
    losses = Losses(built.schema, built.objectives)(built(rows), rows)
    shared = built.shared()
    assert {id(p) for p in built.encoder.parameters()} <= {id(s.tensor) for s in shared.tensors}
    method.backward(losses, [SharedTensor(*s) for s in shared.tensors], shared.last)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


def test_without_numbers_there_is_nothing_to_embed() -> None:
    rows = prepared([recmtl.Categorical("c")], c=list("aabb"))
    encoder = FeatureEncoder(rows.schema, width=2, numeric=LinearEmbeddings)
    assert encoder(batch(rows)).shape == (4, 2)
    assert type(encoder.numeric) is PlainNumbers


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(LinearEmbeddings, width=0), "`width` must be at least 1, got 0"),
        (partial(LinearReLUEmbeddings, width=-1), "`width` must be at least 1, got -1"),
        (partial(PiecewiseLinearEmbeddings, bins=0), "`bins` must be at least 1, got 0"),
        (partial(PeriodicEmbeddings, frequencies=0), "`frequencies` must be at least 1, got 0"),
        (partial(PeriodicEmbeddings, sigma=0.0), "`sigma` must be above 0, got 0.0"),
        (partial(PeriodicEmbeddings, sigma=math.nan), "`sigma` must be above 0, got nan"),
    ],
)
def test_refused(build: type, message: str, data: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=message):
        build(data.schema)


NAMES = (
    "LinearEmbeddings, LinearReLUEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings, PlainNumbers, "
    "SplineEmbeddings"
)
CARD = """
features:
  - {{numeric: x, transform: {transform}, clip: [-2, 2.5], missing_indicator: true}}
  - {{binned: z, bins: 8}}
tasks:
  - {{name: t, label: y}}
"""


def written(folder: Path, transform: str = "standardize") -> list[str]:
    """Write a card and rows in which y rises with |x| and falls with |z|; give the arguments that train on them."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 4000))
    y = rng.random(4000) < 1 / (1 + np.exp(3 * np.abs(z) - 3 * np.abs(x)))
    frame = pd.DataFrame({"x": np.where(rng.random(4000) < 0.1, np.nan, x), "z": z, "y": y.astype(int)})
    frame.to_csv(folder / "train.csv", index=False)
    (folder / "card.yaml").write_text(CARD.format(transform=transform))
    arguments = ["train", "--data.card", str(folder / "card.yaml"), "--data.train", str(folder / "train.csv")]
    arguments += ["--run", str(folder / "run"), "--trainer.run.device", "cpu", "--trainer.epochs", "2"]
    arguments += ["--trainer.optimization.batch_size", "64"]
    return [*arguments, "--model.encoder", "FeatureEncoder", "--model.encoder.width", "4"]


def trained(folder: Path) -> FeatureEncoder:
    """The encoder of the run in a folder, whose model knows what x and z do."""
    trainer, frame = recmtl.load_run(folder / "run"), pd.read_csv(folder / "train.csv")
    predicted, sizes = trainer.predict(folder / "train.csv")["t"], frame[["x", "z"]].abs()
    rise = predicted.groupby(sizes["x"] > 1).mean().diff().iloc[1]
    fall = predicted.groupby(sizes["z"] > 1).mean().diff().iloc[1]
    assert rise > 0.1
    assert fall < -0.1
    return trainer.model.encoder


@pytest.mark.parametrize("transform", get_args(NumericTransform))
def test_from_csv_to_trained_weights(transform: str, tmp_path: Path) -> None:
    assert main(written(tmp_path, transform)) == 0
    encoder = trained(tmp_path)
    assert type(encoder.numeric) is SplineEmbeddings
    assert encoder.out_features == 4 + (4 if transform == "knots" else 1) + 1


@each_embedding
def test_from_the_command_line_to_trained_weights(cls: type, tmp_path: Path) -> None:
    arguments = [*written(tmp_path), "--model.encoder.numeric", cls.__name__, "--model.encoder.numeric.width", "5"]
    assert main(arguments) == 0
    encoder = trained(tmp_path)
    assert type(encoder.numeric) is cls
    assert encoder.out_features == 4 + 5 + 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("", "Nope", f"there is no embedding 'Nope': give one of {NAMES}, or the import path of your own"),
        (".width", "x", "`--model.encoder.numeric.width` must be an integer, got 'x'"),
        (".width", "0", "`width` must be at least 1, got 0"),
        (".bins", "4", "LinearEmbeddings has no option `--model.encoder.numeric.bins`: it has width"),
    ],
)
def test_wrong_options_are_refused(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = written(tmp_path) + (["--model.encoder.numeric", "LinearEmbeddings"] if option else [])
    assert main([*arguments, f"--model.encoder.numeric{option}", value]) == 2
    assert capsys.readouterr().err.splitlines()[-1:] == [f"recmtl: {message}"]


def test_what_rises_and_falls_is_learned_better_piecewise() -> None:
    """y depends on x through a wave of four periods over its quantiles, x is lognormal: hard for an MLP on x itself."""
    rng = np.random.default_rng(0)
    share = rng.random(12_000)
    logit = 2 * np.sin(8 * math.pi * share)
    frame = pd.DataFrame({"x": np.exp(3 * share), "y": (rng.random(12_000) < 1 / (1 + np.exp(-logit))).astype(int)})
    schema = recmtl.Schema([recmtl.Numeric("x", "standardize")], [recmtl.Task("t", "y")])
    data = recmtl.prepare(schema, frame.head(8000), valid=frame.tail(4000))
    auc = {}
    for name, numeric in {
        "plain": PlainNumbers,
        "piecewise": PiecewiseLinearEmbeddings,
        "periodic": PeriodicEmbeddings,
    }.items():
        torch.manual_seed(0)
        encoder = partial(FeatureEncoder, numeric=numeric)
        model = recmtl.SharedBottom(data.schema, layers=[32], tower_layers=[16], encoder=encoder)
        options = recmtl.Optimization(batch_size=256)
        run = recmtl.RunConfig(progress=False, device="cpu")
        trainer = recmtl.Trainer(model, recmtl.Sum(), epochs=3, optimization=options, run=run)
        auc[name] = trainer.fit(data.train).evaluate(data.valid).loc["t", "auc"]
    assert auc["piecewise"] > auc["plain"] + 0.05
