"""The tables of `benchmarks.planted`: what each model reaches on rows planted for it."""

import json
import statistics
from pathlib import Path
from typing import Any

from docs.generators.markdown import machine, table

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "planted.json"
CALIBRATIONS = {
    "calibration of ": "mean prediction / mean label",
    "calibration to the truth of ": "mean prediction / mean true rate",
}
CVR = {"bias": "bias of CVR, all rows", "error": "mean error of CVR, all rows"}


def planted(file: Path = RECORD) -> str | None:
    """Return the tables of all recorded problems, or None without a record."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    results = [result for result in content["results"].values() if result["models"]]
    return "\n\n".join([machine(content), *map(problem, results)]) if results else None


def problem(result: dict[str, Any]) -> str:
    """Return the heading and the tables of one problem: the AUCs, and the bias of CVR where it is measured."""
    models = result["models"]
    measures = list(models[result["baseline"]]["mean"])
    aucs = {task: f"AUC of {task}" for task in measures if task not in CVR and not task.startswith(tuple(CALIBRATIONS))}
    seeds = {len(runs) for name, runs in result["seeds"].items() if name in models}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    lines = [("true probabilities", *truth(result, "bayes", aucs)), *rows(result, aucs)]
    if any("auc_without" in found["planted"] for found in result["truths"].values()):
        lines.insert(1, ("without what is planted", *truth(result, "auc_without", aucs)))
    parts = [f"### {result['title']}", f"{result['rows']:,} rows, 80 % of them to train · {count} seeds"]
    if any(measure.startswith(tuple(CALIBRATIONS)) for measure in measures):
        return "\n\n".join([*parts, *rates(result, list(aucs))])
    parts.append(table(["", *headers(result, aucs)], lines))
    if "bias" in measures:
        parts.append(table(["", *headers(result, CVR)], rows(result, CVR)))
    return "\n\n".join(parts)


def rates(result: dict[str, Any], tasks: list[str]) -> list[str]:
    """Return three tables with a line for each rate of a funnel and a column for each model: AUC, and calibrations."""
    models = result["models"]
    bayes = truth(result, "bayes", dict.fromkeys(tasks, ""))[::2]
    aucs = [
        (task, best, *(f"{row['mean'][task]['estimate']:.4f}" for row in models.values()))
        for task, best in zip(tasks, bayes, strict=True)
    ]
    form = "{estimate:.3f} ({low:.3f} to {high:.3f})"
    found = [table(["AUC", "true probabilities", *models], aucs)]
    for measure, title in CALIBRATIONS.items():
        lines = [(task, *(form.format(**row["mean"][measure + task]) for row in models.values())) for task in tasks]
        found.append(table([title, *models], lines))
    return found


def headers(result: dict[str, Any], measures: dict[str, str]) -> list[str]:
    """Return two columns for each measure: its mean, and the difference to the baseline."""
    return [part for title in measures.values() for part in (title, f"minus {result['baseline']} (95 % interval)")]


def truth(result: dict[str, Any], key: str, tasks: dict[str, str]) -> list[str]:
    """Return the mean over the seeds of an AUC that no training decides."""
    found = [seed["bayes"] if key == "bayes" else seed["planted"][key] for seed in result["truths"].values()]
    return [cell for task in tasks for cell in (f"{statistics.mean(seed[task] for seed in found):.4f}", "")]


def rows(result: dict[str, Any], measures: dict[str, str]) -> list[tuple[str, ...]]:
    """Return a line for each model."""
    lines = []
    for name, row in result["models"].items():
        cells: list[str] = []
        for measure in measures:
            mean = row["mean"][measure]
            spread = " ({low:+.4f} to {high:+.4f})".format(**mean) if measure == "bias" else ""
            form = "+.4f" if measure == "bias" else ".4f"
            cells += [f"{mean['estimate']:{form}}{spread}", difference(row["difference"], measure)]
        lines.append((name, *(cell.replace("-", "−") for cell in cells)))
    return lines


def difference(found: dict[str, Any] | None, measure: str) -> str:
    """Return a difference with its interval, in bold if the interval does not hold 0."""
    if found is None:
        return "–"
    text = "{estimate:+.4f} ({low:+.4f} to {high:+.4f})".format(**found[measure])
    return text if found[measure]["low"] <= 0 <= found[measure]["high"] else f"**{text}**"
