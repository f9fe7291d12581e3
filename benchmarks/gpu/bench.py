"""Models, balancers and steps of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import torch

import recmtl
from benchmarks.generated import SMALL, batches, with_vocabularies
from benchmarks.gpu.contender import Contender
from benchmarks.gpu.form import Form
from recmtl.data import Batch, Rows
from recmtl.features import FeatureEncoder
from recmtl.recipe.classes import known_names
from recmtl.train import Step
from recmtl.train.cuda_graph import CudaGraph
from recmtl.train.options import Precision

PLAIN = "Sum"
BATCHES = 4  # that lie on the device, in turns


@dataclass(frozen=True)
class Bench:
    """What is measured, where, and how large.

    Args:
        device: Where it runs: ``cuda``, or ``cpu`` for a rehearsal.
        form: The sizes.
        data: Generated rows.
    """

    device: str
    form: Form
    data: recmtl.PreparedData

    @property
    def precision(self) -> Precision:
        """What is measured unless told otherwise."""
        return "fp32" if self.device == "cpu" else "bf16"

    @property
    def precisions(self) -> list[Precision]:
        """All that the device has, but for fp16, whose steps are not recorded."""
        return ["fp32"] if self.device == "cpu" else ["bf16", "tf32", "fp32"]

    @property
    def balancers(self) -> list[str]:
        """All, those of which more is asked first."""
        first = self.form.balancers
        others = known_names("balancer") if self.form.others else []
        return [*first, *(name for name in others if name not in first)]

    def contender(
        self,
        batch: int,
        balancer: str = PLAIN,
        precision: Precision | None = None,
        sizes: Sequence[int] = SMALL,
        record: bool = True,
    ) -> Contender:
        """Return a step that is warmed up, and recorded unless it should not or cannot be."""

        def build() -> tuple[Step, list[Batch]]:
            schema = with_vocabularies(self.data.schema, sizes)
            given = batches(self.data, schema, BATCHES, batch)
            return self._step(schema, batch, balancer, precision, record), [self.moved(b) for b in given]

        return Contender(build)

    def moved(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        return Batch(batch.ids.to(self.device), batch.numeric.to(self.device), batch.labels.to(self.device))

    def _step(
        self, schema: recmtl.FittedSchema, batch: int, balancer: str, precision: Precision | None, record: bool
    ) -> Step:
        on_gpu = self.device != "cpu"
        asked = None if record or not on_gpu else False
        options = recmtl.Optimization(batch_size=batch, precision=precision or self.precision, cuda_graph=asked)
        trainer = self._trainer(schema, options, balancer)
        graph = CudaGraph(torch.device(self.device)) if record and not on_gpu else None  # a GPU's step has its own
        return Step(trainer.model, trainer.balancer, options, 1, graph)

    def _trainer(self, schema: recmtl.FittedSchema, options: recmtl.Optimization, balancer: str) -> recmtl.Trainer:
        torch.manual_seed(0)
        encoder = partial(FeatureEncoder, width=self.form.width)
        model = recmtl.MMOE(schema, self.form.experts, self.form.layers, encoder=encoder)
        run = recmtl.RunConfig(device=self.device, progress=False)
        return recmtl.Trainer(model, getattr(recmtl, balancer)(), 1, optimization=options, run=run)

    def epoch_rate(self, batch: int, balancer: str) -> float:
        """Return the rows per second of an epoch's steps over rows that lie on the device."""
        table = self.data.train.table
        whole = pa.concat_tables([table] * -(-self.form.rows // len(table))).slice(0, self.form.rows)
        options = recmtl.Optimization(batch_size=batch, precision=self.precision)
        trainer = self._trainer(self.data.schema, options, balancer)
        trainer.fit(Rows(self.data.schema, whole))
        return trainer.result.rows_per_second
