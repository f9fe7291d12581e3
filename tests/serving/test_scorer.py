"""Rows of any form to predictions, by a network that is a line of NumPy."""

import ast
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

import recmtl
from recmtl.serving import reader
from recmtl.serving import scorer as scorer_module
from recmtl.serving.encoder_files import READER_PARTS, reader_source, write_encoder
from recmtl.serving.manifest import read_manifest, write_manifest
from recmtl.serving.reader import Model, Scores

ROOT = Path(__file__).parents[2]


def write_model(fitted: recmtl.FittedSchema, folder: Path) -> None:
    """Write a model whose `sum` adds up all ids and numbers of a row, and whose `first` is the first id."""
    folder.mkdir()
    write_encoder(fitted, folder)
    (folder / "recmtl_model.py").write_text(reader_source())
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", fitted.id_columns])
    numbers = helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["rows", fitted.numeric_columns])
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows"]) for name in ("sum", "first")]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
    nodes = [
        helper.make_node("Cast", ["ids"], ["whole"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["numeric"], ["real"], to=TensorProto.DOUBLE),
        helper.make_node("Concat", ["whole", "real"], ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axes"], ["sum"], keepdims=0),
        helper.make_node("Gather", ["whole", "zero"], ["first"], axis=1),
    ]
    graph = helper.make_graph(nodes, "network", [ids, numbers], outputs, [axes, zero])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "network.onnx"
    )
    tasks = [{"name": name, "kind": "regression"} for name in ("sum", "first")]
    write_manifest(folder, {"format": "onnx", "tasks": tasks, "inputs": ["ids", "numeric"]})


@pytest.fixture(scope="session")
def rows(csv: Path) -> pd.DataFrame:
    return pd.read_csv(csv / "test.csv", nrows=40)


@pytest.fixture(scope="session")
def folder(aliexpress: recmtl.PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("served") / "model"
    write_model(aliexpress.schema, found)
    return found


@pytest.fixture(scope="session")
def scorer(folder: Path) -> recmtl.Scorer:
    return recmtl.Scorer(folder)


@pytest.fixture(scope="session")
def expected(aliexpress: recmtl.PreparedData, rows: pd.DataFrame) -> Scores:
    (encoded,) = recmtl.data.encode_rows(aliexpress.schema, rows)
    batch = next(recmtl.Loader(encoded, len(rows)).epoch())
    ids, numbers = batch.ids.numpy(), batch.numeric.numpy().astype(np.float64)
    return {"sum": ids.sum(1) + numbers.sum(1), "first": ids[:, 0].astype(np.float64)}


def same(found: Mapping[str, Any], expected: Scores) -> None:
    assert list(found) == ["sum", "first"]
    for task, values in expected.items():
        np.testing.assert_allclose(found[task], values, rtol=1e-12)
        assert np.asarray(found[task]).dtype == np.float64


def test_every_form_of_rows_gives_the_same(scorer: recmtl.Scorer, rows: pd.DataFrame, expected: Scores) -> None:
    records = rows.to_dict("records")
    same(scorer.score(records), expected)
    same(scorer.score([{name: str(value) for name, value in row.items()} for row in records]), expected)
    same(scorer.score(pa.Table.from_pandas(rows)), expected)
    same(scorer.score(pa.RecordBatch.from_pandas(rows)), expected)
    indexed = rows.set_index(rows.index + 100)
    found = scorer.score(indexed)
    assert found.index.equals(indexed.index)
    same(found, expected)
    for place, row in enumerate(records[:3]):
        for one in (row, pd.Series(row)):
            same(scorer.score(one), {task: values[place : place + 1] for task, values in expected.items()})


@pytest.mark.parametrize("shared", [0, 1, 30, 78, 79])
def test_candidates_share_the_fields_of_their_user(scorer: recmtl.Scorer, rows: pd.DataFrame, shared: int) -> None:
    records = [{name: row[name] for name in scorer.fields} for row in rows.to_dict("records")]
    user = {name: records[0][name] for name in scorer.fields[:shared]}
    items = [{name: row[name] for name in scorer.fields[shared:]} for row in records]
    same(scorer.score(user=user, items=items), scorer.score([user | item for item in items]))
    same(scorer.score(user=user, items=[]), {"sum": np.empty(0), "first": np.empty(0)})


def test_no_row_is_no_prediction(scorer: recmtl.Scorer, rows: pd.DataFrame) -> None:
    for nothing in ([], rows[:0]):
        found = scorer.score(nothing)
        assert {task: len(found[task]) for task in scorer.tasks} == {"sum": 0, "first": 0}


def test_threads_share_a_scorer(scorer: recmtl.Scorer, rows: pd.DataFrame, expected: Scores) -> None:
    records = rows.to_dict("records")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: scorer.score(records), range(20)):
            same(found, expected)


def bad_requests(row: dict[str, Any]) -> list[tuple[str, dict[str, Any], str | None, int | None]]:
    """A message, the arguments of `score`, and the field and row of the error."""
    without = {name: value for name, value in row.items() if name != "numerical_1"}
    user, item = {"categorical_1": 1}, {name: value for name, value in without.items() if name != "categorical_1"}
    return [
        ("lacks the field 'numerical_1'", {"rows": [row, without]}, "numerical_1", 1),
        ("unknown field 'numerical1': did you mean 'numerical_1'?", {"rows": row | {"numerical1": 1}}, "numerical1", 0),
        ("unknown field 'x'", {"rows": [row, row | {"x": 1}]}, "x", 1),
        ("'numerical_1': 'high' is not a number", {"rows": [row, row | {"numerical_1": "high"}]}, "numerical_1", 1),
        ("'numerical_1': inf is not a finite number", {"rows": row | {"numerical_1": float("inf")}}, "numerical_1", 0),
        ("'numerical_2': \\[1\\] is not a number", {"rows": row | {"numerical_2": [1]}}, "numerical_2", 0),
        ("'categorical_1': \\['a'\\] is not one", {"rows": row | {"categorical_1": ["a"]}}, "categorical_1", 0),
        ("'categorical_1': {} is not one category", {"rows": row | {"categorical_1": {}}}, "categorical_1", 0),
        ("row 1 must be an object", {"rows": [row, None]}, None, 1),
        ("row 0 must be an object", {"rows": [[1, 2]]}, None, 0),
        ("rows must be a list", {"rows": "row"}, None, None),
        ("rows must be a list", {"rows": 7}, None, None),
        ("give rows, or `user` and `items`", {}, None, None),
        ("give rows, or `user` and `items`", {"user": user}, None, None),
        ("give rows, or `user` and `items`", {"rows": [row], "user": user, "items": [item]}, None, None),
        ("`user` must be an object", {"user": [], "items": [item]}, None, None),
        ("`items` must be a list", {"user": user, "items": item}, None, None),
        ("lacks the field 'numerical_1'", {"user": user, "items": [item]}, "numerical_1", 0),
        ("'categorical_1' stands in `user` and in row 0", {"user": user, "items": [row]}, "categorical_1", 0),
        ("`user` has an unknown field 'x'", {"user": user | {"x": 1}, "items": [item]}, "x", None),
        ("'categorical_1': \\[\\] is not one", {"user": {"categorical_1": []}, "items": [row]}, "categorical_1", None),
        ("no column 'numerical_1'", {"rows": pd.DataFrame([without])}, "numerical_1", None),
        ("lacks the field 'numerical_1'", {"rows": pd.Series(without)}, "numerical_1", 0),
        ("'numerical_1': inf is", {"rows": pd.DataFrame([row | {"numerical_1": float("inf")}])}, "numerical_1", 0),
        ("'x' is not a number", {"rows": pd.DataFrame([row, row | {"numerical_1": "x"}])}, "numerical_1", 1),
    ]  # fmt: skip


def test_a_bad_request_is_refused_in_a_sentence(scorer: recmtl.Scorer, rows: pd.DataFrame) -> None:
    row = {name: value for name, value in rows.to_dict("records")[0].items() if name in scorer.fields}
    for message, arguments, field, place in bad_requests(row):
        with pytest.raises(recmtl.RequestError, match=message) as caught:
            scorer.score(**arguments)
        assert (caught.value.field, caught.value.row) == (field, place), message


def test_a_model_that_cannot_be_used_is_refused(folder: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(recmtl.DataError, match="`threads` must be a whole number from 1, got 0"):
        recmtl.Scorer(folder, threads=0)
    copy = shutil.copytree(folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    probe = {"rows": rows.to_dict("records")[:2], "expected": {"sum": [1.0, 2.0]}}
    (copy / "probe.json").write_text(json.dumps(probe))
    write_manifest(copy, manifest)
    with pytest.raises(recmtl.DataError, match=r"predicts 'sum' otherwise here than where it was exported"):
        recmtl.Scorer(copy)
    assert recmtl.Scorer(copy, check=False).tasks == ("sum", "first")
    (copy / "probe.json").unlink()
    (copy / "encoder.json").write_text("{}")
    write_manifest(copy, manifest)
    with pytest.raises(recmtl.DataError, match=r"the encoder in '.*copy' is damaged: KeyError"):
        recmtl.Scorer(copy)
    (copy / "network.onnx").write_bytes(b"no network")
    with pytest.raises(recmtl.DataError, match=r"network.onnx' cannot be read"):
        recmtl.Scorer(copy, check=False)
    (copy / "network.onnx").unlink()
    with pytest.raises(recmtl.DataError, match=r"has no network.onnx: it was exported for torch, use `recmtl.Scorer`"):
        Model(copy, check=False)
    write_manifest(copy, manifest | {"format": "torch"})
    with pytest.raises(recmtl.DataError, match=r"network.pt2' cannot be read"):
        recmtl.Scorer(copy)


def test_columns_of_a_table_keep_their_types(tmp_path: Path) -> None:
    """What a table holds is read as in training, whatever its types."""
    size = 60
    times = pd.date_range("2024-01-01", periods=size, freq="31h")
    frame = pd.DataFrame(
        {
            "text": ["a", "b", None] * 20,
            "narrow": np.linspace(0, 1, size, dtype=np.float32).round(1),
            "whole": pd.array([1, 2, None] * 20, dtype="Int64"),
            "flag": [True, False, True] * 20,
            "kind": pd.Categorical(["x", "y", "z"] * 20),
            "time": times,
            "zoned": times.tz_localize("Europe/Berlin", ambiguous="NaT", nonexistent="NaT"),
            "day": times.date,
            "tags": [["a"], [], None] * 20,
            "real": np.linspace(-1, 1, size),
            "step": pd.array([1.5, None, 3] * 20, dtype="Float64"),
            "label": [0, 1, 0] * 20,
        }
    )
    features = [
        *map(recmtl.Categorical, ("text", "narrow", "whole", "flag", "kind")),
        *map(recmtl.Timestamp, ("time", "zoned", "day")),
        recmtl.MultiCategorical("tags"),
        recmtl.Numeric("real"),
        recmtl.Binned("step"),
    ]
    fitted = recmtl.prepare(recmtl.Schema(features, [recmtl.Task("t", "label")]), frame, holdout=0).schema
    (encoded,) = recmtl.data.encode_rows(fitted, frame)
    batch = next(recmtl.Loader(encoded, size).epoch())
    write_model(dataclasses.replace(fitted), tmp_path / "model")
    given: dict[str, npt.NDArray[Any]] = {}

    def network(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        given.update(inputs)
        return [np.zeros(size)] * 2

    from recmtl.serving.table_columns import columns_of

    model = Model(tmp_path / "model", network=network)
    for data in (frame, pa.Table.from_pandas(frame)):
        model.score_columns(columns_of(data, model.kinds))
        np.testing.assert_array_equal(given["ids"], batch.ids.numpy())
        np.testing.assert_array_equal(given["numeric"], batch.numeric.numpy())
        np.testing.assert_array_equal(given["list_0"], batch.lists[0].values.numpy())


def test_the_shipped_reader_is_one_file_that_gives_the_same(folder: Path, rows: pd.DataFrame, expected: Scores) -> None:
    source = (folder / "recmtl_model.py").read_text()
    assert "import recmtl" not in source
    assert "from recmtl" not in source
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: status = end.code\n"
        "assert not {'recmtl', 'torch', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    lines = "\n".join(json.dumps(row) for row in rows.to_dict("records"))
    command = [sys.executable, "-c", code, str(folder / "recmtl_model.py"), str(folder)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    found = pd.DataFrame([json.loads(line) for line in done.stdout.splitlines()])
    same(found, expected)
    done = subprocess.run(command, input='{"x": 1}', capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: line 1 has an unknown field 'x'\n"


def test_an_error_in_json_lines_names_the_line(
    folder: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are scored in parts, whose rows are counted from 0."""
    monkeypatch.setattr(reader, "LINES", 4)
    model, good = Model(folder, check=False), rows.to_dict("records")[:6]
    name = next(name for name, kind in model.kinds.items() if kind == "numeric")
    for bad, said in (
        ({**good[0], "x": 1}, "line 7 has an unknown field 'x'"),
        ({**good[0], name: "cheap"}, f"line 7: column '{name}': 'cheap' is not a number"),
        ([], "line 7 must be an object with a value per field, not []"),
    ):
        lines = io.StringIO("\n".join(map(json.dumps, [*good, bad, *good])))
        with pytest.raises(recmtl.RequestError) as caught:
            list(reader.score_lines(model, lines))
        assert (str(caught.value), caught.value.row) == (said, 6)
    lines = io.StringIO("\n".join([*map(json.dumps, good), "{"]))
    with pytest.raises(recmtl.RequestError, match=r"^line 7: it is no JSON: "):
        list(reader.score_lines(model, lines))


def test_a_link_that_moves_while_a_model_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: pd.DataFrame, expected: Scores
) -> None:
    """All files are those of the folder to which the link pointed first."""
    link = tmp_path / "current"
    link.symlink_to(folder)

    def read_and_move(*given: Any, **settings: Any) -> dict[str, Any]:
        found = read_manifest(*given, **settings)
        link.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(scorer_module, "read_manifest", read_and_move)
    same(recmtl.Scorer(link).score(rows.to_dict("records")), expected)
    assert not link.exists()


def top_level_names(path: Path) -> set[str]:
    """The names that a file defines, without those that it imports."""
    nodes = ast.parse(path.read_text()).body
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    values = [n for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) for n in ast.walk(node)]
    return named | {n.id for n in values if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def test_the_parts_of_the_shipped_reader_have_different_names() -> None:
    names = Counter(name for part in READER_PARTS for name in top_level_names(ROOT / "recmtl" / part))
    assert [name for name, count in names.items() if count > 1] == []


def test_scoring_loads_neither_torch_nor_pandas_nor_pyarrow(folder: Path, rows: pd.DataFrame) -> None:
    code = (
        "import json, sys, recmtl; scorer = recmtl.Scorer(sys.argv[1]); scorer.score(json.loads(sys.argv[2])); "
        "print(*{'torch', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    row = json.dumps(rows.to_dict("records")[0])
    done = subprocess.run([sys.executable, "-c", code, str(folder), row], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
