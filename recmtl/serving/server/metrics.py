"""Counters and latencies of a server in the format of Prometheus, summed over its workers."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from recmtl.serving.server.served import ServedModel

SHARED_FOLDER = (
    "PROMETHEUS_MULTIPROC_DIR"  # where workers keep their counters; must be set before this file is imported
)
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class ServerMetrics:
    """The metrics of one worker; `page` shows those of all that share a folder."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("recmtl_requests", "Requests by HTTP status.", ["status"], registry=registry)
        self.seconds = Histogram(
            "recmtl_request_seconds", "Time from headers to answer.", buckets=SECONDS, registry=registry
        )
        self.rows = Histogram("recmtl_request_rows", "Rows of a request.", buckets=ROWS, registry=registry)
        self.calls = Histogram(
            "recmtl_call_requests", "Requests scored in one call.", buckets=ROWS[:7], registry=registry
        )
        self.active = Gauge("recmtl_active_requests", "Requests begun.", registry=registry, multiprocess_mode="livesum")
        self.changes = Counter(
            "recmtl_model_changes", "New models by what became of them.", ["outcome"], registry=registry
        )
        self.workers = Gauge(
            "recmtl_workers", "Workers by model.", ["model"], registry=registry, multiprocess_mode="livesum"
        )

    def count_call(self, requests: int, rows: int) -> None:
        """Count a call of the model."""
        self.calls.observe(requests)

    def count_change(self, new: ServedModel | None, old: ServedModel | None) -> None:
        """Count a model that was taken or refused."""
        self.changes.labels("refused" if new is None else "taken").inc()
        if new is not None:
            self.workers.labels(new.version).set(1)
        if old is not None:
            self.workers.labels(old.version).set(0)

    def page(self) -> bytes:
        """Return the metrics of all workers as text."""
        registry = self._registry
        if SHARED_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
