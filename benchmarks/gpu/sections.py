"""The sections of the benchmark, in the order of what one wants to know. Each yields its rows one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import PLAIN, Bench
from benchmarks.gpu.contender import Contender, beside, free, median_seconds
from benchmarks.gpu.trace import trace_of
from recmtl.train.device import use_tf32

Row = tuple[str, dict[str, Any]]  # its name and its values
Rates = dict[str, float]  # the measured tera operations per second of products, by precision


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Args:
        seconds: After which it is ended; its rows so far are kept.
        rows: Yields its rows.
    """

    seconds: float
    rows: Callable[[Bench, Rates], Iterator[Row]]


def attempted(name: str, work: Callable[[], dict[str, Any]]) -> Row:
    """Return a row; if its work fails, the row says how."""
    try:
        return name, work()
    except Exception as error:
        return name, {"error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        free()


def measured_rates(bench: Bench, rates: Rates) -> Iterator[Row]:
    """Products of large square matrices of random numbers, and copies within the device's memory."""
    size = bench.form.matrix
    for precision in bench.precisions:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))

        def work(a: torch.Tensor = a, b: torch.Tensor = b, precision: str = precision) -> None:
            if precision == "tf32":
                with use_tf32():
                    a @ b
            else:
                a @ b

        taken = median_seconds(work, bench.form.rounds)
        yield f"products, {precision}", {"tflop_per_second": 2 * size**3 / taken / 1e12}
    source = torch.ones(16 * size, size, device=bench.device)
    target = torch.empty_like(source)
    taken = median_seconds(lambda: target.copy_(source), bench.form.rounds)
    yield "copies", {"tb_per_second": 2 * source.nbytes / taken / 1e12}


def compared(
    bench: Bench, rates: Rates, contenders: Iterable[tuple[str, Callable[[], Contender], str]], plain: Contender
) -> Iterator[Row]:
    """Contenders one after the other, each in turns with the plain one."""

    def values(build: Callable[[], Contender], precision: str) -> dict[str, Any]:
        contender = build()
        found = beside(contender, plain, bench.form.rounds)
        if rates.get(precision):
            found["share_of_rate"] = found["tflop_per_second"] / rates[precision]
        return {**found, "waits": contender.waits()}

    for name, build, precision in contenders:
        yield attempted(name, partial(values, build, precision))


def steps(bench: Bench, rates: Rates, batch: int) -> Iterator[Row]:
    """Recorded and launched steps; ratios are those to `Sum`, recorded."""
    contenders = [
        (
            f"{name}, {'recorded' if record else 'launched'}",
            partial(bench.contender, batch, name, record=record),
            bench.precision,
        )
        for record, names in ((True, bench.form.balancers), (False, bench.form.balancers[:2]))
        for name in names
    ]
    yield from compared(bench, rates, contenders, bench.contender(batch))


def balancers(bench: Bench, rates: Rates, batch: int) -> Iterator[Row]:
    """Every balancer, recorded; ratios are those to `Sum`."""
    contenders = [(name, partial(bench.contender, batch, name), bench.precision) for name in bench.balancers]
    yield from compared(bench, rates, contenders, bench.contender(batch))


def precisions(bench: Bench, rates: Rates, batch: int) -> Iterator[Row]:
    """`Sum` in each precision; ratios are those to the one that is measured elsewhere."""
    contenders = [(p, partial(bench.contender, batch, precision=p), p) for p in bench.precisions]
    yield from compared(bench, rates, contenders, bench.contender(batch))


def vocabularies(bench: Bench, rates: Rates, batch: int) -> Iterator[Row]:
    """`Sum` with small and large tables."""
    contenders = [
        (name, partial(bench.contender, batch, sizes=sizes), bench.precision)
        for name, sizes in bench.form.vocabularies.items()
    ]
    yield from compared(bench, rates, contenders, bench.contender(batch))


def profiles(bench: Bench, rates: Rates, batch: int) -> Iterator[Row]:
    """Launches, nodes of the graph, waits and the longest kernels of a step of every balancer."""

    def values(name: str, record: bool) -> dict[str, Any]:
        contender = bench.contender(batch, name, record=record)
        trace = asdict(trace_of(contender, bench.device != "cpu"))
        return {"recorded": contender.recorded, "waits": contender.waits(), **trace}

    for name in bench.balancers:
        yield attempted(name, partial(values, name, True))
    for name in bench.form.balancers[:2]:
        yield attempted(f"{name}, launched", partial(values, name, False))


def epochs(bench: Bench, rates: Rates) -> Iterator[Row]:
    """Whole epochs over rows that lie on the device, with shuffling and logs."""

    def values(batch: int, name: str) -> dict[str, Any]:
        rate = bench.epoch_rate(batch, name)
        return {"seconds": bench.form.rows / rate, "rows_per_second": rate}

    form = bench.form
    for batch, name in ((form.large, PLAIN), (form.small, PLAIN), (form.small, form.balancers[1])):
        yield attempted(f"{name}, batch {batch:,}", partial(values, batch, name))


def small(rows: Callable[[Bench, Rates, int], Iterator[Row]]) -> Callable[[Bench, Rates], Iterator[Row]]:
    """Return a section with batches of the usual size."""
    return lambda bench, rates: rows(bench, rates, bench.form.small)


def large(rows: Callable[[Bench, Rates, int], Iterator[Row]]) -> Callable[[Bench, Rates], Iterator[Row]]:
    """Return a section with batches that fill a large device."""
    return lambda bench, rates: rows(bench, rates, bench.form.large)


RATES, EPOCHS = "rates", "epochs"
SECTIONS = {
    RATES: Section(30, measured_rates),
    "steps-small": Section(40, small(steps)),
    "steps-large": Section(50, large(steps)),
    "balancers-small": Section(50, small(balancers)),
    "profiles-small": Section(60, small(profiles)),
    "balancers-large": Section(60, large(balancers)),
    "precisions-large": Section(40, large(precisions)),
    "vocabularies-small": Section(60, small(vocabularies)),
    "vocabularies-large": Section(60, large(vocabularies)),
    EPOCHS: Section(100, epochs),
    "profiles-large": Section(60, large(profiles)),
}
