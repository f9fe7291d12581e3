"""CPU seconds and memory of preparing a CSV file: python -m benchmarks.preparing FILE [--turns 3] [--json FILE]

FILE holds generated rows, such as `train.csv` of `recmtl synth --rows 1_250_000 --vocabulary 1_000_000 --out FOLDER`.
Each line is a process of its own, its start included, in turns: user and system seconds, their ratio to those of
pyarrow parsing the file in the same turn (medians), and the most memory. Polars and DuckDB parse it as well, and do the
same job: vocabularies by frequency and moments of the numbers, then ids and standardized float32 in a file. They are
run where they are installed: `pip install polars duckdb`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median

MEGA = 1_000_000
WORKERS = 4
Result = dict[str, float]
# In a process of its own: what a process starts would count its memory.
WRITE_PARQUET = (
    "import sys, pyarrow.csv as csv, pyarrow.parquet as parquet; "
    "parquet.write_table(csv.read_csv(sys.argv[1]), sys.argv[1].removesuffix('.csv') + '.parquet')"
)


def parse_pyarrow(file: Path, out: Path) -> Result:
    import pyarrow.csv as csv

    return {"rows": sum(batch.num_rows for batch in csv.open_csv(file))}


def parse_polars(file: Path, out: Path) -> Result:
    import polars as pl

    pl.scan_csv(file).select(pl.all().sum()).collect(engine="streaming")
    return {}


def parse_duckdb(file: Path, out: Path) -> Result:
    import duckdb

    rows = duckdb.sql(f"SELECT sum(COLUMNS(*)) FROM '{file}'")
    assert rows is not None
    rows.fetchall()
    return {}


def prepare(file: Path, out: Path) -> Result:
    """Prepare the rows; CPU seconds by stage: a stage ends when the first rows of the next one are done."""
    import recmtl

    card, ends = recmtl.card("aliexpress"), {"start": time.process_time()}
    names = {"fit": "parse and fit", "encode": "encode and write"}

    def progress(what: str, rows: int) -> None:
        if what == "encode":
            ends.setdefault("vocabularies and knots", time.process_time())
        ends[names[what]] = time.process_time()

    recmtl.prepare(card, file, out=out, progress=progress)
    ends["checksums"] = time.process_time()
    order = sorted(ends, key=lambda name: ends[name])
    return {name: ends[name] - (ends[order[i - 1]] if i else 0.0) for i, name in enumerate(order)}


def prepare_by_workers(file: Path, out: Path) -> Result:
    import recmtl

    recmtl.prepare(recmtl.card("aliexpress"), file, out=out, workers=WORKERS)
    return {}


def prepare_parquet(file: Path, out: Path) -> Result:
    return prepare(file.with_suffix(".parquet"), out)


def job_polars(file: Path, out: Path) -> Result:
    import polars as pl

    rows = pl.scan_csv(file)
    names = rows.collect_schema().names()
    ids, numbers = ([n for n in names if n.startswith(kind)] for kind in ("categorical", "numerical"))
    moments = rows.select(pl.col(numbers).mean().name.suffix("_m"), pl.col(numbers).std().name.suffix("_s"))
    counts = [rows.group_by(name).agg(pl.len()) for name in ids]
    first, *counted = pl.collect_all([moments, *counts], engine="streaming")  # in one pass
    found, encoded = first.row(0, named=True), rows
    for name, table in zip(ids, counted, strict=True):
        vocabulary = table.sort("len", name, descending=[True, False]).select(name).with_row_index(f"{name}_id", 2)
        encoded = encoded.join(vocabulary.lazy(), on=name, how="left")
    columns = [pl.col(f"{name}_id").cast(pl.Int32) for name in ids]
    columns += [((pl.col(n) - found[f"{n}_m"]) / (found[f"{n}_s"] or 1.0)).cast(pl.Float32) for n in numbers]
    encoded.select(columns).sink_ipc(out, engine="streaming")
    return {}


def job_duckdb(file: Path, out: Path) -> Result:
    import duckdb

    base = duckdb.connect(f"{out}.db")
    base.sql(f"CREATE TABLE rows AS SELECT * FROM '{file}'")  # parsed once
    names = [str(name) for name, *_ in base.sql("DESCRIBE rows").fetchall()]
    ids, numbers = ([n for n in names if n.startswith(kind)] for kind in ("categorical", "numerical"))
    wanted = ", ".join(f"avg({n}), stddev({n})" for n in numbers)
    found = base.sql(f"SELECT {wanted} FROM rows").fetchall()[0]
    for name in ids:
        base.sql(
            f"CREATE TABLE v_{name} AS SELECT {name}, row_number() OVER (ORDER BY count(*) DESC, {name}) + 1 AS id "
            f"FROM rows GROUP BY {name}"
        )
    columns = [f"v_{name}.id::INTEGER AS {name}" for name in ids]
    moments = zip(numbers, found[::2], found[1::2], strict=True)
    columns += [f"((rows.{n} - {mean}) / {deviation or 1.0})::FLOAT AS {n}" for n, mean, deviation in moments]
    joins = " ".join(f"LEFT JOIN v_{name} USING ({name})" for name in ids)
    base.sql(f"COPY (SELECT {', '.join(columns)} FROM rows {joins}) TO '{out}' (FORMAT parquet)")
    return {}


WAYS: Mapping[str, tuple[str, Callable[[Path, Path], Result]]] = {  # the package that each needs, and what it does
    "parse: pyarrow": ("pyarrow", parse_pyarrow),
    "parse: Polars": ("polars", parse_polars),
    "parse: DuckDB": ("duckdb", parse_duckdb),
    "prepare: recmtl": ("recmtl", prepare),
    "prepare: recmtl, 4 workers": ("recmtl", prepare_by_workers),
    "prepare: recmtl, from Parquet": ("recmtl", prepare_parquet),
    "the same job: Polars, streaming": ("polars", job_polars),
    "the same job: DuckDB": ("duckdb", job_duckdb),
}


def measured(way: str, file: Path, out: Path) -> Result:
    """Run one way in a process of its own; return its CPU seconds, its memory and what it printed."""
    command = [sys.executable, "-m", "benchmarks.preparing", str(file), "--one", way, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{way} failed")
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_megabytes": used.ru_maxrss * 1024 / MEGA,
        **json.loads(printed),
    }


def turns(file: Path, number: int) -> Iterator[tuple[str, Result]]:
    """Yield the results of each way: medians over the turns."""
    ways = [way for way, (package, _) in WAYS.items() if find_spec(package)]
    found: dict[str, list[Result]] = {way: [] for way in ways}
    for _ in range(number):
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            for place, way in enumerate(ways):
                found[way].append(measured(way, file, Path(folder) / str(place)))
    for way, results in found.items():
        parsed = found[ways[0]]
        ratio = median(own["cpu_seconds"] / base["cpu_seconds"] for own, base in zip(results, parsed, strict=True))
        yield way, {"ratio": ratio, **{key: median(result[key] for result in results) for key in results[0]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=list(WAYS), help="run one line in this process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(WAYS[arguments.one][1](arguments.file, arguments.out)))
        return
    if not arguments.file.with_suffix(".parquet").exists():
        subprocess.run([sys.executable, "-c", WRITE_PARQUET, str(arguments.file)], check=True)
    results = dict(turns(arguments.file, arguments.turns))
    for way, result in results.items():
        ratio, cpu, peak, *stages = result.items()
        print(f"{way:33} {cpu[1]:6.1f} s CPU  {ratio[1]:5.2f} × pyarrow  {peak[1]:6.0f} MB at most")
        if len(stages) > 1:
            print(f"{'':33} {', '.join(f'{name} {seconds:.1f}' for name, seconds in stages)}")
    if arguments.json:
        from recmtl.recipe.environment import environment

        content = {"command": "python -m benchmarks.preparing FILE", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
