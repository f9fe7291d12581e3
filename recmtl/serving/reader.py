"""Score raw rows by an exported model.

In Python: ``Model("model/").score({"user": 7, "item": "a"})``. On a command line, a JSON object per line in and out:
``python recmtl_model.py model/ < rows.jsonl``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from recmtl.errors import DataError, shown
from recmtl.errors import RequestError as RequestError
from recmtl.serving.feature_encoders import Column
from recmtl.serving.manifest import read_manifest
from recmtl.serving.request_encoder import Arrays, RequestEncoder, Row

ONNX_FILE, PROBE_FILE = "network.onnx", "probe.json"
TOLERANCE = 1e-5  # of the predictions of the probe: machines sum in different orders
LINES = 1024  # of standard input that are scored at a time

Scores = dict[str, npt.NDArray[np.float64]]
Network = Callable[[Arrays], Sequence[npt.NDArray[Any]]]  # inputs by name to the outputs of the tasks


class Model:
    """An exported model: raw rows in, a number per row and task out. Threads may share it.

    Args:
        folder: The folder that `recmtl export` wrote.
        threads: The threads of the network.
        check: Whether to check the files against their checksums and to score the rows of the probe.
        network: Computes the outputs of the tasks from the inputs by name, in place of onnxruntime.

    Attributes:
        metadata: The manifest.
        tasks: The names of the tasks.
        classes: The classes of each multi-class task, in the order of its predictions.
        fields: The names of the fields of a row.
        kinds: The kind of the feature of each field.

    Raises:
        DataError: The folder holds no model, has another layout, is damaged, or scores its probe otherwise.
    """

    def __init__(
        self, folder: str | Path, threads: int = 1, check: bool = True, network: Network | None = None
    ) -> None:
        folder = Path(os.path.realpath(folder))  # all files are those of one folder, even if a link moves meanwhile
        self.metadata = read_manifest(folder, check)
        self.tasks = tuple(task["name"] for task in self.metadata["tasks"])
        self.classes = {t["name"]: tuple(t["classes"]) for t in self.metadata["tasks"] if "classes" in t}
        self._network = network or onnx_network(folder / ONNX_FILE, threads)
        try:
            self._encoder = RequestEncoder(folder)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"the encoder in {str(folder)!r} is damaged: {error!r}; export the model again") from error
        self.fields, self.kinds = self._encoder.fields, self._encoder.kinds
        if check and (folder / PROBE_FILE).exists():
            self._check_probe(folder / PROBE_FILE)

    def encode(self, columns: Mapping[str, Column]) -> Arrays:
        """Return the inputs of the network by name for columns of raw values; further columns are ignored.

        Raises:
            RequestError: A column is missing, or a value does not parse.
        """
        return self._encoder.encode(columns)

    def score(
        self, rows: Row | Sequence[Row] | None = None, *, user: Row | None = None, items: Sequence[Row] | None = None
    ) -> Scores:
        """Return the prediction of each task ``[rows]``: a probability, or a value.

        Those of a multi-class task are ``[rows, C]``, a probability for each of its `classes`.

        Args:
            rows: A row, or a list of rows: a value for each field. Labels, weights and keys are ignored.
            user: The fields that all candidates share, in place of `rows`.
            items: The other fields, of each candidate.

        Raises:
            RequestError: A row lacks a field or has an unknown one, or a value does not parse.
        """
        if rows is not None and user is None and items is None:
            given = [rows] if isinstance(rows, Mapping) else rows
            if isinstance(given, str | bytes) or not isinstance(given, Sequence):
                raise RequestError(f"rows must be a list of objects, not {shown(given)}")
            return self._predict(self._encoder.encode_rows(given), len(given))
        if rows is not None or user is None or items is None:
            raise RequestError("give rows, or `user` and `items`")
        if isinstance(items, str | bytes | Mapping) or not isinstance(items, Sequence):
            raise RequestError(f"`items` must be a list of objects, not {shown(items)}")
        return self._predict(self._encoder.encode_candidates(user, items), len(items))

    def score_columns(self, columns: Mapping[str, Column]) -> Scores:
        """Return the prediction of each task ``[rows]`` for columns of raw values; further columns are ignored.

        Raises:
            RequestError: A column is missing, or a value does not parse.
        """
        return self._predict(self.encode(columns), len(columns[self.fields[0]]))

    def _predict(self, inputs: Arrays, rows: int) -> Scores:
        if rows == 0:
            wide = {task: (0, len(classes)) for task, classes in self.classes.items()}
            return {task: np.empty(wide.get(task, 0)) for task in self.tasks}
        outputs = zip(self.tasks, self._network(inputs), strict=True)
        return {task: values.astype(np.float64, copy=False) for task, values in outputs}

    def _check_probe(self, path: Path) -> None:
        probe = json.loads(path.read_text(encoding="utf-8"))
        found = self.score(probe["rows"])
        for task, expected in probe["expected"].items():
            if not np.allclose(found[task], expected, rtol=TOLERANCE, atol=TOLERANCE):
                raise DataError(
                    f"the model in {str(path.parent)!r} predicts {task!r} otherwise here than where it was exported: "
                    "export it again"
                )


def onnx_network(path: Path, threads: int) -> Network:
    """Return the network of an ONNX file, run by onnxruntime.

    Raises:
        DataError: There is no such file, or onnxruntime is missing or cannot read it.
    """
    if not path.is_file():
        raise DataError(f"{str(path.parent)!r} has no {path.name}: it was exported for torch, use `recmtl.Scorer`")
    try:
        import onnxruntime
    except ImportError:
        raise DataError("scoring needs onnxruntime: `pip install onnxruntime`") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many, and no common one
        raise DataError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    inputs = [given.name for given in session.get_inputs()]
    return lambda arrays: session.run(None, {name: arrays[name] for name in inputs})


def score_lines(model: Model, lines: IO[str]) -> Iterator[str]:
    """Yield a line of JSON with the predictions of each row, given a line of JSON for each.

    Raises:
        RequestError: A line is no JSON object, or cannot be scored; `row` counts the lines from 0.
    """
    start = 0
    while part := list(islice(lines, LINES)):
        rows = []
        for place, line in enumerate(part):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise line_error(RequestError(f"it is no JSON: {error}", None, place), start) from None
        try:
            scores = model.score(rows)
        except RequestError as error:
            raise line_error(error, start) from error
        for values in zip(*(scores[task].tolist() for task in scores), strict=True):
            yield json.dumps({t: named_scores(v, model.classes.get(t)) for t, v in zip(scores, values, strict=True)})
        start += len(part)


def named_scores(values: Any, classes: Sequence[str] | None) -> Any:
    """Return the prediction of a row, of a multi-class task by class."""
    return values if classes is None else dict(zip(classes, values, strict=True))


def line_error(error: RequestError, start: int) -> RequestError:
    """Return an error in a row of some lines as one that names the line in place of the row.

    Args:
        error: The error.
        start: The lines before these.
    """
    if error.row is None:
        return error
    line, message = f"line {start + error.row + 1}", str(error)
    row = f"row {error.row} "
    message = f"{line} {message.removeprefix(row)}" if message.startswith(row) else f"{line}: {message}"
    return RequestError(message, error.field, start + error.row, error.value)


def main() -> int:
    """Score the rows of standard input, a JSON object per line."""
    if len(sys.argv) != 2:
        sys.stderr.write(f"usage: python {sys.argv[0]} MODEL_FOLDER < rows.jsonl\n")
        return 2
    try:
        for line in score_lines(Model(sys.argv[1]), sys.stdin):
            sys.stdout.write(line + "\n")
    except (RequestError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
