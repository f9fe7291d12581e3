"""Damaged prepared datasets, and valid ones from untrusted origin: no row of them is used."""

import contextlib
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from recmtl.data import DataError, Loader, PreparedData, prepare
from recmtl.data.store import format as format_module
from recmtl.data.store.format import write_manifest
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task
from recmtl.schema.serialization import FITTED_FILES, load_fitted

SCHEMA = Schema(
    [Categorical("c", label_rates=True), Numeric("x"), MultiCategorical("m")],
    [Task("t", "y"), Task("u", "r", kind="regression")],
    group="g",
    keys=["k"],
    weight="w",
)
FILES = ("manifest.json", *FITTED_FILES, "train-00000.arrow", "test-00000.arrow")
ROWS = 150


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "c": rng.choice(list("abcde"), ROWS),
            "x": rng.normal(size=ROWS),
            "m": rng.choice(["p|q", "q", None], ROWS),
            "y": rng.integers(0, 2, ROWS),
            "r": rng.normal(size=ROWS),
            "w": rng.random(ROWS),
            "k": rng.integers(0, 1 << 40, ROWS),
            "g": rng.choice(["ü", "gg", "a long name"], ROWS),
        }
    )
    prepare(SCHEMA, frame, frame[:20], frame[50:], out=tmp_path / "data")
    return tmp_path / "data"


def content_of(folder: Path) -> tuple[Any, ...]:
    """Everything that training and prediction read."""
    data = PreparedData.open(folder)
    rows = {name: (split.packed().numpy().tobytes(), split.keys.to_pydict()) for name, split in data.splits.items()}
    return data.schema.fingerprint, data.notes, rows


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_an_error_or_changes_nothing(folder, file):
    path, whole, right = folder / file, (folder / file).read_bytes(), content_of(folder)
    rng, errors = np.random.default_rng(1), 0
    for place in rng.integers(0, len(whole), 40):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        error = None
        try:
            assert content_of(folder) == right
        except DataError as found:
            error = str(found)
            errors += 1
        assert error is None or str(path if file != "manifest.json" else folder) in error
    assert errors == 40 or file == "manifest.json"  # a flipped blank changes nothing


@pytest.mark.parametrize("file", FILES)
def test_truncated_and_swapped_files(folder, file):
    path, whole = folder / file, (folder / file).read_bytes()
    others = [(folder / other).read_bytes() for other in FILES if other != file]
    cuts = [whole[:size] for size in np.random.default_rng(2).integers(0, len(whole), 8)]
    for content in (*cuts, *others, whole + b"\0", bytes(len(whole)), whole[64:] + whole[:64]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path) if file != "manifest.json" else str(folder)):
            content_of(folder)
    path.write_bytes(whole)
    content_of(folder)


def test_damage_is_found_before_any_row_is_used(folder):
    path = folder / "train-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    data = PreparedData.open(folder)
    assert len(data.test.packed()) == ROWS - 50  # another file, which is whole
    for use in (
        lambda: data.train.packed([(0, 1)]),
        lambda: data.train.labels,
        lambda: data.train.weight,
        lambda: data.train.keys,
        lambda: data.train.table,
        lambda: Loader(data.train, 10),
        lambda: list(Loader(data.train, 10, window=64, seed=0).epoch()),
        data.check,
    ):
        with pytest.raises(DataError, match=rf"{path} is damaged, prepare the data again: .* not match its checksum"):
            use()


def test_a_file_is_checked_once(folder, monkeypatch):
    rows = PreparedData.open(folder).train
    rows.packed()
    monkeypatch.setattr(format_module, "digest", None)
    assert rows.packed([(3, 5)]).equal(rows.packed()[3:5])


def write_rows(folder: Path, table: pa.Table) -> None:
    """Replace the training rows of a dataset; its manifest matches them."""
    (folder / "train-00000.arrow").unlink()
    with ipc.new_file(str(folder / "train-00000.arrow"), table.schema) as writer:
        writer.write_table(table)
    write_manifest(folder, read_manifest_unchecked(folder)["rows"], {}, [])


def read_manifest_unchecked(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def filled(name: str, value: Any, row: int = 100, column: int = 0) -> Callable[[pa.Table], pa.Table]:
    """One value of a column replaced."""

    def change(table: pa.Table) -> pa.Table:
        block = table.column(name).combine_chunks()
        flat = block.flatten() if pa.types.is_fixed_size_list(block.type) else block
        values = flat.to_numpy().reshape(len(table), -1).copy()
        values[row, column] = value
        made = pa.array(values.reshape(-1))
        listed = pa.types.is_fixed_size_list(block.type)
        made = pa.FixedSizeListArray.from_arrays(made, values.shape[1]) if listed else made
        return table.set_column(table.column_names.index(name), name, made)

    return change


@pytest.mark.parametrize(("value", "column"), [(7, 0), (-1, 0), (-(2**31), 0)])
def test_ids_outside_their_vocabulary(folder, value, column):
    write_rows(folder, filled("ids", value, column=column)(PreparedData.open(folder).train.table))
    with pytest.raises(DataError, match=r"train-00000\.arrow is damaged, .*: an id is outside its vocabulary"):
        PreparedData.open(folder).train.packed([(0, 1)])


@pytest.mark.parametrize(("value", "column"), [(6, 0), (0, 0)])
def test_ids_at_the_ends_of_their_vocabulary(folder, value, column):
    write_rows(folder, filled("ids", value, column=column)(PreparedData.open(folder).train.table))
    PreparedData.open(folder).check()


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ([4], "an id is outside its vocabulary"),
        ([2, -1], "an id is outside its vocabulary"),
        ([2, 3, 2], "a list of 'm' has not from 1 to 2 ids"),
        ([], "a list of 'm' has not from 1 to 2 ids"),
        (None, "a list of 'm' has not from 1 to 2 ids"),
    ],
)
def test_lists_that_no_row_can_have(folder, first, reason):
    table = PreparedData.open(folder).train.table
    lists = [first, *table["list:m"].to_pylist()[1:]]
    place = table.column_names.index("list:m")
    write_rows(folder, table.set_column(place, "list:m", pa.array(lists, pa.list_(pa.int32()))))
    with pytest.raises(DataError, match=rf"train-00000\.arrow is damaged, .*: {reason}"):
        PreparedData.open(folder).train.lists()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop_columns(["numeric"]),
        lambda t: t.append_column("more", pa.array(range(ROWS))),
        lambda t: t.set_column(0, "ids", t.column("numeric")),
        lambda t: t.set_column(4, "weight", t.column("weight").cast("float64")),
    ],
)
def test_columns_of_another_schema(folder, change):
    write_rows(folder, change(PreparedData.open(folder).train.table))
    with pytest.raises(
        DataError, match=r"train-00000\.arrow is damaged, .* its columns are .* not those of its schema"
    ):
        _ = PreparedData.open(folder).train.table


