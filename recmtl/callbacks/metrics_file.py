"""Records as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.runs.folder import RunFolder


class MetricsFile(Callback):
    """Writes each record as a line of `metrics.jsonl` in the run folder; every training with a folder has it.

    A training that resumes cuts the file to what it was at the checkpoint: no line is lost, and none stands twice.
    """

    def on_record(self, context: TrainingContext, record: Mapping[str, Any]) -> None:
        """Append a line."""
        if context.folder is not None:
            RunFolder(context.folder).log(record)
