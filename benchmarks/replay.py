"""Days that drift, with new ids each day: python -m benchmarks.replay [--json FILE]

For each of five seeds seven days are planted anew, their truth and their rows (`recmtl synth --plant days`): each day
5 % of the ids are new, and effects turn. `recmtl replay` trains MMOE by the defaults of the library on the days up to
one and measures the AUC on the next: going on from the run of the day before (warm), anew on all days so far, and with
the run of the first day (frozen). Intervals are of means over the seeds (t, 95 %), differences are paired by seed.

What `--json` holds already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from recmtl.evaluate.confidence import t_quantile
from recmtl.recipe.environment import environment

SEEDS, ROWS, DAYS = 5, 70_000, 7
PAIRS = (("warm", "anew"), ("warm", "frozen"), ("anew", "frozen"))
Seed = dict[str, Any]  # what is recorded of a seed


def run(seed: int, rows: int, days: int) -> Seed:
    """Return the AUC of one seed by task, mode and day, that of the truth, and by mode and day what it took."""
    with tempfile.TemporaryDirectory() as folder:
        facts = recmtl.plant_days(Path(folder) / "rows", rows, days, seed=seed)
        options = {"data.card": f"{folder}/rows/card.yaml", "data.train": f"{folder}/rows/days"}
        options |= {"trainer.run.seed": str(seed), "trainer.run.threads": "1"}
        found = recmtl.replay({}, Path(folder) / "replay", options=options, progress=False)
        auc, growth = found.metrics, found.growth
    aucs: dict[str, dict[str, dict[str, float]]] = {}
    for row in auc.to_dict("records"):
        aucs.setdefault(row["task"], {}).setdefault(row["mode"], {})[row["day"]] = row["value"]
    bayes = {task: {day: facts.test[day][task].auc for day in found.days[1:]} for task in aucs}
    first = {task: {day: facts.planted[day][f"{task}_first"] for day in found.days[1:]} for task in aucs}
    columns = ["train_rows", "table_rows", "seconds", "prepare_seconds"]
    work = {mode: of_mode.set_index("day")[columns].to_dict() for mode, of_mode in growth.groupby("mode")}
    return {"auc": aucs, "bayes": bayes, "first": first, "work": work}


def estimate(values: Sequence[float]) -> dict[str, float]:
    """Return a mean with its 95 % interval."""
    half = t_quantile(0.95, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return {"estimate": mean(values), "low": mean(values) - half, "high": mean(values) + half}


def summary(seeds: Mapping[str, Seed]) -> dict[str, Any]:
    """Return by task the mean AUC of each mode by day, and the mean over the days of the differences."""
    runs = [*seeds.values()]
    found: dict[str, Any] = {}
    for task, modes in runs[0]["auc"].items():
        days = [*next(iter(modes.values()))]
        by_day = {m: {day: estimate([run["auc"][task][m][day] for run in runs]) for day in days} for m in modes}
        later = days[1:]  # on the first measured day all modes are one run

        def gain(run: Seed, a: str, b: str, task: str = task, later: list[str] = later) -> float:
            return float(mean(run["auc"][task][a][day] - run["auc"][task][b][day] for day in later))

        differences = {f"{a} − {b}": estimate([gain(run, a, b) for run in runs]) for a, b in PAIRS}
        truth = {name: {day: mean(run[name][task][day] for run in runs) for day in days} for name in ("bayes", "first")}
        found[task] = {"by_day": by_day, "differences": differences, **truth}
    return found


def work(seeds: Mapping[str, Seed]) -> dict[str, Any]:
    """Return for each mode and day the mean seconds of training, and the rows of the tables."""
    runs = [run["work"] for run in seeds.values()]
    return {
        mode: {
            column: {day: mean(run[mode][column][day] for run in runs) for day in runs[0][mode][column]}
            for column in ("train_rows", "table_rows", "seconds")
        }
        for mode in runs[0]
    }


def show(record: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=150)
    for task, found in record["tasks"].items():
        modes = list(found["by_day"])
        table = Table("day", *modes, "Bayes", "true effects of day 1", title=f"AUC of {task}")
        for day in found["bayes"]:
            cells = ["{estimate:.4f} [{low:.4f}, {high:.4f}]".format(**found["by_day"][m][day]) for m in modes]
            table.add_row(day, *cells, f"{found['bayes'][day]:.4f}", f"{found['first'][day]:.4f}")
        console.print(table)
        for name, between in found["differences"].items():
            console.print(f"{task}, {name}: " + "{estimate:+.4f} [{low:+.4f}, {high:+.4f}]".format(**between))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--json", type=Path, help="file to record in")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error("an interval over seeds needs at least two: raise `--seeds`")
    torch.set_num_threads(1)
    about = {"rows": given.rows, "days": given.days}
    seeds: dict[str, Seed] = {}
    if given.json and given.json.exists():
        content = json.loads(given.json.read_text(encoding="utf-8"))
        seeds = content["seeds"] if {name: content[name] for name in about} == about else {}
    record: dict[str, Any] = {}
    for seed in range(given.seeds):
        if str(seed) not in seeds:
            seeds[str(seed)] = run(seed, given.rows, given.days)
            print(f"seed {seed} is done", flush=True)
        if len(seeds) > 1:
            record = {"command": "python -m benchmarks.replay", "machine": environment(), **about, "seeds": seeds}
            record |= {"tasks": summary(seeds), "work": work(seeds)}
            if given.json:
                given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(record)


if __name__ == "__main__":
    main()
