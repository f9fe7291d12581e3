"""The tables of a comparison as text, with notes on what is significant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from recmtl.balance import FixedWeights
from recmtl.comparison.comparison import Comparison
from recmtl.comparison.differences import VARIANT, possible_pairs, variants_of
from recmtl.comparison.grid import Variant
from recmtl.errors import counted
from recmtl.io.display import decimal, signed

TIED = "‡"
NO_VALUE = "–"
FIXED = FixedWeights.__name__  # the balancer to which the others are compared if options were searched


class ResultCell(NamedTuple):
    """A cell of a table: its text, and whether it is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table of results."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[ResultCell]]
    key_columns: int  # the number of leading columns that identify a row
    notes: Sequence[str]  # explanations and conclusions, shown below the table


def result_tables(comparison: Comparison, metric: str | None = None) -> list[ResultTable]:
    """Return the table of a comparison, with `FixedWeights` among searched balancers the differences to it.

    If single-task training is among its models, the transfer table follows. A model, baseline or balancer whose class
    is that of no other is named by the class, and a note below the first table tells its options.
    """
    tables = [main_table(comparison, metric)]
    if comparison.has_tuned_weights:
        tables.append(fixed_weights_table(comparison, metric))
    if comparison.single:
        tables.append(transfer_table(comparison, comparison.single, metric))
    classes = class_by_name(run.variant for run in comparison.grid)
    first, *others = [_with_names(table, classes) for table in tables]
    told = [f"{cls} is {name}" for name, cls in classes.items()]
    return [replace(first, notes=[*first.notes, *([f"Options: {'; '.join(told)}."] if told else [])]), *others]


def class_by_name(variants: Iterable[Variant]) -> dict[str, str]:
    """Return the class of each name with options in which no other name among the models, or balancers, begins."""
    models, balancers = zip(*dict.fromkeys((v.model, v.balancer) for v in variants), strict=True)
    found: dict[str, str] = {}
    for names in (dict.fromkeys(models), dict.fromkeys(balancers)):
        classes = {name: name.partition("(")[0] for name in names}
        counts = Counter(classes.values())
        found |= {name: cls for name, cls in classes.items() if name != cls and counts[cls] == 1}
    return found


def _with_names(table: ResultTable, names: Mapping[str, str]) -> ResultTable:
    """Return a table in which names are replaced."""
    rows = [[cell._replace(text=names.get(cell.text, cell.text)) for cell in row] for row in table.rows]
    notes = [*table.notes]
    for name, other in names.items():
        notes = [note.replace(name, other) for note in notes]
    return replace(table, rows=rows, notes=notes)


def main_table(comparison: Comparison, metric: str | None = None) -> ResultTable:
    """Return mean and standard deviation of each variant and task, training time and memory."""
    means, tests, runs = comparison.table(metric), comparison.differences(metric), comparison.runs
    metrics = dict(zip(means["task"], means["metric"], strict=True))
    cells = {(variant, row.task): _mean_cell(row) for variant, row in _by_variant(means)}
    rows = []
    for variant in dict.fromkeys(variants_of(runs)):
        of_variant = runs[[other == variant for other in variants_of(runs)]]
        values = [cells.get((variant, task), ResultCell(NO_VALUE)) for task in metrics]
        rows.append([*_key_cells(variant, runs), *values, *_cost_cells(of_variant), *_tuned_cells(comparison, variant)])
    level = f"at 95 % (Holm, {counted(possible_pairs(means), 'pair')} of variants)"
    untuned = _untuned(comparison)
    notes = [
        f"Mean ± standard deviation over the seeds, on the {comparison.split} rows. Bold: best. {TIED}: not "
        f"significantly different from the best at 95 % ({_tests(metrics)}; Holm's correction over all pairs of "
        "variants). Time: mean over the runs. Memory: maximum over the runs.",
        *(
            _conclusion(task, means[means["task"] == task], tests[tests["task"] == task], level) + untuned
            for task in metrics
        ),
        *_single_run_note(means, tests),
        *_failures(runs),
        *_tuned_notes(comparison),
    ]
    header = [*_key_columns(runs), *(f"{task} {name}" for task, name in metrics.items()), "runs", "time", "memory"]
    header += ["trials", "options"] if comparison.tuned else []
    return ResultTable("comparison", header, rows, len(_key_columns(runs)), notes)


