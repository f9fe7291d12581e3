"""What each model claims, on rows planted for it: python -m benchmarks.planted [PROBLEM …] [--json FILE]

For each of ten seeds a planted problem is drawn anew, its truth and its rows (`recmtl synth --plant`), and every model
is trained on it by the defaults of the library. The AUC of each task is that of the test rows; on `selection`
predictions of CVR are also compared with the true probability of *every* test row: their bias is the mean predicted
minus the mean true CVR, their error the mean absolute difference. On `funnel` the mean prediction of each rate is
compared with the mean of its labels. Differences to the first model are paired by seed,
with 95 % t intervals. The planted strengths were chosen on seeds from 100 on.

What `--json` holds already is not trained again, so that a run can be interrupted and models can be added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import recmtl
from recmtl.data.synthetic.planted import Plant, PlantedFacts, plant
from recmtl.evaluate import metrics_of, scores_of
from recmtl.evaluate.confidence import t_quantile
from recmtl.recipe.environment import environment
from recmtl.schema import MultiCategorical

SEEDS, ROWS = 10, 40_000
CALIBRATION = "calibration of "  # the beginning of a measure: mean prediction / mean label of a task
TO_TRUTH = "calibration to the truth of "  # the same with the mean true rate
Measures = dict[str, float]  # AUC by task; of `selection` bias and error of CVR, of `funnel` the calibration by task


@dataclass(frozen=True)
class Contender:
    """A model with what is set beside the defaults.

    Args:
        model: Its import name.
        pooling: That of the histories.
        options: Arguments of the model.
        balancer: The import name of its balancer.
        balance_domains: Whether each domain of a task is an objective.
        interaction: The import name of its encoder's interaction.
    """

    model: str
    pooling: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    balancer: str = "Sum"
    balance_domains: bool = False
    interaction: str | None = None

    def build(self, schema: recmtl.FittedSchema) -> recmtl.RankingModel:
        """Return the model with its arguments and its interaction."""
        options: dict[str, Any] = dict(self.options)
        if self.interaction is not None:
            options["encoder"] = partial(recmtl.FeatureEncoder, interaction=getattr(recmtl, self.interaction))
        model: recmtl.RankingModel = getattr(recmtl, self.model)(schema, **options)
        return model

    def schema(self, schema: recmtl.Schema) -> recmtl.Schema:
        """Return the schema with the pooling of the contender."""
        pooling: Any = self.pooling
        if pooling is None:
            return schema

        def pooled(history: MultiCategorical) -> MultiCategorical:
            return replace(
                history, pooling=pooling, target=history.share_with if pooling == "target_attention" else None
            )

        features = (pooled(f) if isinstance(f, MultiCategorical) else f for f in schema.features)
        return replace(schema, features=tuple(features))


@dataclass(frozen=True)
class Problem:
    """A planted problem, and its contenders: first the model that the others are compared with."""

    title: str
    contenders: Mapping[str, Contender]


def plain(*names: str) -> dict[str, Contender]:
    """Return models by their defaults."""
    return {name: Contender(name) for name in names}


SMALL: Mapping[str, Any] = {"layers": [16], "tower_layers": []}  # a trunk that leaves products to the interaction

PROBLEMS: dict[Plant, Problem] = {
    "selection": Problem(
        "Selection: clicked rows are not like all rows",
        plain("MMOE", "SharedBottom", "PLE", "AITM", "ESMM")
        | {
            "ESCM2, IPS": Contender("ESCM2", options={"estimator": "ips"}),
            "ESCM2, DR": Contender("ESCM2", options={"estimator": "dr"}),
            "ESCM2, IPS, weights to 100": Contender("ESCM2", options={"estimator": "ips", "max_weight": 100.0}),
        },
    ),
    "funnel": Problem(
        "Funnel: four steps, all of whose rates are known",
        plain("MMOE", "ESMM", "AITM") | {"ESCM2, IPS": Contender("ESCM2", options={"estimator": "ips"})},
    ),
    "interests": Problem(
        "Interests: the history decides, candidate by candidate",
        plain("SharedBottom", "MMOE")
        | {
            "SharedBottom, sum": Contender("SharedBottom", "sum"),
            "SharedBottom, target attention": Contender("SharedBottom", "target_attention"),
            "SharedBottom, self-attention": Contender("SharedBottom", "self_attention"),
        },
    ),
    "domains": Problem(
        "Domains: half of the effects are shared",
        plain("SharedBottom", "MMOE", "PLE", "PEPNet", "STAR")
        | {
            "SharedBottom, MetaBalance": Contender("SharedBottom", balancer="MetaBalance"),
            "SharedBottom, MetaBalance of domains": Contender(
                "SharedBottom", balancer="MetaBalance", balance_domains=True
            ),
            "SharedBottom, PCGrad of domains": Contender("SharedBottom", balancer="PCGrad", balance_domains=True),
        },
    ),
    "interactions": Problem(
        "Interactions: effects of second order",
        plain("SharedBottom", "MMOE", "PLE", "STEM")
        | {
            f"SharedBottom, {name}": Contender("SharedBottom", interaction=name)
            for name in ("CrossLayers", "GatedCrossLayers", "FinalMLP", "MaskNet")
        }
        | {"SharedBottom of 16": Contender("SharedBottom", options=SMALL)}
        | {
            f"SharedBottom of 16, {name}": Contender("SharedBottom", options=SMALL, interaction=name)
            for name in ("CrossLayers", "GatedCrossLayers", "FinalMLP", "MaskNet")
        },
    ),
}


def measure(facts: PlantedFacts, folder: Path, contender: Contender, seed: int) -> Measures:
    """Train a model on the files of a folder, and measure it on the test rows."""
    schema = contender.schema(recmtl.Schema.load(folder / "card.yaml"))
    data = recmtl.prepare(schema, folder / "train.csv", folder / "valid.csv", folder / "test.csv")
    torch.manual_seed(seed)
    model = contender.build(data.schema)
    run = recmtl.RunConfig(seed=seed, progress=False, device="cpu")
    balancer = getattr(recmtl, contender.balancer)()
    trainer = recmtl.Trainer(model, balancer, balance_domains=contender.balance_domains, run=run)
    trainer.fit(data.train, data.valid)
    predicted = trainer.predict(data.test)
    test, true = (pd.read_csv(folder / name) for name in ("test.csv", "test_truth.csv"))
    tasks = [task for task in data.schema.schema.reported_tasks if task.name in facts.test]
    found = {task.name: auc(task, test, predicted[task.name]) for task in tasks}
    if facts.plant == "funnel":
        found |= {f"{CALIBRATION}{task.name}": calibration(task, test, predicted[task.name]) for task in tasks}
        found |= {f"{TO_TRUTH}{t.name}": calibration(t, test, predicted[t.name], true[t.name]) for t in tasks}
    if facts.plant == "selection":
        difference = predicted["cvr"] - true["cvr"]
        found |= {"bias": float(difference.mean()), "error": float(difference.abs().mean())}
    return found


def counted(task: recmtl.Task, test: pd.DataFrame, predicted: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return label and prediction of the rows that count for a task."""
    counts = (test[task.given] == 1 if task.given else test[task.label].notna()).to_numpy()
    return test[task.label].to_numpy(float)[counts], predicted.to_numpy(float)[counts]


