"""Score raw rows by an exported model, in any form: rows, candidates of a user, DataFrames, Arrow tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from recmtl.errors import DataError
from recmtl.serving.manifest import read_manifest
from recmtl.serving.reader import Model, Network, Scores
from recmtl.serving.request_encoder import Arrays, Row

if TYPE_CHECKING:
    import pandas as pd

    from recmtl.io.formats import Frame

TORCH_FILE = "network.pt2"


class Scorer:
    """An exported model in memory. Threads may share it: a call changes nothing in it.

    Args:
        path: The folder that `recmtl export` wrote.
        threads: The threads of the network; of a model that was exported for torch, those of torch in this process.
        check: Whether to check the files against their checksums and to score the rows of the probe.

    Attributes:
        metadata: The manifest of the folder.
        tasks: The names of the tasks.
        classes: The classes of each multi-class task, in the order of its predictions.
        fields: The names of the fields of a row.

    Raises:
        DataError: The folder holds no model, has another layout, is damaged, or scores its probe otherwise.

    Example:
        >>> scorer = recmtl.Scorer("model")  # doctest: +SKIP
        >>> scorer.score(user={"age": 31}, items=[{"item": "a"}, {"item": "b"}])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, threads: int = 1, check: bool = True) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise DataError(f"`threads` must be a whole number from 1, got {threads!r}")
        folder = Path(os.path.realpath(path))  # read here and by `Model`, even if a link moves meanwhile
        manifest = read_manifest(folder, check=False)
        network = None
        if manifest["format"] == "torch":
            import torch  # where the model needs it

            torch.set_num_threads(threads)
            network = torch_network(folder / TORCH_FILE, manifest["inputs"])
        self._model = Model(folder, threads, check, network)
        self.metadata: Mapping[str, Any] = self._model.metadata
        self.tasks, self.fields, self.classes = self._model.tasks, self._model.fields, self._model.classes

    @overload
    def score(self, rows: Row | Sequence[Row]) -> Scores: ...
    @overload
    def score(self, rows: pd.DataFrame) -> pd.DataFrame: ...
    @overload
    def score(self, rows: Frame) -> Scores | pd.DataFrame: ...
    @overload
    def score(self, *, user: Row, items: Sequence[Row]) -> Scores: ...
    @overload
    def score(
        self, rows: Row | Sequence[Row] | None = None, *, user: Row | None = None, items: Sequence[Row] | None = None
    ) -> Scores: ...

    def score(
        self,
        rows: Row | Sequence[Row] | Frame | None = None,
        *,
        user: Row | None = None,
        items: Sequence[Row] | None = None,
    ) -> Scores | pd.DataFrame:
        """Return the prediction of each task ``[rows]``: a probability, or a value.

        Those of a multi-class task are ``[rows, C]``, a probability for each of its `classes`.

        Args:
            rows: A row (a value by field, also as a Series), a list of rows, a DataFrame, or an Arrow table or batch of
                any library. Rows may have labels, weights and keys, tables any further columns: they are ignored.
            user: The fields that all candidates share, which are encoded once, in place of `rows`.
            items: The other fields, of each candidate.

        Returns:
            An array by task; of a DataFrame a DataFrame with its index, with a column ``TASK_CLASS`` for each class.

        Raises:
            RequestError: A row lacks a field or has an unknown one, or a value does not parse: with the field, the row
                and the value.
        """
        if rows is None or isinstance(rows, Mapping | list | tuple) or user is not None or items is not None:
            return self._model.score(rows, user=user, items=items)  # type: ignore[arg-type]
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(rows, pandas.Series):
            return self._model.score(rows.to_dict())
        is_frame = pandas is not None and isinstance(rows, pandas.DataFrame)
        if not is_frame and not hasattr(rows, "__arrow_c_stream__") and not hasattr(rows, "__arrow_c_array__"):
            return self._model.score(rows)
        from recmtl.serving.table_columns import columns_of  # pyarrow, which rows do not need

        scores = self._model.score_columns(columns_of(rows, self._model.kinds))
        if pandas is None or not is_frame:
            return scores
        columns = {t: {t: v} if t not in self.classes else self._by_class(t, v) for t, v in scores.items()}
        named = {name: values for found in columns.values() for name, values in found.items()}
        framed: pd.DataFrame = pandas.DataFrame(named, index=rows.index)  # type: ignore[union-attr]
        return framed

    def _by_class(self, task: str, values: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        return {f"{task}_{name}": values[:, place] for place, name in enumerate(self.classes[task])}


def torch_network(path: Path, names: Sequence[str]) -> Network:
    """Return the network of a program of `torch.export`.

    Args:
        path: The file of the program.
        names: The names of its inputs, in order.

    Raises:
        DataError: The file cannot be read.
    """
    import torch  # where the model needs it

    try:
        module = torch.export.load(path).module()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error

    def run(arrays: Arrays) -> list[npt.NDArray[Any]]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(arrays[name]) for name in names))
        return [np.asarray(output) for output in outputs]

    return run