def fixed_weights_table(comparison: Comparison, metric: str | None = None) -> ResultTable:
    """Return the difference of each balancer to `FixedWeights` with the same model, task by task."""
    tests = comparison.differences(metric, FIXED)
    counts, lower = counted(int(tests["p"].notna().sum()), "comparison"), comparison.lower_is_better
    notes = [
        f"Difference to {FIXED}, whose task weights were found by as many trials, on the {comparison.split} rows, with "
        f"uncorrected 95 % intervals. Bold: significant at 95 % ({_tests(_metrics_of(tests))}; Holm's correction over "
        "all comparisons).",
        *(_gains(task, tests[tests["task"] == task], counts, lower) for task in _metrics_of(tests)),
        *_single_run_note(comparison.table(metric), tests),
    ]
    return _difference_table("fixed weights", tests, notes)


def _gains(task: str, tests: pd.DataFrame, counts: str, lower: Collection[str]) -> str:
    """Return which balancers are better than hand-set weights on a task, and which are worse."""
    if tests["p"].isna().all():
        return f"{task}: not tested against {FIXED}."
    better, worse = _signs(tests, lower)
    said = [
        f"{', '.join(better)} better" if better else "none better",
        f"{', '.join(worse)} worse" if worse else "none worse",
    ]
    rest = len(tests) - len(better) - len(worse)
    return (
        f"{task}: against {FIXED}, {' and '.join(said)}; {counted(rest, 'variant')} not significantly different, at "
        f"95 % (Holm, {counts})."
    )


def transfer_table(comparison: Comparison, single: str, metric: str | None = None) -> ResultTable:
    """Return the difference of each variant to single-task training, task by task."""
    tests = comparison.differences(metric, single)
    level, lower = f"at 95 % (Holm, {counted(int(tests['p'].notna().sum()), 'comparison')})", comparison.lower_is_better
    notes = [
        f"Difference to {single} on the {comparison.split} rows, with uncorrected 95 % intervals. Bold: significant at "
        f"95 % ({_tests(_metrics_of(tests))}; Holm's correction over all comparisons).{_untuned(comparison)}",
        *(_transfer(task, tests[tests["task"] == task], level, lower) for task in _metrics_of(tests)),
        *_single_run_note(comparison.table(metric), tests),
    ]
    return _difference_table("transfer", tests, notes)


def _difference_table(title: str, tests: pd.DataFrame, notes: Sequence[str]) -> ResultTable:
    """Return a table of differences, a row for each variant."""
    metrics = _metrics_of(tests)
    cells = {(variant, row.task): ResultCell(_difference(row), bool(row.apart)) for variant, row in _by_variant(tests)}
    rows = [
        [*_key_cells(variant, tests), *(cells.get((variant, task), ResultCell(NO_VALUE)) for task in metrics)]
        for variant in dict.fromkeys(variants_of(tests))
    ]
    header = [*_key_columns(tests), *(f"{task} {name}" for task, name in metrics.items())]
    return ResultTable(title, header, rows, len(_key_columns(tests)), notes)


def _metrics_of(tests: pd.DataFrame) -> dict[str, str]:
    return dict(zip(tests["task"], tests["metric"], strict=True))


