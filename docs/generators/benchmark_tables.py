"""The page of benchmarks and tables for other pages, from the recorded results alone."""

import json
from pathlib import Path
from typing import Any

from docs.generators.claims_tables import claims, pareto
from docs.generators.markdown import machine, table
from docs.generators.planted_tables import planted
from docs.generators.replay_tables import replayed
from docs.generators.tree_tables import search, trees

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def record(name: str) -> dict[str, Any]:
    """Return a recorded result by the name of its file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def peers() -> str:
    """Return the tables of `benchmarks.peers`: speed beside other libraries."""
    content = record("peers")
    parts = [machine(content), ""]
    for title, rows in content["results"].items():
        lines = [
            (
                name,
                f"{row['rows_per_second']:,.0f}",
                f"{row['least']:,.0f} to {row['most']:,.0f}",
                f"{row['ratio']:.2f} × {row['over']}" if row["over"] != name else "1",
            )
            for name, row in rows.items()
        ]
        parts += [f"**{title[0].upper()}{title[1:]}**", "", table(["", "rows/s", "range", "ratio"], lines), ""]
    return "\n".join(parts)


def speed_summary() -> str:
    """Return the recorded speed in one table, as the README shows it: what is faster, and what is not."""
    results, steps = record("peers")["results"], record("balancers")["results"]
    processes = record("processes")["results"]

    def ratios(*cells: tuple[str, str]) -> str:
        return " / ".join(f"{results[title][name]['ratio']:.2f}" for title, name in cells)

    methods = ("Sum", "MetaBalance", "PCGrad")
    large = [(f"one step, {method}", "recmtl, 4 M in two columns") for method in methods]
    larger = [(f"one step, {method}", "recmtl, 4 M in all columns") for method in methods]
    peers = [
        (f"one step, {m}", f"{'TorchJD' if m == 'PCGrad' else 'torch-rechub'}, 4 M in two columns") for m in methods
    ]
    many, few = (steps[f"SharedBottom, {tasks} tasks, fp32"] for tasks in (8, 2))
    alone = processes["1 process, 2 threads each"]["Sum, 200 rows"]["milliseconds"]
    both = processes["2 processes, 1 thread each"]["Sum, 200 rows"]["milliseconds"]
    epoch, evaluation = "one epoch, end to end", "evaluation"
    rows = [
        ("one epoch over torch-rechub 0.9.0, fp32 / bf16", ratios((epoch, "recmtl fp32"), (epoch, "recmtl bf16"))),
        (
            "the same with batch normalization, as torch-rechub always has",
            ratios((epoch, "recmtl fp32, batch normalisation"), (epoch, "recmtl bf16, batch normalisation")),
        ),
        (
            "evaluation with AUC over torch-rechub, fp32 / bf16",
            ratios((evaluation, "recmtl fp32"), (evaluation, "recmtl bf16")),
        ),
        (
            "a step over the same step written by hand, fp32 / bf16",
            ratios(("one step", "recmtl fp32"), ("one step", "recmtl bf16")),
        ),
        ("4 M rows in two tables over 200 rows: `Sum` / `MetaBalance` / `PCGrad`", ratios(*large)),
        ("the same, 4 M rows in all 16 tables", ratios(*larger)),
        ("the same in torch-rechub / torch-rechub / TorchJD, two tables", ratios(*peers)),
        ("`RotoGrad` over its authors' package", ratios(("one step, RotoGrad on SharedBottom", "recmtl"))),
        (
            "`PCGrad` over `Sum`, shared bottom, 2 / 8 tasks",
            f"{1 / few['PCGrad']['ratio']:.2f} / {1 / many['PCGrad']['ratio']:.2f}",
        ),
        ("two processes over one with two threads, on the same two cores", f"{alone / both:.2f}"),
        ("a GPU", "not measured yet"),
    ]
    return table(["rows per second, as a ratio", "measured"], rows)


def balancers() -> str:
    """Return the time of a step of every balancer over that of `Sum`."""
    content = record("balancers")
    cases = content["results"]
    if "large_tables" in content:
        cases |= {"4 M rows in tables: steps/s over 200 rows": content["large_tables"]}
    rows = [
        (name, *(f"{case[name]['ratio']:.2f}" if name in case else "–" for case in cases.values()))
        for name in sorted(dict.fromkeys(name for case in cases.values() for name in case))
    ]
    return f"{machine(content)}\n\n{table(['step over `Sum`', *cases], rows)}"


def balancer_cost(name: str) -> str | None:
    """Return the recorded step times of one balancer, or None if it has not been measured."""
    content = record("balancers")
    measured = {case: row[name] for case, row in content["results"].items() if name in row}
    if not measured:
        return None
    grid: dict[tuple[str, str], dict[str, str]] = {}
    for case, row in measured.items():
        model, tasks, precision = case.split(", ")
        grid.setdefault((model, precision), {})[tasks] = f"{row['ratio']:.2f}"
    tasks = sorted({task for row in grid.values() for task in row}, key=lambda text: int(text.split()[0]))
    rows = [(model, precision, *(row.get(task, "–") for task in tasks)) for (model, precision), row in grid.items()]
    return f"{table(['model', 'precision', *tasks], rows, right=2)}\n\n{machine(content)}"


def comparison(name: str) -> str:
    """Return the recorded tables of `benchmarks.comparison` or `benchmarks.tuned`, without their title."""
    return (RESULTS / f"{name}.md").read_text().split("\n", 1)[1].strip()


def data() -> str:
    """Return the tables of `benchmarks.data`: preparing, and training from files."""
    content = record("data")
    units = {
        "megabytes_per_second": "MB of CSV/s",
        "rows_per_second": "rows/s",
        "percent_of_the_time_waiting_for_rows": "% waiting for rows",
        "peak_megabytes": "peak MB",
    }
    rows = [
        (name, *(f"{row[key]:,.0f}" if key in row else "–" for key in units))
        for name, row in content["results"].items()
    ]
    return f"{machine(content)}\n\n{table(['', *units.values()], rows)}"


def preparing() -> str | None:
    """Return the table of `benchmarks.preparing`: CPU seconds and memory; ``None`` if it is not recorded."""
    if not (RESULTS / "preparing.json").exists():
        return None
    content = record("preparing")
    rows = [
        (name, f"{row['cpu_seconds']:.1f}", f"{row['ratio']:.2f}", f"{row['peak_megabytes']:,.0f}")
        for name, row in content["results"].items()
    ]
    headers = ["", "CPU seconds", "over parsing by pyarrow", "peak MB"]
    seconds = {name.removeprefix("prepare: recmtl"): row["cpu_seconds"] for name, row in content["results"].items()}
    one, parquet = content["results"]["prepare: recmtl"], seconds[""] / seconds[", from Parquet"]
    goals = [
        (one["ratio"] <= 1.6, f"{one['ratio']:.2f} times the seconds of parsing, where the goal is 1.6"),
        (
            seconds[", 4 workers"] <= 1.25 * seconds[""],
            f"{seconds[', 4 workers'] / seconds['']:.2f} times with 4 workers, of 1.25",
        ),
        (parquet >= 1.5, f"{parquet:.2f} times the rows per CPU second from Parquet, of 1.5"),
    ]
    said = "; ".join(f"{text} ({'met' if met else 'missed'})" for met, text in goals)
    return f"{machine(content)}\n\nPreparing takes {said}.\n\n{table(headers, rows)}"


def memory() -> str:
    """Return the table of `benchmarks.memory`: what a step holds beyond tables and moments."""
    content = record("memory")
    rows = [(name, f"{row['tables']:,.0f}", f"{row['beyond']:,.0f}") for name, row in content["results"].items()]
    headers = ["rows in all tables, balancer", "tables and moments, MiB", "beyond them, MiB"]
    return f"{machine(content)}\n\n{table(headers, rows)}"


def metrics() -> str:
    """Return the table of `benchmarks.metrics`: time and memory beside scikit-learn."""
    content = record("metrics")
    rows = [(name, f"{row['seconds']:.1f}", f"{row['mebibytes']:,.0f}") for name, row in content["results"].items()]
    return f"{machine(content)} · {content['rows']:,} rows\n\n{table(['', 'seconds', 'MiB'], rows)}"


def coverage() -> str:
    """Return the table of `benchmarks.coverage`: how often an interval holds the true value."""
    content = record("coverage")
    populations = content["results"]
    names = list(dict.fromkeys(name for part in populations.values() for name in part["intervals"]))
    rows = []
    for name in names:
        found = [part["intervals"].get(name) for part in populations.values()]
        rows.append((name, *("–" if row is None else f"{row['covered_percent']:.1f} %" for row in found)))
    return f"{machine(content)} · {content['repeats']:,} repeats\n\n{table(['95 % interval', *populations], rows)}"


def processes() -> str:
    """Return the table of `benchmarks.processes`: steps, messages and bytes of several processes."""
    content = record("processes")
    kinds = content["results"]
    cases = list(next(iter(kinds.values())))
    rows = []
    for case in cases:
        two = next(rows[case] for kind, rows in kinds.items() if kind.startswith("2 "))
        milliseconds = (f"{kinds[kind][case]['milliseconds']:.0f}" for kind in kinds)
        rows.append((case, *milliseconds, f"{two['messages']:.0f}", f"{two['bytes'] / 1e6:.2f}"))
    headers = ["ms a step", *kinds, "of them in messages", "MB a message"]
    return f"{machine(content)}\n\n{table(headers, rows)}"


def sharded() -> str:
    """Return the table of `benchmarks.sharded`: how far several processes are from one, with every balancer."""
    content = record("sharded")
    engines = content["results"]["equality"]
    numbers = list(next(iter(engines["whole"].values())))
    headers = [f"{engine}, {number} processes" for engine in engines for number in numbers]
    rows = [
        (name, *(f"{engines[engine][name][number]:.0e}" for engine in engines for number in numbers))
        for name in sorted(engines["whole"])
    ]
    return f"{machine(content)}\n\n{table(['balancer', *headers], rows)}"


def sharded_steps() -> str:
    """Return the table of steps of `benchmarks.sharded`: whole tables in two processes, and spread ones."""
    measured = record("sharded")["results"]["steps"]
    engines = list(next(iter(measured.values())))
    rows = []
    for name, found in measured.items():
        times, sent = ([found[engine][what] for engine in engines] for what in ("cpu_milliseconds", "bytes"))
        ratios = (f"{time / times[0]:.2f}" for time in times[1:])
        rows.append((name, *(f"{time:.0f}" for time in times), *ratios, *(f"{count / 1e6:.2f}" for count in sent)))
    columns = [f"{engine}, CPU ms" for engine in engines], [f"{engine} / {engines[0]}" for engine in engines[1:]]
    return table(["balancer", *columns[0], *columns[1], *(f"{engine}, MB sent" for engine in engines)], rows)


def page() -> str:
    """Return the page of benchmarks."""
    return f"""# Benchmarks

