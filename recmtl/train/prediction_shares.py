"""Predictions of which each process holds a share: metrics of all rows, and files, without all rows in one process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recmtl.evaluate import MEASURES, Metrics, Predictions, domain_metrics, domain_scores
from recmtl.evaluate.binary import ScoreHistogram
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.measures.own import OwnMeasure
from recmtl.evaluate.metrics import metrics_from, select_metrics, totals_of, unmeasurable_of
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Integers, RowTotals, Scores
from recmtl.evaluate.shares import (
    alone,
    beside,
    by_owner,
    cut,
    cut_points,
    groups_by_owner,
    merged,
    numbered_groups,
    sample,
)
from recmtl.evaluate.slices import domain_values
from recmtl.io.table_writer import TableWriter
from recmtl.schema.fitted import MOST_DOMAINS
from recmtl.train.share_exchange import Array, ShareExchange

CHUNK = 1 << 18  # rows that are sent to be written at once


class PredictionShares:
    """Predictions of all rows, of which this process holds a share; all processes call the same methods.

    Args:
        predictions: The share of this process; those of all processes, in their order, are all rows.
        exchange: Sends arrays between the processes.
    """

    def __init__(self, predictions: Predictions, exchange: ShareExchange) -> None:
        self._own, self._exchange = predictions, exchange

    def metrics(self, names: Collection[str] | None = None) -> dict[str, Metrics]:
        """Measure all rows, by the metrics named or by all; the same in all processes.

        Metrics of unweighted rows are those of one process, others to the rounding of sums in float64. Rows are sent to
        those who sort a range of predictions, or hold whole groups; for own metrics to the first process.
        """
        predictions = self._own.needed(names)
        if self._exchange.size == 1:
            return predictions.metrics(names)
        scores = predictions.scores(self._group_numbers(predictions) if predictions.grouped else None)
        return {task: self._metrics(of_task, names) for task, of_task in scores.items()}

    def domain_metrics(self) -> dict[str, dict[str, Metrics]]:
        """Return the main metrics of each task and domain, the most frequent first; empty if there are no domains."""
        if self._exchange.size == 1:
            return domain_metrics(domain_scores(self._own))
        values, found = domain_values(self._own), dict[str, dict[str, Metrics]]()
        if values is None:
            return found
        values = values.spread(self._exchange.processes.all_gather_object(values.counted()))
        for domain, mask in values.parts(MOST_DOMAINS):
            for task, of_task in self._own.select(mask).needed(()).scores().items():
                names = MEASURES[of_task.task.kind].by_domain
                found.setdefault(task, {})[domain] = self._metrics(of_task, names)
        return found

    def write(self, place: str | Path | None) -> None:
        """Write all predictions into a file, in the first process, which holds a part of another's share at a time.

        Args:
            place: The file; ``None`` in the other processes.
        """
        with ExitStack() as stack:
            writer = stack.enter_context(TableWriter(place)) if place is not None else None
            for part in self.tables():
                if writer is not None:
                    writer.write(part)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all predictions in the first process, a part of another's share at a time; nothing in the others."""
        own, exchange = self._own.table(), self._exchange
        if exchange.size == 1:
            yield own
            return
        for rank, rows in enumerate(exchange.gather(np.array([len(own)]))):
            for start in range(0, max(1, *rows.tolist()), CHUNK):
                yield from exchange.tables_to_first(own.slice(start, CHUNK) if rank == exchange.rank else None)

    def map(self, change: Callable[[Predictions], Predictions]) -> PredictionShares:
        """Return the predictions that a function makes of those of each process."""
        return PredictionShares(change(self._own), self._exchange)

    def gathered(self) -> Predictions | None:
        """Return all predictions, in the first process; ``None`` in the others."""
        own, exchange = self._own, self._exchange
        if exchange.size == 1:
            return own
        keys = exchange.tables_to_first(own.keys)
        rows: dict[str, Any] = {"keys": pa.concat_tables(keys) if keys else own.keys}
        for name in ("weight", "sampling_weight"):
            array = getattr(own, name)
            rows[name] = None if array is None else exchange.to_first(array)
        for name in ("values", "labels", "task_weights", "uncalibrated"):
            rows[name] = {key: exchange.to_first(array) for key, array in getattr(own, name).items()}
        return replace(own, **rows) if exchange.processes.first else None

    def _metrics(self, scores: Scores, names: Collection[str] | None) -> Metrics:
        exchange, task = self._exchange, scores.task
        wanted, kind = select_metrics(scores, names), MEASURES[task.kind]
        totals = RowTotals.of_parts(exchange.gather(totals_of(scores).numbers()))
        explained = unmeasurable_of(task, totals, wanted)
        own = {metric.name for metric in scores.own}
        measured = [name for name in wanted if name not in explained and name not in own]
        ungrouped = [name for name in measured if name in kind.metrics]
        grouped = [name for name in measured if name not in kind.metrics]
        sums, counts = self._sums(kind(scores, ungrouped, K, totals)), dict[str, Floats]()
        if grouped:
            of_groups = kind(self._whole_groups(scores), grouped, K, totals)
            sums |= self._sums(of_groups)
            assert of_groups.averages is not None
            counts = {"groups": np.array([of_groups.averages.groups, of_groups.averages.left_out], np.float64)}
        added = exchange.add(sums | counts)
        found = {name: kind.value(name, added[name]) for name in measured}
        own_names = [name for name in wanted if name in own and name not in explained]
        if own_names:
            values, reasons = self._own_metrics(scores, own_names)
            found, explained = found | values, explained | reasons
        groups = (int(added["groups"][0]), int(added["groups"][1])) if grouped else (None, None)
        capped = None if scores.capped is None else totals.capped
        return metrics_from(task, wanted, found, totals, explained, capped, groups)

    def _sums(self, measure: Measure) -> dict[str, Floats]:
        return measure.sums({key: self._range_of(rows) for key, rows in measure.histograms().items()})

    def _range_of(self, histogram: ScoreHistogram) -> ScoreHistogram:
        """Return the range of the histogram of all rows that this process holds, from that of its share."""
        exchange = self._exchange
        points = cut_points(exchange.gather(sample(histogram, exchange.size)), exchange.size)
        own = merged(exchange.scatter(cut(histogram, points)))
        below, above = beside(exchange.gather(np.array(own.weights())), exchange.rank)
        return replace(own, below=below, above=above)

    def _group_numbers(self, predictions: Predictions) -> Integers:
        """Number the groups, whose numbers are the same in all processes, of the rows of this process ``[rows]``."""
        exchange, name = self._exchange, str(predictions.group_column)
        parts, places = groups_by_owner(predictions.keys[name], name, exchange.size)
        asked = exchange.scatter_tables([pa.table({"group": part}) for part in parts])
        answers = numbered_groups([t["group"].combine_chunks() for t in asked], exchange.rank, exchange.size)
        numbers = np.append(np.concatenate(exchange.scatter(answers)), -1)
        return alone(numbers[places], exchange.rank, exchange.size)

    def _whole_groups(self, scores: Scores) -> Scores:
        """Return the rows of the groups that this process owns, from all processes."""
        assert scores.groups is not None
        order, counts = by_owner(scores.groups % self._exchange.size, self._exchange.size)
        ends = np.cumsum(counts)[:-1]

        def moved(array: Array) -> Array:
            return np.concatenate(self._exchange.scatter(np.split(array[order], ends)))

        whole: dict[str, Any] = {name: moved(array) for name, array in _arrays(scores).items()}
        return replace(scores, **whole)

    def _own_metrics(self, scores: Scores, names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
        """Return own metrics, which the first process computes from all rows, and why some are undefined."""
        exchange = self._exchange
        rows: dict[str, Any] = {name: exchange.to_first(array) for name, array in _arrays(scores).items()}

        def work() -> tuple[dict[str, float], dict[str, str]]:
            measure = OwnMeasure(replace(scores, **rows), [metric for metric in scores.own if metric.name in names])
            return measure(), measure.reasons

        return exchange.processes.in_first(work)


def _arrays(scores: Scores) -> dict[str, Array]:
    """Return the arrays of rows ``[rows, …]`` that scores have, by their fields."""
    names = ("labels", "predictions", "weight", "groups", "sampling_weight")
    return {name: getattr(scores, name) for name in names if getattr(scores, name) is not None}