def number_table(comparison: Comparison, metric: str | None = None) -> pd.DataFrame:
    """Return the table of a comparison as plain numbers, a row for each variant and task."""
    tests = comparison.differences(metric).drop(columns=["metric", "apart"])
    costs = comparison.runs.groupby(VARIANT, sort=False, dropna=False).agg(
        seconds=("seconds", "mean"), peak_memory_bytes=("peak_memory_bytes", "max")
    )
    return comparison.table(metric).merge(tests, "left", [*VARIANT, "task"]).merge(costs.reset_index(), "left", VARIANT)


def _conclusion(task: str, means: pd.DataFrame, tests: pd.DataFrame, level: str) -> str:
    """Return what the tests show about the best variant of a task."""
    best = [str(variant) for variant in variants_of(means[means["best"]])]
    worse, tied = int(tests["apart"].sum()), int((~tests["apart"]).sum())
    if not best:
        return f"{task}: {means['metric'].iloc[0]} is undefined."
    if tests.empty:
        return f"{task}: there is no other variant to compare {best[0]} with."
    if tests["p"].isna().all():
        return f"{task}: not tested: {_why_untested(means)}."
    if not worse:
        return f"{task}: no variant differs significantly from the best, {best[0]}, {level}."
    if not tied:
        return f"{task}: {best[0]} is significantly better than {counted(worse, 'other variant')}, {level}."
    return (
        f"{task}: {counted(tied, 'variant')} not significantly different from the best, {best[0]}; "
        f"{counted(worse, 'variant')} significantly worse, {level}."
    )


def _why_untested(means: pd.DataFrame) -> str:
    metric = means["metric"].iloc[0]
    if metric != "auc" and (means["runs"] < 2).any():
        return f"{metric} needs at least two seeds"
    return f"the variance of {metric} cannot be estimated"


def _transfer(task: str, tests: pd.DataFrame, level: str, lower: Collection[str]) -> str:
    """Return the variants with negative and with positive transfer, and the baselines that differ, which have none."""
    if tests["p"].isna().all():
        return f"{task}: not tested against single-task training."
    is_net = tests["balancer"] != ""
    nets, baselines = tests[is_net], tests[~is_net]
    variant = "variant" if is_net.all() else "net" if is_net.any() else "baseline"
    better, worse = _signs(nets, lower)
    found = {"negative": ", ".join(worse), "positive": ", ".join(better)}
    parts = [f"{sign} transfer with {variants}" for sign, variants in found.items() if variants]
    rest = int((~nets["apart"]).sum())
    if rest and parts:
        parts.append(f"{counted(rest, variant)} not significantly different from single-task training")
    better, worse = _signs(baselines, lower)
    beside = {"better": ", ".join(better), "worse": ", ".join(worse)}
    if not parts and (rest or not better + worse):
        parts = [f"no {variant} differs significantly from single-task training"]
    parts += [f"{names} significantly {side} than single-task training" for side, names in beside.items() if names]
    return f"{task}: {'; '.join(parts)}, {level}."