def calibration(task: recmtl.Task, test: pd.DataFrame, predicted: pd.Series, true: pd.Series | None = None) -> float:
    """Return the mean prediction of one task over its mean label, or mean true rate, of the rows that count for it."""
    labels, found = counted(task, test, predicted)
    expected = labels if true is None else counted(task, test, true)[1]
    return float(found.mean() / expected.mean())


def auc(task: recmtl.Task, test: pd.DataFrame, predicted: pd.Series) -> float:
    """Return the AUC of one task, over the rows that count for it."""
    scores = scores_of(task, *counted(task, test, predicted))
    return float(metrics_of(scores, names=["auc"]).values["auc"] or float("nan"))


@dataclass(frozen=True)
class Mean:
    """A mean over the seeds with its 95 % t interval."""

    estimate: float
    low: float
    high: float


def mean_of(values: Sequence[float], level: float = 0.95) -> Mean:
    """Return the mean of two independent values or more."""
    mean = statistics.mean(values)
    half = t_quantile(level, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Mean(mean, mean - half, mean + half)


def summary(seeds: Mapping[str, Mapping[str, Measures]], baseline: str) -> dict[str, dict[str, Any]]:
    """Return the means of each model, and the differences to the baseline on the seeds that both have.

    Args:
        seeds: The measures by model and seed; a model with one seed is left out.
        baseline: The model that others are compared with.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, runs in seeds.items():
        both = [seed for seed in runs if seed in seeds[baseline]]
        if len(both) > 1:
            measures = list(runs[both[0]])
            means = {m: asdict(mean_of([run[m] for run in runs.values()])) for m in measures}
            between = {m: asdict(mean_of([runs[s][m] - seeds[baseline][s][m] for s in both])) for m in measures}
            found[name] = {"mean": means, "difference": None if name == baseline else between}
    return found


def run(
    name: Plant,
    models: Mapping[str, Contender],
    seeds: Iterable[int],
    rows: int,
    known: Mapping[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure the contenders of one problem, and save what is known after each training.

    Args:
        name: The problem.
        models: The contenders; the first is the baseline.
        seeds: The seeds of the truth, the rows and the training.
        rows: The rows in all.
        known: What an earlier run has recorded.
        save: Takes the record of the problem.
    """
    kept = known if known.get("rows") == rows else {}
    truths: dict[str, dict[str, Any]] = dict(kept.get("truths", {}))
    done: dict[str, dict[str, Measures]] = dict(kept.get("seeds", {}))
    record: dict[str, Any] = {}
    for seed in map(str, seeds):
        with tempfile.TemporaryDirectory() as folder:
            left = [model for model in models if seed not in done.get(model, {})]
            if left:
                facts = plant(folder, name, rows, seed=int(seed))
                bayes = {task: truth.auc for task, truth in facts.test.items()}
                truths[seed] = {"bayes": bayes, "planted": facts.planted}
            for model in left:
                found = measure(facts, Path(folder), models[model], int(seed))
                done.setdefault(model, {})[seed] = found
                note = " ".join(f"{key} {value:.4f}" for key, value in found.items())
                print(f"MEASURED {name}, seed {seed}, {model}: {note}", file=sys.stderr, flush=True)
                save(record_of(name, rows, truths, done, next(iter(models))))
        record = record_of(name, rows, truths, done, next(iter(models)))
    return record


def record_of(
    name: Plant, rows: int, truths: Mapping[str, Any], done: Mapping[str, Any], baseline: str
) -> dict[str, Any]:
    """Return what is recorded of one problem, its models in the order of the problem."""
    seeds = {model: done[model] for model in PROBLEMS[name].contenders if model in done}
    about = {"title": PROBLEMS[name].title, "rows": rows, "baseline": baseline, "truths": dict(truths)}
    return about | {"seeds": seeds, "models": summary(seeds, baseline)}


def show(record: Mapping[str, Any]) -> Table:
    """Return the table of one problem."""
    table = Table(title=record["title"])
    measures = list(record["models"][record["baseline"]]["mean"])
    for column in ("model", *measures, *(f"{m} − {record['baseline']}" for m in measures)):
        table.add_column(column)
    for name, row in record["models"].items():
        between = row["difference"] or {}
        cells = ["{estimate:+.4f} [{low:+.4f}, {high:+.4f}]".format(**between[m]) if between else "" for m in measures]
        table.add_row(name, *(f"{row['mean'][m]['estimate']:.4f}" for m in measures), *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=f"{', '.join(PROBLEMS)}; by default all")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="beside the baseline; by default all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first_seed", type=int, default=0, help="100 and more to choose strengths by")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", type=Path, help="file to record in, by problem")
    given = parser.parse_args(arguments)
    names: list[Plant] = given.problems or list(PROBLEMS)
    if unknown := [name for name in names if name not in PROBLEMS]:
        parser.error(f"there is no problem {unknown[0]!r}: name {', '.join(PROBLEMS)}")
    known = {model for name in names for model in PROBLEMS[name].contenders}
    if unknown := [model for model in given.models or () if model not in known]:
        parser.error(f"there is no model {unknown[0]!r} of {', '.join(names)}: name {', '.join(sorted(known))}")
    if given.seeds < 2:
        parser.error("an interval over seeds needs at least two: raise `--seeds`")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    if given.json and given.json.exists():
        results = json.loads(given.json.read_text(encoding="utf-8"))["results"]

    def save(name: str, record: dict[str, Any]) -> None:
        results[name] = record
        content = {"command": "python -m benchmarks.planted", "machine": environment(), "results": results}
        if given.json:
            given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    for name in names:
        models = PROBLEMS[name].contenders
        chosen = [model for model in models if not given.models or model in given.models or model == next(iter(models))]
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        contenders = {model: models[model] for model in chosen}
        record = run(name, contenders, seeds, given.rows, results.get(name, {}), partial(save, name))
        Console(width=150).print(show(record))


if __name__ == "__main__":
    main()
