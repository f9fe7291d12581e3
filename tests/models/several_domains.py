"""Rows of two domains, and of no training domain, for models that tell domains apart."""

import dataclasses

import numpy as np
import pandas as pd
import torch

import recmtl
from recmtl.data import Batch, Loader

TASKS = [recmtl.Task("click", "click"), recmtl.Task("like", "like")]


def prepared() -> recmtl.PreparedData:
    """80 rows of US and NL with two labels."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"user": rng.integers(0, 5, 80), "price": rng.normal(size=80)})
    rows["country"] = rng.choice(["US", "NL"], 80, p=[0.6, 0.4])
    rows["click"], rows["like"] = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    rows["tags"] = rng.choice(["a|b", "b", "c"], 80)
    features = [recmtl.MultiCategorical("tags"), recmtl.Categorical("user"), recmtl.Categorical("country")]
    schema = recmtl.Schema([*features, recmtl.Numeric("price")], TASKS, domain="country")
    return recmtl.prepare(schema, rows, holdout=0)


def batch_of(data: recmtl.PreparedData, *unknown: int) -> tuple[Batch, list[int]]:
    """A batch of eight rows in float64, some of which get no training domain, and the domains: 2 for none."""
    batch = next(Loader(data.train, 8, seed=0).epoch())
    place = data.schema.domain.block.start
    ids = batch.ids.clone()
    for row, place_in_vocabulary in zip(unknown, (0, 1), strict=False):  # "unknown", "missing"
        ids[row, place] = place_in_vocabulary
    domains = [2 if i < 2 else i - 2 for i in ids[:, place].tolist()]
    return dataclasses.replace(batch, ids=ids, numeric=batch.numeric.double()), domains


def spread(model: recmtl.RankingModel) -> recmtl.RankingModel:
    """Give all parameters values that differ, in float64, so that each of them counts."""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model
