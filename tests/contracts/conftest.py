"""Rows of which every model can be trained: with a funnel, and with a domain."""

import numpy as np
import pandas as pd
import pytest

import recmtl


@pytest.fixture(scope="session")
def aliexpress(with_domain: recmtl.PreparedData) -> recmtl.PreparedData:
    """The generated rows with a domain."""
    return with_domain


@pytest.fixture(scope="session")
def of_all_kinds() -> recmtl.PreparedData:
    """Rows with a task of each kind and width, labels that are missing, weights and a domain."""
    rng, rows = np.random.default_rng(0), 512
    user, x = rng.integers(0, 30, rows), rng.normal(size=rows)
    spent = np.where(rng.random(rows) < 0.4, np.exp(1 + x + rng.normal(size=rows)), 0.0)
    frame = pd.DataFrame(
        {
            "user": user,
            "country": rng.choice(["NL", "US", "ES"], rows),
            "x": x,
            "click": (x + rng.normal(size=rows) > 1).astype(int),
            "stars": np.where(rng.random(rows) < 0.1, None, np.clip(np.round(x + 3), 1, 5)),
            "views": rng.poisson(np.exp(x / 2)),
            "spent": spent,
            "w": rng.uniform(0.5, 2, rows),
        }
    )
    tasks = [
        recmtl.Task("ctr", "click"),
        recmtl.Task("stars", "stars", kind="multiclass"),
        recmtl.Task("views", "views", kind="amount"),
        recmtl.Task("spent", "spent", kind="amount", loss="ziln"),
        recmtl.Task("log_spent", "x", kind="regression"),
    ]
    features = [recmtl.Categorical("user"), recmtl.Categorical("country")]
    schema = recmtl.Schema(features, tasks, weight="w", domain="country")
    return recmtl.prepare(schema, frame, test=frame.head(100), holdout=0)