Every table on this page is generated from the last recorded results in `benchmarks/results/`; nothing is typed by hand.
The command above each table repeats it. Absolute figures depend on the machine, ratios less so.

## Speed beside other libraries

AliExpress-shaped rows (16 categorical and 63 numeric columns, 2 tasks), batch 2,048, MMOE with 4 experts, Adam. All
contenders of a table take turns on one machine; the ratio is the median of the ratios within a repetition. torch-rechub
always has batch normalisation in its layers, so recmtl is measured with and without it. *flat* is the same step written
by hand without any library around it: where its ratio is below 1, that is what recmtl costs.

{peers()}

## Balancers

The time of a training step over that of a step with `Sum`, which is one plain backward pass.

{balancers()}

## Files to batches

12.1 million rows (5.6 GB of CSV, two columns of a million categories). *Waiting* is the share of the training time in
which the step waits for rows.

{data()}

## Preparing

One CSV file of 462 MB (two columns of a million categories), each line in a process of its own, its start included.
CPU seconds are those of all its processes, the memory is that of the largest one.

{preparing() or "There is no recorded result of `python -m benchmarks.preparing` yet, so no figures are published."}

## Memory

What one training step holds beyond the embedding tables and their moments. It does not grow with the tables, since only
the rows in the batch are touched.

