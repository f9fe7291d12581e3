"""A small stand-in for an exported model: real enough for a server, made in a millisecond."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recmtl.errors import RequestError

FIELDS: dict[str, Any] = {
    "user": "categorical",
    "time": {"kind": "timestamp", "format": "seconds"},
    "item": {"kind": "multi_categorical", "separator": "|"},
    "price": "numeric",
}
TASKS = {"ctr": "binary", "cvr": "binary"}


def described(kind: str | dict[str, str]) -> dict[str, str]:
    """Return an entry of the manifest, given its kind or all that it says."""
    return {"kind": kind} if isinstance(kind, str) else kind


def write_model(folder: Path, factor: float = 1.0, **changes: Any) -> Path:
    """Write a model whose ctr is `price * factor`."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = [{"name": name, **described(kind)} for name, kind in changes.pop("fields", FIELDS).items()]
    tasks = [{"name": name, **described(kind)} for name, kind in changes.pop("tasks", TASKS).items()]
    content = {"layout": 1, "request": fields, "ignored": ["click"], "tasks": tasks, "factor": factor, **changes}
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    text = json.dumps({"fingerprint": fingerprint, **content})
    (folder / ".manifest").write_text(text)
    (folder / ".manifest").replace(folder / "manifest.json")
    return folder


class FakeScorer:
    """The interface of `recmtl.Scorer`."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.metadata = json.loads((Path(folder) / "manifest.json").read_text())
        self.calls: list[int] = []

    def score(
        self,
        rows: Any = None,
        *,
        user: Mapping[str, Any] | None = None,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, np.ndarray]:
        found = [rows] if isinstance(rows, dict) else list(items if rows is None else rows)
        self.calls.append(len(found))
        known = [field["name"] for field in self.metadata["request"]]
        prices = []
        for number, row in enumerate(found):
            both = set(row) & set(user or {})
            row = {**(user or {}), **row}
            for name in [*both, *(set(row) - set(known)), *(set(known) - set(row))]:
                raise RequestError(f"row {number}: field {name!r} is unknown, missing or given twice", name, number)
            if not isinstance(row["price"], int | float | None):
                raise RequestError(
                    f"row {number}: price is no number: {row['price']!r:.40}", "price", number, row["price"]
                )
            prices.append(np.nan if row["price"] is None else row["price"])
        ctr = np.array(prices, dtype=np.float64) * self.metadata["factor"]
        return {task["name"]: ctr for task in self.metadata["tasks"]}
