"""One multitask net beside a boosted-tree model per task: python -m benchmarks.trees census FOLDER adult FOLDER …

The data sets are named one after the other, those of files with their place:

- `census FOLDER`: census_train.csv.gz and census_valid.csv.gz, the second measured
- `adult FOLDER`: adult_train.csv.gz, cut in three by a hash of each row
- `aliexpress`: generated rows in its layout, 480,000 to train on, beside the AUC of the true probabilities
- `movielens [FILE]`: MovieLens-100k out of the package of RecBole; without FILE pip downloads it

`--all FOLDER` takes FOLDER/census_income, FOLDER/adult, `aliexpress` and `movielens`. The measured rows decide nothing:
trees choose their options by random trials, and both stop, by other rows. Trees are fitted per task and seed; the net
is trained once per seed for all tasks. Both are timed from frames in memory to the fitted model, without the trials.
`--json` records a table by data set. With `--cache` the trees of an earlier run are taken, so that another net costs
only itself; `--refit` keeps their chosen options and measures their seconds anew.

Needs the extra `bench`: pip install -c constraints.txt -e '.[bench]'
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks import tree_data
from benchmarks.tree_columns import rows_of
from benchmarks.tree_data import TreeData
from benchmarks.tree_fits import Choice, Fit, FitCache, TaskFits, fingerprint
from benchmarks.tree_models import METHODS
from benchmarks.tree_net import NetFit, fit_net
from recmtl.evaluate import Difference, Scores, auc_difference, metrics_of, scores_of
from recmtl.recipe.environment import environment

NET = "recmtl"
QUICK_ROWS = 3000  # of each part


@dataclass(frozen=True)
class Run:
    """How a data set is measured.

    Args:
        methods: The trees, and `NET`.
        seeds: Fits of each method.
        trials: Trials of each method of trees for each task.
        threads: Threads of every fit.
        cache: Where choices and fits of trees are kept.
        note: Called with a line about each fit.
    """

    methods: Sequence[str]
    seeds: int
    trials: int
    threads: int
    cache: FitCache
    note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)


def measure(data: TreeData, run: Run) -> dict[str, Any]:
    """Measure all methods on one data set."""
    runs: dict[str, dict[str, list[Scores]]] = {task: {} for task in data.tasks}
    figures: dict[str, dict[str, Any]] = {}
    choices: dict[str, dict[str, Any]] = {task: {} for task in data.tasks}
    if NET in run.methods:
        nets = [fit_net(data, seed, run.threads) for seed in range(run.seeds)]
        figures[NET] = net_figures(nets)
        for task in data.tasks:
            runs[task][NET] = [scores(data, task, net.scores[task]) for net in nets]
            note_aucs(run, data, NET, task, runs[task][NET], [net.seconds for net in nets])
    trees = fit_trees(data, run)
    for method in (name for name in run.methods if name != NET):
        figures[method] = tree_figures([trees[method, task] for task in data.tasks])
        for task in data.tasks:
            choice, fits = trees[method, task]
            choices[task][method] = choice.options
            runs[task][method] = [scores(data, task, fit.scores) for fit in fits]
    tasks = {task: compared(runs[task], data.bayes.get(task)) | {"options": choices[task]} for task in data.tasks}
    return record(data, run) | {"tasks": tasks, "methods": figures}


def fit_trees(data: TreeData, run: Run) -> dict[tuple[str, str], tuple[Choice, list[Fit]]]:
    """Choose options and fit by seed, by method and task."""
    rows_hash, found = fingerprint(data), {}
    inputs = {task: rows_of(data, task) for task in data.tasks}
    for method in (name for name in run.methods if name != NET):
        for task in data.tasks:
            fits = TaskFits(data.name, rows_hash, task, inputs[task], method, run.threads, run.cache, run.note)
            choice = fits.choose(run.trials)
            by_seed = [fits.fit(choice.options, seed, f"seed {seed}") for seed in range(run.seeds)]
            found[method, task] = choice, by_seed
            aucs = [scores(data, task, fit.scores) for fit in by_seed]
            note_aucs(run, data, method, task, aucs, [fit.seconds for fit in by_seed])
    return found


def scores(data: TreeData, task: str, predictions: Any) -> Scores:
    """Return predictions of the measured rows with their labels and groups."""
    labels = data.measured[data.tasks[task]].to_numpy(np.float64)
    return scores_of(recmtl.Task(task, data.tasks[task]), labels, predictions, groups=data.groups)


def auc(run: Scores) -> float:
    return float(metrics_of(run, names=["auc"]).values["auc"] or np.nan)


def note_aucs(run: Run, data: TreeData, method: str, task: str, runs: Sequence[Scores], seconds: list[float]) -> None:
    aucs = [auc(one) for one in runs]
    each = " ".join(f"{value:.5f}" for value in aucs)
    figures = f"mean {statistics.mean(aucs):.5f} ({each}), {statistics.median(seconds):.1f} s a fit"
    run.note(f"MEASURED {data.name} {method} {task}: {figures}, threads {run.threads}")


def compared(runs: dict[str, list[Scores]], bayes: float | None) -> dict[str, Any]:
    """Return the AUCs of one task by method, and the net minus the trees with the best mean on the same rows."""
    aucs = {name: [auc(run) for run in of_method] for name, of_method in runs.items()}
    trees = [name for name in runs if name != NET]
    best = max(trees, key=lambda name: statistics.mean(aucs[name])) if trees else None
    difference: Difference | None = None
    if best and NET in runs:
        difference = auc_difference(runs[NET], runs[best], paired=False)  # a seed of the one is none of the other
    between = asdict(difference) if difference else None
    return {"auc": aucs, "best_trees": best, "net_minus_best_trees": between, "bayes": bayes}


def tree_figures(fits: Sequence[tuple[Choice, Sequence[Fit]]]) -> dict[str, Any]:
    """Return seconds and parameters of one model per task: the sum over the tasks of the median over the seeds."""
    names = ("seconds", "cpu_seconds", "parameters")
    medians = {name: sum(statistics.median(getattr(fit, name) for fit in task) for _, task in fits) for name in names}
    tuning = {f"tuning_{name}": sum(getattr(choice, name) for choice, _ in fits) for name in names[:2]}
    return medians | tuning


def net_figures(nets: Sequence[NetFit]) -> dict[str, Any]:
    """Return seconds and parameters of the net: medians over the seeds."""
    names = ("seconds", "cpu_seconds", "parameters")
    return {name: statistics.median(getattr(net, name) for net in nets) for name in names}


def record(data: TreeData, run: Run) -> dict[str, Any]:
    """Return what was measured and how."""
    packages = dict.fromkeys(METHODS[name].package for name in run.methods if name != NET)
    options = f"--seeds {run.seeds} --trials {run.trials} --threads {run.threads}"
    left_out = [name for name in METHODS if name not in run.methods]
    chosen = f" --methods {' '.join(run.methods)}" if left_out else ""
    return {
        "title": data.title,
        "command": f"python -m benchmarks.trees {data.name} … {options}{chosen}",
        "left_out": left_out,
        "machine": [*environment()[:2], *(f"{name} {version(name)}" for name in packages)],
        "rows": {name: len(frame) for name, frame in data.frames().items()},
        "seeds": run.seeds,
        "trials": run.trials,
        "threads": run.threads,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table of one data set."""
    table = Table(result["title"], *result["methods"], "Bayes", "net minus best trees")
    for task, found in result["tasks"].items():
        means = [f"{statistics.mean(aucs):.4f}" for aucs in found["auc"].values()]
        bayes = "" if found["bayes"] is None else f"{found['bayes']:.4f}"
        between = found["net_minus_best_trees"]
        cells = "{estimate:+.4f} [{low:+.4f}, {high:+.4f}]".format(**between) if between else ""
        table.add_row(task, *means, bayes, cells)
    for name in ("seconds", "cpu_seconds", "parameters", "tuning_seconds"):
        table.add_row(name.replace("_", " "), *(f"{row.get(name, 0):,.1f}" for row in result["methods"].values()))
    Console(width=140).print(table)


