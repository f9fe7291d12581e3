"""Write what turns raw values into ids and numbers, in files that are read without pandas and pyarrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recmtl.data.columns.numeric import constant
from recmtl.data.preparation.label_rates import mean_rate, rate_columns
from recmtl.schema import Binned, Categorical, FittedSchema, IdBlock, MultiCategorical, Numeric, Timestamp
from recmtl.schema.features import KIND_NAMES, Feature
from recmtl.schema.fitted import MISSING, UNKNOWN
from recmtl.serving.request_encoder import ENCODER_FILE, RATES_FILE, VOCABULARY_FILE

# The files of the reader, in an order in which each uses those before it.
READER_PARTS = (
    "errors.py",
    "io/spellings.py",
    "io/list_text.py",
    "serving/manifest.py",
    "serving/raw_values.py",
    "serving/stable_hash.py",
    "serving/feature_encoders.py",
    "serving/number_encoder.py",
    "serving/request_encoder.py",
    "serving/reader.py",
)
OWN_IMPORT = re.compile(r"^from recmtl\.\S+ import (\([^)]*\)|[^\n]*)\n", re.M)
FUTURE_IMPORT = "from __future__ import annotations\n"


def write_encoder(fitted: FittedSchema, folder: Path) -> None:
    """Write the encoder of a fitted schema into an existing folder."""
    written = {ENCODER_FILE: encoder_dict(fitted), VOCABULARY_FILE: _vocabularies(fitted)}
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if fitted.rated_blocks:
        rates: dict[str, Any] = {str(place): own for place, own in enumerate(_label_rates(fitted))}
        np.savez(folder / RATES_FILE, **rates)


def reader_source() -> str:
    """Return the reader as one file that needs NumPy and onnxruntime alone."""
    parts = [(files("recmtl") / name).read_text(encoding="utf-8") for name in READER_PARTS]
    first, *others = (OWN_IMPORT.sub("", part) for part in reversed(parts))  # the docstring is that of the last part
    docstring, _, last = first.partition(FUTURE_IMPORT)
    bodies = [part.partition(FUTURE_IMPORT)[2] for part in reversed(others)]
    return "".join([docstring, FUTURE_IMPORT, *bodies, last])


def encoder_dict(fitted: FittedSchema) -> dict[str, Any]:
    """Return everything that encoding needs beside the vocabularies and the label rates, as plain data."""
    blocks = {f.name: [*own] for f, own in groupby(fitted.id_blocks, attrgetter("feature"))}
    schema = fitted.schema
    names = {feature.name for feature in schema.features}
    carried = (*schema.labels, *schema.carried, *schema.weights)
    return {
        "nulls": list(schema.text_format.null_words),
        "decimal": schema.decimal,
        "ignored": [name for name in dict.fromkeys(carried) if name not in names],
        "rated": [block.name for block in fitted.rated_blocks],
        "features": [_entry(fitted, feature, blocks.get(feature.name, [])) for feature in schema.features],
    }


def _entry(fitted: FittedSchema, feature: Feature, blocks: list[IdBlock]) -> dict[str, Any]:
    """Return what encoding needs of one feature."""
    entry: dict[str, Any] = {"name": feature.name, "kind": KIND_NAMES[type(feature)]}
    if isinstance(feature, Numeric):
        return entry | _numeric_entry(fitted, feature)
    lacking = fitted.missing[feature.name] == 0
    entry["missing_id"] = UNKNOWN if lacking else MISSING
    if isinstance(feature, Timestamp):
        constants = [fitted.constants.get(block.name) for block in blocks]
        parts = {"parts": list(feature.parts), "constants": [ids and ids[0] for ids in constants]}
        return entry | {"format": feature.format} | parts
    ids = fitted.constants.get(feature.name)
    entry["constant"] = None if ids is None else list(ids)
    if isinstance(feature, Binned):
        return entry | {"edges": list(fitted.quantiles[feature.name]), "clip": feature.clip}
    owner = fitted.schema.owner(feature)
    entry |= {"vocabulary": None if owner.hash_buckets else owner.name, "hash_buckets": owner.hash_buckets}
    if isinstance(feature, MultiCategorical):
        longest = fitted.lengths[feature.name]
        entry |= {"separator": feature.separator, "longest": longest, "keep": feature.keep}
    return entry


def _numeric_entry(fitted: FittedSchema, feature: Numeric) -> dict[str, Any]:
    """Return the options of a numeric feature as sums, quotients and points.

    A value is clipped, replaced by the constant if there is one, and by the center where it is missing; then it is
    interpolated between the points, or shifted and scaled.
    """
    (mean, deviation), quantiles = fitted.moments[feature.name], list(fitted.quantiles[feature.name])
    shift, scale, center = 0.0, 1.0, fitted.medians.get(feature.name, mean)
    if feature.transform == "quantile":
        center = float(np.median(quantiles))
    elif feature.transform == "min_max":
        shift, scale = quantiles[0], quantiles[-1] - quantiles[0] or 1.0
    elif feature.transform in ("standardize", "log1p"):
        shift, scale = mean, deviation  # 0 gives 0
    share = fitted.missing[feature.name]
    indicator = (share if share in (0, 1) else 0.5) if feature.missing_indicator else None
    return {
        "transform": feature.transform,
        "clip": feature.clip,
        "constant": constant(feature, fitted),
        "center": center,
        "shift": shift,
        "scale": scale,
        "points": quantiles if feature.transform in ("knots", "quantile") else [],
        "indicator": indicator,
    }


def _vocabularies(fitted: FittedSchema) -> dict[str, list[str | None]]:
    owners = {fitted.schema.owner(f).name for f in fitted.schema.features if isinstance(f, Categorical)}
    return {name: values.to_pylist() for name, values in fitted.vocabularies.items() if name in owners}


def _label_rates(fitted: FittedSchema) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the label rates of each id of the features that have them ``[ids, label rate columns]``."""
    rates = [fitted.rate(task) for task in fitted.rated_tasks]
    rows, means = (np.array(values, float)[:, None] for values in zip(*rates, strict=True))
    for block in fitted.rated_blocks:
        columns = rate_columns(*fitted.label_counts[block.name], mean_rate(rows, rows * means))
        yield columns.T.astype(np.float32)
