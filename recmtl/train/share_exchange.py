"""Messages of arrays and tables between processes that each hold a share of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recmtl.balance import ProcessGroup
from recmtl.evaluate.scores import Floats

Array = npt.NDArray[Any]


class ShareExchange:
    """Sends arrays between the processes; all call the same methods in the same order.

    Args:
        processes: The processes.
        device: The device whose memory messages go through.
    """

    def __init__(self, processes: ProcessGroup, device: torch.device) -> None:
        self.processes, self._device = processes, device

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.processes.rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.processes.size

    def gather(self, array: Array) -> list[Array]:
        """Return the arrays of all processes in their order; they may differ in length (dimension 0)."""
        return [found.cpu().numpy() for found in self.processes.all_gather(self._tensor(array))]

    def add(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return the sums of arrays over the processes, bit by bit the same in all of them."""
        flat = np.concatenate([np.zeros(0), *sums.values()])
        added = np.sum(self.gather(flat), axis=0)
        ends = np.cumsum([len(part) for part in sums.values()])
        return dict(zip(sums, np.split(added, ends[:-1]), strict=True)) if sums else {}

    def scatter(self, parts: Sequence[Array]) -> list[Array]:
        """Send an array to each process, and return those from all of them in their order."""
        given = [len(part) for part in parts]
        ones = [1] * self.size
        taken = self.processes.all_to_all(self._tensor(np.array(given)), ones, ones).tolist()
        found = self.processes.all_to_all(self._tensor(np.concatenate(parts)), given, taken).cpu().numpy()
        return np.split(found, np.cumsum(taken)[:-1])

    def scatter_tables(self, parts: Sequence[pa.Table]) -> list[pa.Table]:
        """Send a table to each process, and return those from all of them in their order."""
        return [_table(message) for message in self.scatter([_bytes(part) for part in parts])]

    def to_first(self, array: Array) -> Array | None:
        """Return the arrays of all processes one after the other in the first process; ``None`` in the others."""
        found = self.scatter([array, *[array[:0]] * (self.size - 1)])
        return np.concatenate(found) if self.processes.first else None

    def tables_to_first(self, table: pa.Table | None) -> list[pa.Table]:
        """Return the tables that processes have in the first process, in their order; none in the others."""
        nothing = np.zeros(0, np.uint8)
        found = self.scatter([nothing if table is None else _bytes(table), *[nothing] * (self.size - 1)])
        return [_table(message) for message in found if len(message)]

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _bytes(table: pa.Table) -> npt.NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8).copy()


def _table(message: npt.NDArray[np.uint8]) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(message)).read_all()
