"""Prepared datasets that are damaged, and whole ones of strangers: no row of them is used."""

import contextlib
import itertools
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
import torch

from recmtl.data import DataError, Loader, PreparedData, prepare
from recmtl.data.store import manifest as manifest_module
from recmtl.data.store import shard as shard_module
from recmtl.data.store.manifest import read_manifest, write_manifest
from recmtl.data.store.shard import Blocks, Shard, ShardWriter
from recmtl.io.untrusted import read_plain
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task
from recmtl.schema.serialization import load_fitted

SCHEMA = Schema(
    [Categorical("c"), Numeric("x"), MultiCategorical("m")],
    [Task("t", "y"), Task("u", "r", kind="regression")],
    group="g",
    keys=["k"],
    weight="w",
)
FILES = ("manifest.json", "schema.json", "vocabularies.arrow", "train.arrow", "test.arrow")
ROWS = 150


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(shard_module, "BLOCK_ROWS", 64)


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
    """All that training and predicting read."""
    data = PreparedData.open(folder)
    rows = {name: (split.packed().numpy().tobytes(), split.keys.to_pydict()) for name, split in data.splits.items()}
    return data.schema.fingerprint, data.notes, rows


def test_a_file_is_cut_into_blocks_whatever_the_batches(tmp_path, folder):
    table = PreparedData.open(folder).train.table
    for sizes in ([150], [1, 63, 64, 22], [10] * 15):
        with ShardWriter(tmp_path / "other.arrow", table.schema) as writer:
            for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
                writer.write(table.slice(start, size).combine_chunks().to_batches()[0])
            blocks = writer.finish()
        assert [len(chunk) for chunk in table.column("ids").chunks] == [64, 64, 22]
        assert len(blocks) == 4
        assert blocks[-1][0] == os.path.getsize(tmp_path / "other.arrow")
        assert ipc.open_file(str(tmp_path / "other.arrow")).read_all().equals(table)


@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_is_told_or_changes_nothing(folder, file):
    path, whole, right = folder / file, (folder / file).read_bytes(), content_of(folder)
    rng, told = np.random.default_rng(1), 0
    for place in rng.integers(0, len(whole), 40):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        error = None
        try:
            assert content_of(folder) == right
        except DataError as found:
            error = str(found)
            told += 1
        assert error is None or str(path if file != "manifest.json" else folder) in error
    assert told == 40 or file == "manifest.json"  # whose blanks mean nothing


@pytest.mark.parametrize("file", FILES)
def test_cut_and_swapped_files(folder, file):
    path, whole = folder / file, (folder / file).read_bytes()
    others = [(folder / other).read_bytes() for other in FILES if other != file]
    cuts = [whole[:size] for size in np.random.default_rng(2).integers(0, len(whole), 8)]
    for content in (*cuts, *others, whole + b"\0", bytes(len(whole)), whole[64:] + whole[:64]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path) if file != "manifest.json" else str(folder)):
            content_of(folder)
    path.write_bytes(whole)
    content_of(folder)


def test_damage_is_found_where_it_is_read(folder):
    """Rows of a block that is whole can be had; those of another cannot, nor a batch made of them."""
    path = folder / "train.arrow"
    table = PreparedData.open(folder).train.table
    end = json.loads((folder / "manifest.json").read_text())["splits"]["train"][1][0][0]
    content = bytearray(path.read_bytes())
    content[end + 500] ^= 1  # in the second block
    path.write_bytes(content)
    rows = PreparedData.open(folder).train
    assert torch.equal(rows.packed([(0, 64)]), rows.packed([(0, 10), (10, 64)]))
    assert rows.packed([(128, 150)]).shape[0] == 22
    for use in (
        lambda: rows.packed([(0, 65)]),
        lambda: rows.labels,
        lambda: rows.weight,
        lambda: rows.keys,
        lambda: rows.table,
        lambda: Loader(rows, 10),
        lambda: list(Loader(rows, 10, window=64, seed=0).epoch()),
    ):
        with pytest.raises(DataError, match=rf"{path} is damaged, prepare the data again: bytes {end:,} to .* changed"):
            use()
    assert len(table) == ROWS


