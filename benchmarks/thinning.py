"""Calibration of models that are trained on thinned rows, on generated rows whose probabilities are known.

`python -m benchmarks.thinning` drops rows without a click from the training and validation files, trains each model on
each pair of tasks, and compares its predictions of all test rows with their true probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import recmtl
from recmtl.data.synthetic.generate import calibrate, synthesize
from recmtl.schema import SplitName

RATES = (0.01, 0.1, 0.5)
CLICK_RATE, CONVERSION_RATE = 0.10, 0.30
TASKS = {
    "ctr": recmtl.Task("ctr", "click"),
    "cvr": recmtl.Task("cvr", "conversion", given="click"),
    "ctcvr": recmtl.Task("ctcvr", "conversion"),
}
PAIRS = (("ctr", "cvr"), ("ctr", "ctcvr"), ("cvr", "ctcvr"))
MODELS: Mapping[str, Mapping[str, Any]] = {
    "SharedBottom": {"layers": [128], "tower_layers": [64]},
    "MMOE": {"layers": [128], "tower_layers": [64], "experts": 4},
    "ESMM": {"tower_layers": [128, 64]},
}


@dataclass(frozen=True)
class Calibration:
    """The mean prediction over the mean true probability of each task, and how far predictions contradict.

    CVR is averaged over clicks: rows count by their true click probability. `gap` is the largest
    |pCTR·pCVR − pCTCVR| of any row.
    """

    ctr: float
    cvr: float
    ctcvr: float
    gap: float


def calibration(predicted: pd.DataFrame, click: np.ndarray, conversion: np.ndarray) -> Calibration:
    """Compare predictions with the true probabilities of a click, and of a conversion of clicked rows ``[rows]``."""
    ctr, cvr, ctcvr = (predicted[name].to_numpy() for name in TASKS)
    gap = float(np.abs(ctr * cvr - ctcvr).max())
    both = float((click * conversion).mean())
    return Calibration(ctr.mean() / click.mean(), (click * cvr).mean() / both, ctcvr.mean() / both, gap)


def cells(models: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each model with each pair of tasks; ESMM has the losses of CTR and CTCVR whatever tasks are named."""
    yield from ((name, pair) for name, pair in product(models, PAIRS) if name != "ESMM" or pair == PAIRS[0])


def trained(data: recmtl.PreparedData, model: str, epochs: int) -> recmtl.Trainer:
    """Train a model on prepared rows."""
    torch.manual_seed(0)
    options = recmtl.Optimization(batch_size=512, schedule="cosine")
    run = recmtl.RunConfig(device="cpu", progress=False)
    built = getattr(recmtl, model)(data.schema, **MODELS[model])
    stopping = recmtl.EarlyStopping(monitor="logloss", patience=2)
    return recmtl.Trainer(built, epochs=epochs, optimization=options, stopping=stopping, run=run).fit(
        data.train, data.valid
    )


def measure(rate: float, rows: int, models: Sequence[str], epochs: int) -> pd.DataFrame:
    """Generate thinned files, train on them, and return a row of calibrations for each model and pair of tasks."""
    thinned: tuple[SplitName, ...] = ("train", "valid")
    with tempfile.TemporaryDirectory() as folder:
        synthesize(
            folder,
            rows,
            click_rate=CLICK_RATE,
            conversion_rate=CONVERSION_RATE,
            negative_rate=rate,
            thinned=thinned,
        )
        train, valid = (str(Path(folder) / f"{split}.csv") for split in thinned)
        test = pd.read_csv(Path(folder) / "test.csv")
        planted = calibrate(seed=0, vocabulary=0, click_rate=CLICK_RATE, conversion_rate=CONVERSION_RATE)
        truth = planted.probabilities({str(name): test[name].to_numpy() for name in test})
        found = []
        for model, pair in cells(models):
            schema = replace(recmtl.card("aliexpress"), tasks=[TASKS[name] for name in pair])
            data = recmtl.prepare(schema, train, valid, thinning=recmtl.Thinning(rate, thinned=thinned))
            result = calibration(trained(data, model, epochs).predict(test), *truth)
            found.append({"rate": rate, "model": model, "tasks": "+".join(pair), **vars(result)})
            print(
                " ".join(f"{name} {v:.3g}" if isinstance(v, float) else v for name, v in found[-1].items()), flush=True
            )
    return pd.DataFrame(found)


def main() -> None:
    """Print a table of all rates, models and pairs of tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000, help="rows before they are thinned, 80 %% to train on")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    table = pd.concat([measure(rate, given.rows, given.models, given.epochs) for rate in given.rates])
    print(table.to_string(index=False, formatters={"gap": "{:.0e}".format}, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
