"""Spline embeddings of numbers, held to a plain float64 form of their equation."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Batch, Loader, encode_rows
from recmtl.features import FeatureEncoder, SplineEmbeddings
from recmtl.models import Losses

ROWS = 500


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {
        "few": rng.integers(0, 3, ROWS) * 10.0,
        "wide": np.where(rng.random(ROWS) < 0.4, 0.0, rng.lognormal(size=ROWS)),
        "gaps": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(size=ROWS)),
        "constant": np.full(ROWS, 7.0),
        "plain": rng.normal(size=ROWS),
    }
    return pd.DataFrame(columns | {"y": rng.integers(0, 2, ROWS)})


@pytest.fixture(scope="module")
def data(frame: pd.DataFrame) -> recmtl.PreparedData:
    features = [recmtl.Numeric(name) for name in ("few", "wide", "gaps", "constant")]
    schema = recmtl.Schema([*features, recmtl.Numeric("plain", "standardize")], [recmtl.Task("t", "y")])
    return recmtl.prepare(schema, frame, holdout=0)


def batch(data: recmtl.PreparedData, rows: int = ROWS) -> Batch:
    return next(Loader(data.train, rows).epoch())


def naive(embeddings: SplineEmbeddings, schema: recmtl.FittedSchema, frame: pd.DataFrame) -> torch.Tensor:
    """Return the embeddings of raw numbers by a search among the knots, row by row ``[rows, F, d]``."""
    found, start = [], 0
    for feature in schema.numeric:
        if feature.transform != "knots":
            continue
        knots = list(schema.quantiles[feature.name])
        rows = embeddings.weight.detach().double()[start : start + len(knots)]
        start += len(knots)
        values = frame[feature.name].fillna(schema.medians[feature.name])
        for x in values:
            j = max(0, min(sum(t <= x for t in knots) - 1, len(knots) - 2))
            if len(knots) == 1:
                found.append(rows[0])
            else:
                share = (x - knots[j]) / (knots[j + 1] - knots[j])
                found.append((1 - share) * rows[j] + share * rows[j + 1])
    return torch.stack(found).view(-1, len(frame), rows.shape[1]).transpose(0, 1)


def test_equals_the_equation(data: recmtl.PreparedData, frame: pd.DataFrame) -> None:
    torch.manual_seed(0)
    embeddings = SplineEmbeddings(data.schema, width=3)
    torch.nn.init.normal_(embeddings.weight)
    x = batch(data).numeric[:, :5]
    found = embeddings(x)
    assert found.shape == (ROWS, embeddings.out_features) == (ROWS, 13)
    expected = naive(embeddings, data.schema, frame).flatten(1)
    torch.testing.assert_close(found[:, :12].double(), expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(found[:, 12], x[:, 4])  # a number with another transform


def test_a_value_beyond_the_training_rows_has_the_embedding_of_the_nearest(data: recmtl.PreparedData) -> None:
    embeddings = SplineEmbeddings(data.schema, width=3)
    far = pd.DataFrame({f.name: [-1e30, 1e30] for f in data.schema.numeric})
    (rows,) = encode_rows(data.schema, far, labelled=False, note=lambda sentence: None)
    found = embeddings.embed(next(Loader(rows, 2).epoch()).numeric[:, :4])
    ends = [embeddings.weight[[0, 2]], embeddings.weight[[3, 3 + len(data.schema.quantiles["wide"]) - 1]]]
    torch.testing.assert_close(found[:, :2].transpose(0, 1), torch.stack(ends), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value: float, data: recmtl.PreparedData) -> None:
    x = batch(data, 2).numeric[:, :5].clone()
    x[1, 1] = value
    found = SplineEmbeddings(data.schema, width=3)(x)
    assert not found[1, 3:6].isfinite().any()
    assert found[0].isfinite().all()


def test_gradients_equal_those_of_the_equation(data: recmtl.PreparedData) -> None:
    embeddings = SplineEmbeddings(data.schema, width=2).double()
    x = batch(data, 40).numeric[:, :4].double()
    other = torch.zeros(40, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(embeddings, {"weight": weight}, (torch.cat([x, other], 1),)),
        embeddings.weight,
    )


def test_the_knots_of_a_feature_are_one_part(data: recmtl.PreparedData) -> None:
    encoder = FeatureEncoder(data.schema)
    (shared,) = encoder.shared_tensors()
    assert shared.parts == 4
    sizes = [len(data.schema.quantiles[n]) for n in ("few", "wide", "gaps", "constant")]
    assert torch.bincount(shared.part_of_row).tolist() == sizes
    encoder(batch(data))[:, 4:8].sum().backward()  # the embedding of the second feature alone
    assert shared.norms(shared.tensor.grad).count_nonzero() == 1


def test_an_embedding_takes_one_gather_whatever_the_number_of_knots(data: recmtl.PreparedData) -> None:
    """What is kept for the backward pass does not grow with the number of knots."""
    embeddings = SplineEmbeddings(data.schema, width=3)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        embeddings.embed(batch(data).numeric[:, :4])
    assert max(kept) <= ROWS * 4 * 2 * 3


@pytest.mark.parametrize("model", [recmtl.SharedBottom, recmtl.MMOE, recmtl.ESMM])
def test_every_model_trains_them(model: type, aliexpress: recmtl.PreparedData) -> None:
    built = model(aliexpress.schema, encoder=partial(FeatureEncoder, width=2))
    rows, method = batch(aliexpress, 256), recmtl.MetaBalance()
    recmtl.Trainer(built, method, run=recmtl.RunConfig(progress=False, device="cpu"))
    shared = built.shared()
    losses = Losses(built.schema, built.objectives)(built(rows), rows)
    method.backward(losses, shared.tensors, shared.last)
    assert built.encoder.numeric.weight.grad.abs().sum(1).count_nonzero() > 100


def test_an_exported_encoder_takes_any_number_of_rows(data: recmtl.PreparedData) -> None:
    embeddings = SplineEmbeddings(data.schema, width=3)
    x = batch(data).numeric[:, :5]
    exported = torch.export.export(embeddings, (x[:7],), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    torch.testing.assert_close(exported(x), embeddings(x))


def test_no_rows_have_embeddings_of_their_width(data: recmtl.PreparedData) -> None:
    """A process may have no row of a batch that several share."""
    assert SplineEmbeddings(data.schema, width=3)(torch.empty(0, 5)).shape == (0, 13)


@pytest.mark.parametrize(("numbers", "width"), [(1, 4), (32, 4), (33, 2)])
def test_many_numbers_have_narrow_embeddings(numbers: int, width: int) -> None:
    rows = pd.DataFrame({f"n{i}": [0.0, 1.0] for i in range(numbers)} | {"click": [0, 1]})
    schema = recmtl.Schema([recmtl.Numeric(f"n{i}") for i in range(numbers)], [recmtl.Task("ctr", "click")])
    data = recmtl.prepare(schema, rows, holdout=0)
    assert SplineEmbeddings(data.schema).out_features == numbers * width