{memory()}

## Metrics

{metrics()}

## Intervals

How often a 95 % interval holds the true value, on simulated rows. The plain DeLong interval takes rows for independent;
where rows of one search are alike it is too narrow.

{coverage()}

## Several processes

Two processes on the two cores of one machine, talking by gloo.

{processes()}

### The same training

The largest relative difference of a parameter, a table or a state of the balancer to that of one process, after 5 steps
of MMOE in float64 with a table of 64,000 rows: whole in each process, spread over them, or spread by TorchRec. That of
`FAMO` is in its own state, which moves by how much one loss fell more than another, some 10⁻⁴ of a loss in these steps.
Losses that are equal to the last bit, 2·10⁻¹⁶, give differences that are equal to about 10⁻¹².

{sharded()}

A step of two processes with 16 tables of 200,000 rows, by the median of rounds in turn:

{sharded_steps()}

## Balancers on planted problems

The error of a task is its mean square over the variance of its labels; in brackets the difference to `Sum`, paired by
seed, with its 95 % interval. [When balancing helps](when_balancing_helps.md) explains the problems.

{claims()}

{pareto()}

## Models on planted rows

Each problem of [`synth --plant`](howto/planted_rows.md) is drawn anew for each seed, its truth and its rows, and each
model is trained on it by the defaults. Intervals are of means over the seeds, of differences paired by seed; a
difference whose interval does not hold 0 is bold. *Without what is planted* is the AUC of the true probabilities
without the planted effects.