def test_another_number_of_rows(folder):
    write_rows(folder, PreparedData.open(folder).train.table.slice(0, 7))
    with pytest.raises(DataError, match=r"train-00000\.arrow is damaged, .*: it has 7 rows, expected 150"):
        _ = PreparedData.open(folder).train.table


def test_arrow_metadata_with_a_valid_checksum(folder):
    """Arrow may raise an error, but never crashes."""
    path, right = folder / "train-00000.arrow", content_of(folder)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    for place in (*rng.integers(8, 1600, 100), *rng.integers(len(whole) - 1600, len(whole), 100)):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        write_manifest(folder, read_manifest_unchecked(folder)["rows"], {}, [])
        with contextlib.suppress(DataError):
            assert len(content_of(folder)[2]["train"][0]) == len(right[2]["train"][0])


@pytest.mark.parametrize("offset", [1 << 30, -1, 0])
def test_offsets_that_point_elsewhere(folder, offset):
    """By default Arrow checks only the last one."""
    path = folder / "train-00000.arrow"
    offsets = PreparedData.open(folder).train.table.column("key:g").chunks[0].buffers()[1].to_pybytes()
    content = path.read_bytes()
    place = content.index(offsets[: 4 * 64]) + 4 * 5
    path.write_bytes(content[:place] + np.int32(offset).tobytes() + content[place + 4 :])
    write_manifest(folder, read_manifest_unchecked(folder)["rows"], {}, [])
    with pytest.raises(DataError, match=r"train-00000\.arrow is damaged, .*ffset"):
        _ = PreparedData.open(folder).train.keys


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["lengths"].update(m=10**9), "its content does not match its fingerprint"),
        (lambda s: s["lengths"].update(m=-1), "its content does not match its fingerprint"),
        (lambda s: s["lengths"].update(m="3"), "its content does not match its fingerprint"),
        (lambda s: s["moments"]["x"].update(mean=float("nan")), "its content does not match its fingerprint"),
        (lambda s: s["moments"].pop("x"), "its content does not match its fingerprint"),
        (lambda s: s["quantiles"].update(x=[2.0, 1.0]), "its content does not match its fingerprint"),
        (lambda s: s["rates"].pop(0), "its content does not match its fingerprint"),
        (lambda s: s["rates"][0].update(mean=7), "its content does not match its fingerprint"),
        (lambda s: s["vocabulary_sizes"].update(c=10**12), "its vocabularies have other sizes"),
        (lambda s: s["schema"]["features"][0].update(hash_buckets=10**12), "must be at most 2,147,483,640"),
        (lambda s: s["schema"]["features"][0].update(width=10**12), "must be at most 2,147,483,640"),
        (lambda s: s["schema"]["tasks"][0].update(name="other"), "its content does not match its fingerprint"),
        (lambda s: s.pop("fingerprint"), "it lacks 'fingerprint'"),
        (lambda s: s.pop("schema"), "it lacks 'schema'"),
    ],
)
def test_a_changed_schema(folder, change, reason):
    """The error comes before any allocation, also in a run folder, which has no manifest."""
    content = json.loads((folder / "schema.json").read_text())
    change(content)
    (folder / "schema.json").write_text(json.dumps(content))
    with pytest.raises(SchemaError, match=rf"the fitted schema in '{folder}' is damaged: .*{reason}"):
        load_fitted(folder)


def test_other_names_of_splits_are_ignored(folder):
    """No name in a manifest leads out of the folder."""
    write_manifest(folder, {"train": [ROWS]}, {}, [])
    content = read_manifest_unchecked(folder)
    del content["sha256"]
    content["rows"]["../../secret"] = [3]
    (folder / "manifest.json").write_text(json.dumps(content | {"sha256": format_module._checksum(content)}))
    assert list(PreparedData.open(folder).splits) == ["train"]


@pytest.mark.parametrize("file", FILES)
def test_pipes_and_devices(folder, file):
    """A pipe would block, and `/dev/zero` has no end."""
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("gone")):
        (folder / file).unlink()
        make(folder / file)
        with pytest.raises(DataError, match=str(folder)):
            PreparedData.open(folder)


def test_rows_are_mapped_into_memory(folder):
    rows = PreparedData.open(folder).train
    gc.collect()  # what earlier tests left, such as the tracebacks of errors, may hold rows
    before = pa.total_allocated_bytes()
    assert rows.table.num_rows == len(rows)
    assert pa.total_allocated_bytes() == before