def named(arguments: Sequence[str], everything: Path | None) -> dict[str, Path | None]:
    """Return the place of each data set that is named.

    Raises:
        ValueError: No name is given, one is unknown, or a data set of files has no place.
    """
    places: dict[str, Path | None] = {}
    if everything:
        places = {"census": everything / "census_income", "adult": everything / "adult"}
        places |= {"movielens": None, "aliexpress": None}
    words = list(arguments)
    while words:
        name = words.pop(0)
        if name not in SOURCES:
            raise ValueError(f"there is no data set {name!r}: name {', '.join(SOURCES)}")
        takes = name != "aliexpress" and bool(words) and words[0] not in SOURCES
        places[name] = Path(words.pop(0)) if takes else None
        if name in ("census", "adult") and places[name] is None:
            raise ValueError(f"name the folder of {name!r} after it")
    if not places:
        raise ValueError(f"name a data set: {', '.join(SOURCES)}")
    return places


SOURCES: dict[str, Callable[[Any], TreeData]] = {
    "census": tree_data.census,
    "adult": tree_data.adult,
    "aliexpress": tree_data.aliexpress,
    "movielens": tree_data.movielens,
}


def loaded(places: dict[str, Path | None], quick: bool, cache: Path) -> Iterator[TreeData]:
    """Load one data set after the other; generated rows lie in the cache."""
    for name, place in places.items():
        if name == "aliexpress":
            rows = 10 * QUICK_ROWS if quick else tree_data.ALIEXPRESS_ROWS
            data = tree_data.aliexpress(cache / f"aliexpress_{rows}", rows)
        else:
            data = SOURCES[name](place)
        yield data.head(QUICK_ROWS) if quick else data


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="NAME [PLACE]", help="census, adult, aliexpress, movielens")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="all four data sets")
    parser.add_argument("--methods", nargs="+", choices=[NET, *METHODS], default=[NET, *METHODS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10, help="for each task and method of trees")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, help="folder that keeps chosen options and fitted trees")
    parser.add_argument("--refit", action="store_true", help="take only chosen options from the cache")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, a trial and a seed")
    parser.add_argument("--json", type=Path, help="file to record in, by data set")
    given = parser.parse_args(arguments)
    if given.json and NET not in given.methods:
        parser.error(f"`--json` records the net beside the trees: name {NET} among `--methods`")
    try:
        places = named(given.data, given.all)
    except ValueError as error:
        parser.error(str(error))
    seeds, trials = (1, 1) if given.quick else (given.seeds, given.trials)
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.cache or Path(temporary)
        run = Run(given.methods, seeds, trials, given.threads, FitCache(cache, given.refit))
        for data in loaded(places, given.quick, cache):
            result = measure(data, run)
            show(result)
            if given.json:
                merge(given.json, data.name, result)


def merge(file: Path, name: str, result: dict[str, Any]) -> None:
    """Replace one data set in a record."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": {}}
    content = {"results": content["results"] | {name: result}}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