def forge(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the training rows of a dataset and seal it anew, as a stranger can."""
    data = PreparedData.open(folder)
    splits = {}
    for name, rows in data.splits.items():
        table = change(rows.table) if name == "train" else rows.table
        (folder / f"{name}.arrow").unlink()
        with ShardWriter(folder / f"{name}.arrow", table.schema) as writer:
            for batch in table.combine_chunks().to_batches():
                writer.write(batch)
            splits[name] = writer.rows, writer.finish()
    write_manifest(folder, data.schema, splits, data.notes)


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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (filled("ids", 7), "an id is outside its vocabulary"),
        (filled("ids", -1), "an id is outside its vocabulary"),
        (filled("ids", -2, column=2), "an id is outside its vocabulary"),
        (filled("ids", 2**31 - 1, column=2), "an id is outside its vocabulary"),
        (filled("ids", -(2**31)), "an id is outside its vocabulary"),
        (filled("numeric", np.nan), "a number is not finite"),
        (filled("numeric", np.inf), "a number is not finite"),
        (filled("labels", 2), "a binary label is not 0 or 1"),
        (filled("weight", -1), "a row weight is not a number from 0"),
        (filled("weight", np.nan), "a row weight is not a number from 0"),
        (
            lambda t: t.set_column(3, "weight", pa.array([1.0] * 100 + [None] * (ROWS - 100), pa.float32())),
            "a value is missing",
        ),
    ],
)
def test_values_that_no_column_can_hold(folder, change, reason):
    forge(folder, change)
    rows = PreparedData.open(folder).train
    rows.packed([(0, 64)])
    with pytest.raises(DataError, match=rf"train\.arrow cannot be used: among its rows from 65 on, {reason}"):
        rows.packed([(70, 71)])


def test_values_at_the_edges_can_be_used(folder):
    for change in (filled("ids", 6), filled("ids", 0), filled("ids", -1, column=2), filled("labels", np.nan)):
        forge(folder, change)
        PreparedData.open(folder).check()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop_columns(["numeric"]), "it has the columns"),
        (lambda t: t.append_column("more", pa.array(range(ROWS))), "it has the columns"),
        (lambda t: t.set_column(0, "ids", t.column("numeric")), r"its column 'ids' is .*float"),
        (lambda t: t.set_column(3, "weight", t.column("weight").cast("float64")), "its column 'weight' is double"),
        (lambda t: t.set_column(5, "key:k", t.column("key:k").cast("string")), "its column 'key:k' is string"),
        (lambda t: t.set_column(4, "key:g", t.column("key:k")), "its column 'key:g' is int64, expected text"),
        (lambda t: t.set_column(4, "key:g", t.column("key:g").dictionary_encode()), "its column 'key:g' is dictionary"),
    ],
)
def test_columns_that_are_not_the_schemas(folder, change, reason):
    forge(folder, change)
    with pytest.raises(DataError, match=rf"train\.arrow is damaged, prepare the data again: {reason}"):
        PreparedData.open(folder)


def seal(folder: Path, data: PreparedData) -> None:
    """Say in the manifest that the training rows are as they are now."""
    splits = {name: (rows, blocks) for name, (rows, blocks) in read_manifest(folder).splits.items()}
    content, (rows, blocks) = (folder / "train.arrow").read_bytes(), splits["train"]
    ends = [0, *(end for end, _ in blocks)]
    splits["train"] = rows, [(end, zlib.crc32(content[start:end])) for start, end in itertools.pairwise(ends)]
    write_manifest(folder, data.schema, splits, data.notes)


def test_a_strangers_file_is_an_error_or_rows(folder):
    """Whatever its metadata say, which begin each block and end the file: Arrow may refuse it, and never crashes."""
    path, data, right = folder / "train.arrow", PreparedData.open(folder), content_of(folder)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    end = read_manifest(folder).splits["train"][1][2][0]
    for place in (*rng.integers(8, 1600, 100), *rng.integers(end, len(whole), 100)):
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        seal(folder, data)
        with contextlib.suppress(DataError):
            assert len(content_of(folder)[2]["train"][0]) == len(right[2]["train"][0])


@pytest.mark.parametrize("offset", [1 << 30, -1, 0])
def test_offsets_that_point_elsewhere(folder, offset):
    """Arrow itself looks at the last one alone."""
    data, path = PreparedData.open(folder), folder / "train.arrow"
    offsets = data.train.table.column("key:g").chunks[0].buffers()[1].to_pybytes()
    content = path.read_bytes()
    place = content.index(offsets[: 4 * 64]) + 4 * 5
    path.write_bytes(content[:place] + np.int32(offset).tobytes() + content[place + 4 :])
    seal(folder, data)
    with pytest.raises(DataError, match=r"train\.arrow cannot be used: among its rows from 1 on, .*ffset"):
        _ = PreparedData.open(folder).train.keys


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["lengths"].update(m=10**9), "the longest list of 'm' is 1000000000"),
        (lambda s: s["lengths"].update(m=-1), "the longest list of 'm' is -1"),
        (lambda s: s["lengths"].update(m="3"), "the longest list of 'm' is '3'"),
        (lambda s: s["moments"]["x"].update(mean=float("nan")), "'x' has no mean and deviation"),
        (lambda s: s["moments"].pop("x"), "'x' has no mean and deviation"),
        (lambda s: s["quantiles"].update(x=[2.0, 1.0]), "'x' has no quantiles"),
        (lambda s: s["rates"].pop(0), "task 't' has no label rate"),
        (lambda s: s["rates"][0].update(mean=7), "has the label rate 7, expected a share"),
        (lambda s: s["vocabulary_sizes"].update(c=10**12), "its vocabularies have other sizes"),
        (lambda s: s["schema"]["features"][0].update(hash_buckets=10**12), "must be at most 2,147,483,640"),
        (lambda s: s["schema"]["features"][0].update(width=10**12), "must be at most 2,147,483,640"),
        (lambda s: s["schema"]["tasks"][0].update(name="other"), "its content is not what its fingerprint says"),
        (lambda s: s.pop("fingerprint"), "it lacks 'fingerprint'"),
        (lambda s: s.pop("schema"), "it lacks 'schema'"),
    ],
)
def test_what_a_schema_declares(folder, change, reason):
    """Before anything is allocated for it, also in a run folder, which has no manifest."""
    content = json.loads((folder / "schema.json").read_text())
    change(content)
    (folder / "schema.json").write_text(json.dumps(content))
    with pytest.raises(SchemaError, match=rf"the fitted schema in '{folder}' is damaged: .*{reason}"):
        load_fitted(folder)


def test_names_that_lead_elsewhere(folder):
    """The manifest names splits; their files are those beside it, whatever it says."""
    content = json.loads((folder / "manifest.json").read_text())
    content["splits"]["../../secret"] = content["splits"].pop("test")
    del content["seal"]
    content["seal"] = manifest_module._seal(content)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json is damaged, prepare the data again: it is not what"):
        PreparedData.open(folder)


@pytest.mark.parametrize("file", FILES)
def test_pipes_and_devices(folder, file):
    """A pipe is not waited for, and what has no end is not read."""
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("gone")):
        (folder / file).unlink()
        make(folder / file)
        with pytest.raises(DataError, match=str(folder)):
            PreparedData.open(folder)


def compressed(path: Path, batches: list[pa.RecordBatch], how: str) -> Blocks:
    """Write batches as no prepared dataset has them, and give the blocks of the file."""
    ends, options = [], ipc.IpcWriteOptions(compression="zstd" if how == "zstd" else None)
    with path.open("wb") as file, ipc.new_file(pa.PythonFile(file), batches[0].schema, options=options) as writer:
        for batch in batches:
            custom = {"ARROW:experimental_compression": "zstd"} if how == "experimental" else None
            writer.write_batch(batch, custom_metadata=custom)
            ends.append(file.tell())
    content = path.read_bytes()
    bounds = itertools.pairwise([0, *ends, len(content)])
    return [(end, zlib.crc32(content[start:end])) for start, end in bounds]


@pytest.mark.parametrize("how", ["zstd", "experimental"])
def test_rows_that_become_larger(folder, monkeypatch, how):
    """Megabytes on the disk could be gigabytes in memory: none of them is read."""
    data, path = PreparedData.open(folder), folder / "train.arrow"
    batches = data.train.table.to_batches()
    path.unlink()
    splits = dict(read_manifest(folder).splits)
    splits["train"] = ROWS, compressed(path, batches, how)
    write_manifest(folder, data.schema, splits, data.notes)
    monkeypatch.setattr(ipc, "read_record_batch", None)
    with pytest.raises(DataError, match=r"train\.arrow is damaged, .*: it holds rows that are compressed, expected"):
        Shard(path, data.schema, *read_manifest(folder).splits["train"])


def test_more_rows_than_their_file_holds(folder, monkeypatch):
    """None is read: columns could all lie at the same place."""
    schema, (rows, blocks) = PreparedData.open(folder).schema, read_manifest(folder).splits["train"]
    monkeypatch.setattr(shard_module, "BLOCK_ROWS", 64_000)
    with pytest.raises(DataError, match=r"train\.arrow is damaged, .*: [\d,]+ bytes do not hold 150,000 rows"):
        Shard(folder / "train.arrow", schema, rows * 1000, blocks)


@pytest.mark.parametrize("how", ["zstd", "experimental"])
def test_a_vocabulary_that_becomes_larger(folder, how):
    """Also of a run, whose schema no manifest holds."""
    path = folder / "vocabularies.arrow"
    batches = ipc.open_file(pa.BufferReader(path.read_bytes())).read_all().to_batches()
    compressed(path, batches, how)
    with pytest.raises(SchemaError, match=r"vocabularies\.arrow holds rows that are compressed, expected them as"):
        load_fitted(folder)


def test_a_file_that_holds_dictionaries(tmp_path):
    table = pa.table({"c": pa.array(["a", "b"]).dictionary_encode()})
    with ipc.new_file(str(tmp_path / "file"), table.schema) as writer:
        writer.write_table(table)
    _, batches = read_plain(pa.py_buffer((tmp_path / "file").read_bytes()), "it")
    with pytest.raises(ValueError, match="it holds a dictionary, expected rows alone"):
        next(batches)


def test_rows_lie_where_their_file_does(folder):
    content = pa.py_buffer((folder / "train.arrow").read_bytes())
    before = pa.total_allocated_bytes()
    columns, batches = read_plain(content, "it")
    table = pa.Table.from_batches(batches, columns)
    assert pa.total_allocated_bytes() == before
    assert table.equals(ipc.open_file(content).read_all())
