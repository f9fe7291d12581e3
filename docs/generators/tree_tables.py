"""The tables of `benchmarks.trees` and `benchmarks.defaults`: a net beside boosted trees, and its defaults."""

import json
import statistics
from pathlib import Path
from typing import Any

from docs.generators.markdown import machine, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORD, SEARCH = RESULTS / "trees.json", RESULTS / "defaults.json"
NET = "recmtl"


def trees(file: Path = RECORD) -> str | None:
    """Return the tables of all recorded data sets, or None without a record."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    return "\n\n".join(data_set(result) for result in content["results"].values())


def data_set(result: dict[str, Any]) -> str:
    """Return the heading, the AUCs and the costs of one data set."""
    counts = result["rows"]
    rows = f"{counts['train']:,} rows to train, {counts['stop']:,} to stop, {counts['measured']:,} measured"
    how = f"{rows} · {result['seeds']} seeds · {result['trials']} trials · threads: {result['threads']}"
    if result["left_out"]:
        how += f" · not run: {', '.join(result['left_out'])}"
    line = machine(result)
    return f"### {result['title']}\n\n{line}\n\n{how}\n\n{accuracy(result)}\n\n{cost(result)}"


def accuracy(result: dict[str, Any]) -> str:
    """Return the mean AUC of each task by method, and the net minus the best trees with its verdict."""
    tasks = result["tasks"]
    rows = []
    for task, found in tasks.items():
        means = {name: statistics.mean(aucs) for name, aucs in found["auc"].items()}
        cells = [
            f"**{means[name]:.4f}**" if means[name] == max(means.values()) else f"{means[name]:.4f}" for name in means
        ]
        bayes = "–" if found["bayes"] is None else f"{found['bayes']:.4f}"
        between = found["net_minus_best_trees"]
        interval = "{estimate:+.4f} ({low:+.4f} to {high:+.4f})".format(**between) if between else "–"
        rows.append((task, *cells, bayes, interval.replace("-", "−"), verdict(between)))
    methods = list(next(iter(tasks.values()))["auc"])
    headers = ["mean AUC", *methods, "true probabilities", f"{NET} minus best trees (95 % interval)", ""]
    return table(headers, rows)


def verdict(difference: dict[str, Any] | None) -> str:
    """Return whether the net is above the best trees: by more than chance, at all, or not (a miss)."""
    if difference is None:
        return "undefined"
    above = difference["estimate"] > 0
    if difference["low"] <= 0 <= difference["high"]:
        return "above, not significant" if above else "miss, not significant"
    return "above" if above else "miss"


def cost(result: dict[str, Any]) -> str:
    """Return seconds and parameters of each method, of all tasks together."""
    methods = result["methods"]
    names = {
        "seconds": "seconds to train",
        "cpu_seconds": "CPU seconds to train",
        "tuning_seconds": "seconds of trials",
        "parameters": "parameters (trees: leaves and splits)",
    }
    rows = [
        (title, *(amount(row[name]) if name in row else "–" for row in methods.values()))
        for name, title in names.items()
    ]
    return table(["all tasks", *methods], rows)


def amount(value: float) -> str:
    """Return a number with a decimal where it is small."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def search(file: Path = SEARCH) -> str | None:
    """Return what each choice alone changes on each data set, or None without a record."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    results = content["results"]
    columns = [(name, task) for name, result in results.items() for task in result["lines"]["the defaults"]["auc"]]
    choices = dict.fromkeys(choice for result in results.values() for choice in result["lines"])
    rows = [(choice, *(change(results[name], choice, task) for name, task in columns)) for choice in choices]
    headers = ["choice", *(f"{results[name]['title']}, {task}" for name, task in columns)]
    return f"{machine(content)}\n\n{'; '.join(map(counted, results.values()))}.\n\n{table(headers, rows)}"


def counted(result: dict[str, Any]) -> str:
    """Return how many rows and seeds stand behind the lines of a data set."""
    rows = result["rows"]
    return (
        f"{result['title']}: {rows['train']:,} rows to fit, {rows['stop']:,} to stop, {rows['measured']:,} to compare, "
        f"{result['seeds']} seed{'s' if result['seeds'] > 1 else ''}"
    )


def change(result: dict[str, Any], choice: str, task: str) -> str:
    """Return the mean AUC of the defaults, or how far that of another choice is from it, in thousandths."""
    lines = result["lines"]
    if choice not in lines:
        return "–"
    mean, default = (statistics.mean(lines[line]["auc"][task]) for line in (choice, "the defaults"))
    return f"{mean:.4f}" if choice == "the defaults" else f"{1000 * (mean - default):+.1f}".replace("-", "−")