{planted() or "There is no recorded result of `python -m benchmarks.planted` yet, so no figures are published."}

## Days that drift

Seven planted days (`synth --plant days`) are drawn anew for each seed: each day 5 % of the ids are new, and effects
turn. [`recmtl replay`](howto/replay.md) trains on the days up to one and measures on the next. Intervals are of means
over the seeds, differences are paired by seed. The recorded seconds were taken beside other work: they are no measure
of speed.

{replayed() or "There is no recorded result of `python -m benchmarks.replay` yet, so no figures are published."}

## Balancers on rows

### Census-Income

{comparison("comparison_census")}

### Every balancer on Census-Income

The recorded seconds were taken beside other work: they are no measure of speed.

{comparison("comparison_balancers")}

### Generated rows in the layout of AliExpress

{comparison("comparison_aliexpress")}

## Balancers tuned alike

`python -m benchmarks.tuned` searches the options of each model by the same number of trials on validation rows: the
learning rate, the options of the balancer, and for `FixedWeights` the weight of each task; of the baselines the options
of their library. Each is then trained from five seeds with the best it has found, and the test rows are read once. The
recorded seconds were taken beside other work: they are no measure of speed.

### Census-Income, tuned

{comparison("tuned_census")}

### Generated rows in the layout of AliExpress, tuned

{comparison("tuned_aliexpress")}

## Beside boosted trees

One multitask net by the library's defaults, and one model of boosted trees per task with options from random trials:
the first trial has the defaults of the library, the others are drawn from the ranges in `benchmarks/tree_models.py`.
All fitting, choosing and stopping is inside the training rows, cut into rows to train and rows to stop; the measured
rows decide nothing. The interval is of the difference of mean AUCs over rows and seeds, paired by row, clustered where
rows have groups; the best trees are those with the best mean on the measured rows. A task in which the net is not
above them is a miss. The recorded seconds were taken on one thread beside other work: they are no measure of speed.

{trees() or "There is no recorded result of `python -m benchmarks.trees` yet, so no figures are published."}

## The defaults

The defaults were searched on training rows alone: of each training file the first 80 % to fit, the next tenth to stop,
the last tenth to compare. No row that is reported above took part. Each line is the default but for what it names:
what it adds to the mean AUC, in thousandths.

{search() or "There is no recorded result of `python -m benchmarks.defaults` yet, so no figures are published."}

## Not measured yet

`python -m benchmarks.gpu` measures training on a GPU. There is no recorded result yet, so no figures are published.
[Expected on one H200](gpu_expected.md) says what a first run is held against, and how it was worked out.
"""
