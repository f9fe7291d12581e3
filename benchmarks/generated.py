"""AliExpress-shaped rows: generated, and with vocabularies of any size."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import recmtl
from recmtl.data import Batch, Loader
from recmtl.data.synthetic.generate import synthesize
from recmtl.features import FeatureEncoder, PlainNumbers

BATCH = 2048
ENCODER = partial(FeatureEncoder, width=16, numeric=PlainNumbers)  # what the peers' models read
COLUMNS = 16
SMALL, TWO_LARGE, ALL_LARGE = [12] * COLUMNS, [2_000_000] * 2 + [12] * 14, [250_000] * COLUMNS


def generated(rows: int, domain: str | None = None) -> recmtl.PreparedData:
    """Rows in the layout of AliExpress: so many to train on, one of whose columns may be the domain."""
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), rows * 10 // 8)
        card = replace(recmtl.card("aliexpress"), domain=domain)
        return recmtl.prepare(card, f"{folder}/train.csv", holdout=0.0)


def with_vocabularies(schema: recmtl.FittedSchema, sizes: Sequence[int]) -> recmtl.FittedSchema:
    """The same schema, its categorical features hashed into so many buckets."""
    left = iter(sizes)
    features = (
        replace(feature, hash_buckets=next(left)) if isinstance(feature, recmtl.Categorical) else feature
        for feature in schema.schema.features
    )
    return replace(schema, schema=replace(schema.schema, features=tuple(features)))


def batches(data: recmtl.PreparedData, schema: recmtl.FittedSchema, count: int, rows: int = BATCH) -> list[Batch]:
    """Batches of the rows, their ids drawn anew and uniformly from the schema's vocabularies."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([block.size for block in schema.id_blocks])
    full = [batch for batch in Loader(data.train, rows, seed=0).epoch() if len(batch) == rows]
    drawn = ((torch.rand(rows, len(sizes), generator=generator) * sizes).int() for _ in range(count))
    return [replace(full[i % len(full)], ids=ids) for i, ids in enumerate(drawn)]