def _signs(tests: pd.DataFrame, lower: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the variants that are significantly better than the reference, and those that are worse."""
    gain = tests["estimate"].where(~tests["metric"].isin([*lower]), -tests["estimate"])
    better, worse = (variants_of(tests[tests["apart"] & rows]) for rows in (gain > 0, gain < 0))
    return list(map(str, better)), list(map(str, worse))


def _tuned_cells(comparison: Comparison, variant: Variant) -> list[ResultCell]:
    """Return how many trials a variant was searched with, and its best options."""
    if not comparison.tuned:
        return []
    found = comparison.tuned.get(variant)
    return [ResultCell(str(found.trials) if found else NO_VALUE), ResultCell(found.options if found else "untuned")]


def _untuned(comparison: Comparison) -> str:
    """Return a sentence that names the baselines beside searched variants that were not; nothing if there are none."""
    variants = dict.fromkeys(run.variant for run in comparison.grid) if comparison.tuned else ()
    names = [variant.model for variant in variants if variant.is_baseline and variant not in comparison.tuned]
    return f" Untuned: {', '.join(names)}." if names else ""


def _tuned_notes(comparison: Comparison) -> Iterator[str]:
    if not comparison.tuned:
        return
    found = comparison.tuned.values()
    pruned, failed = [each.pruned for each in found], [each.failed for each in found]
    early = f"{_span(pruned)} ended early, worse than the median at the same evaluation"
    ended = [text for text, counts in ((early, pruned), (f"{_span(failed)} failed", failed)) if any(counts)]
    trials = _span([each.trials for each in found])
    said = f"{trials} {'trial' if trials == '1' else 'trials'} each" + (f" ({'; '.join(ended)})" if ended else "")
    yield f"Options: the best of a search on the validation rows, {said}; the seeds were trained with them."
    if _untuned(comparison):
        yield "Untuned baselines have the options that they were given."
    for variant, result in comparison.tuned.items():
        if result.error:
            yield f"Left out: {variant}: {result.error}"


def _span(counts: Sequence[int]) -> str:
    """Return the range of numbers as text, or the number if all are equal."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _single_run_note(means: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    single = (means["metric"] == "auc") & (means["runs"] == 1)
    note = "A variant with a single run is tested as that run: other seeds may give different results."
    return [note] if single.any() and tests["p"].notna().any() else []


def _tests(metrics: Mapping[str, str]) -> str:
    """Return the tests of the metrics in the table."""
    others = [name for name in dict.fromkeys(metrics.values()) if name != "auc"]
    parts = ["auc: DeLong's variance over rows plus the variance over seeds"] if "auc" in metrics.values() else []
    return "; ".join([*parts, *([f"{', '.join(others)}: t test over seeds"] if others else [])])


def _failures(runs: pd.DataFrame) -> Iterator[str]:
    for variant, run in _by_variant(runs[runs["state"] == "failed"]):
        yield f"Failed: {variant}, seed {run.seed}: {run.error}"
    unfinished = int((runs["state"] == "unfinished").sum())
    if unfinished:
        yield f"{counted(unfinished, 'run')} not finished."


def _by_variant(frame: pd.DataFrame) -> Iterator[tuple[Variant, Any]]:
    yield from zip(variants_of(frame), frame.itertuples(), strict=True)


def _key_columns(frame: pd.DataFrame) -> list[str]:
    return ["model", "balancer", *(["learning rate"] if frame["learning_rate"].notna().any() else [])]


def _key_cells(variant: Variant, frame: pd.DataFrame) -> list[ResultCell]:
    rate = NO_VALUE if variant.learning_rate is None else f"{variant.learning_rate:g}"
    names = (variant.model, variant.balancer or NO_VALUE, rate)
    return [ResultCell(name) for name in names[: len(_key_columns(frame))]]


def _mean_cell(row: Any) -> ResultCell:
    if math.isnan(row.mean):
        return ResultCell(NO_VALUE)
    sd = "" if math.isnan(row.sd) else f" ± {decimal(row.sd, row.mean)}"
    return ResultCell(f"{decimal(row.mean)}{sd}{f' {TIED}' if row.tied else ''}", bool(row.best))


def _cost_cells(runs: pd.DataFrame) -> list[ResultCell]:
    """Return the number of finished runs, mean time and maximum memory."""
    finished, seconds, memory = (runs["state"] == "finished").sum(), runs["seconds"], runs["peak_memory_bytes"]
    texts = [
        f"{finished}" if finished == len(runs) else f"{finished} of {len(runs)}",
        f"{seconds.mean():,.1f} s" if seconds.notna().any() else NO_VALUE,
        f"{memory.max() / 1e6:,.0f} MB" if memory.notna().any() else NO_VALUE,
    ]
    return [ResultCell(text) for text in texts]


def _difference(row: Any) -> str:
    if math.isnan(row.estimate):
        return NO_VALUE
    estimate, low, high = signed(row.estimate, row.low, row.high)
    return f"{estimate} [{low}, {high}]"
