"""Files behind URIs, read from a local S3 server and written to it."""

import logging
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

import recmtl
from recmtl.cli.main import main
from recmtl.data import DataError, prepare
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.io.location import Location, expand
from recmtl.io.output import new_output, upload
from recmtl.schema import Categorical, Numeric, Schema, Task

FRAME = pd.DataFrame({"c": list("abcd") * 10, "x": [i / 4 for i in range(40)], "y": [0, 1, 1, 0] * 10})
SCHEMA = Schema([Categorical("c"), Numeric("x")], [Task("t", "y")])


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(endpoint, monkeypatch):
    """Fill a bucket with the rows in all formats, and return the options of its URIs."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = f"endpoint_override={endpoint}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    filesystem, _ = fs.FileSystem.from_uri(f"s3://rows?{options}")
    filesystem.create_dir("rows")
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    for name in ("all/a.csv", "all/a.csv.gz", "all/a.csv.zst", "parts/1.csv", "parts/2.csv", "parts/_SUCCESS"):
        rows = {"parts/1.csv": FRAME[:17], "parts/2.csv": FRAME[17:]}.get(name, FRAME)
        with filesystem.open_output_stream(f"rows/{name}", compression="detect") as stream:
            stream.write(rows.to_csv(index=False).encode())
    pq.write_table(table, "rows/all/a.parquet", filesystem=filesystem)
    with filesystem.open_output_stream("rows/all/a.arrow") as stream:
        pyarrow.feather.write_feather(table, stream)
    return options


def content(data):
    return {name: rows.packed().tolist() for name, rows in data.splits.items()}, data.schema.fingerprint


def names(place):
    return [location.name for location in expand(place)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.parquet", "a.arrow"])
def test_every_format(store, name):
    assert content(prepare(SCHEMA, f"s3://rows/all/{name}?{store}")) == content(prepare(SCHEMA, FRAME))


@pytest.mark.parametrize("place", ["parts", "parts/", "parts/*.csv", "*/[12].csv", "**/[12]*", "p*s/*"])
def test_globs_and_folders(store, place):
    assert names(f"s3://rows/{place}?{store}") == ["s3://rows/parts/1.csv", "s3://rows/parts/2.csv"]
    assert len(prepare(SCHEMA, f"s3://rows/{place}?{store}", holdout=0).train) == 40


def test_the_endpoint_of_the_environment(store, endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert names("s3://rows/parts") == ["s3://rows/parts/1.csv", "s3://rows/parts/2.csv"]


def test_a_schema_is_inferred(store):
    for name in ("a.csv.gz", "a.parquet"):
        schema = Schema.infer(f"s3://rows/all/{name}?{store}", [Task("t", "y")])
        assert schema.features == (Categorical("c", min_count=2), Numeric("x"))


def test_the_cache_is_keyed_by_content(store, tmp_path):
    (tmp_path / "rows.csv").write_text(FRAME.to_csv(index=False))
    for place in (f"s3://rows/all/a.csv?{store}", str(tmp_path / "rows.csv")):
        prepare_cached(SCHEMA, place, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_errors_name_the_file_but_no_credentials(store):
    secret = f"s3://user:hunter2@rows/all/%s?{store}"
    unread = "cannot be read: Un"
    for place, said in {
        secret % "gone.csv": "there is no file 's3://rows/all/gone.csv'",
        secret % "*.txt": "there is no file 's3://rows/all/*.txt'",
        secret % "a.csv" + "&nope=1": f"s3://rows/all/a.csv {unread}expected query parameter in S3 URI: 'nope'",
        "nope://u:hunter2@rows/a": f"nope://rows/a {unread}recognized filesystem type in URI: nope://rows/a",
    }.items():
        with pytest.raises(DataError) as caught:
            prepare(SCHEMA, place)
        assert str(caught.value) == said
    with pytest.raises(DataError, match=r"there is no file 's3://rows/all/gone\.csv'") as refused:
        Schema.infer(secret % "gone.csv", [Task("t", "y")])
    assert "hunter2" not in str(refused.value)
    with pytest.raises(DataError, match=r"^s3://rows/all/a.csv, line 2, column 'c': 'a' is not a number$"):
        prepare(Schema([Numeric("c")], [Task("t", "y")]), f"s3://rows/all/a.csv?{store}", holdout=0)


def test_a_store_that_does_not_answer(store):
    down = store.replace(store.partition("&")[0].rpartition(":")[2], "9")
    with pytest.raises(DataError, match=r"^s3://rows/a\.csv cannot be read: "):
        prepare(SCHEMA, f"s3://rows/a.csv?{down}&connect_timeout=1")


@pytest.mark.parametrize(
    ("place", "path", "name"),
    [
        ("file:///a/b%20c.csv", "/a/b c.csv", "file:///a/b c.csv"),
        ("file:///a#1.csv", "/a#1.csv", "file:///a#1.csv"),
        ("a//b.csv", "a/b.csv", "a/b.csv"),
    ],
)
def test_names(place, path, name):
    location = Location.of(place)
    assert (location.path, location.name, location.on_disk) == (path, name, True)


def test_a_description_shows_no_credentials(store, capsys):
    assert main(["describe", f"s3://rows/all/a.csv?{store}&tls_ca_dir_path=hunter2", "--label", "y"]) == 0
    said = capsys.readouterr()
    assert "s3://rows/all/a.csv: columns" in said.out
    assert "hunter2" not in said.out + said.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    rows = folder.with_name("rows.csv")
    FRAME.to_csv(rows, index=False)
    quick = ["--trainer.epochs", "1", "--model.layers", "[4]", "--trainer.run.progress", "false"]
    assert main(["train", "--data.train", str(rows), "--label", "y", "--run", str(folder), *quick]) == 0
    return folder


def keys(options, folder="out"):
    selector = fs.FileSelector(f"rows/{folder}", allow_not_found=True, recursive=True)
    filesystem, _ = fs.FileSystem.from_uri(f"s3://rows?{options}")
    return [info.path for info in filesystem.get_file_info(selector) if info.is_file]


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.arrow"])
def test_predictions_are_written_whole(store, run, tmp_path, name, capsys):
    rows = f"s3://rows/all/a.csv?{store}"
    out = f"s3://rows/out/{name}"
    assert main(["predict", str(run), "--rows", rows, "--out", f"{out}?{store}"]) == 0
    said = capsys.readouterr().out
    assert f"40 predictions in {out}" in said
    assert "endpoint" not in said
    assert main(["predict", str(run), "--rows", rows, "--out", str(tmp_path / name)]) == 0
    schema = recmtl.load_run(run).model.schema.schema
    there, here = (recmtl.Predictions.read(schema, place) for place in (f"{out}?{store}", tmp_path / name))
    assert there.table().equals(here.table())
    assert main(["predict", str(run), "--rows", rows, "--out", f"{out}?{store}"]) == 2
    assert f"{out!r} exists already: give `--out` another name" in capsys.readouterr().err


def test_rows_that_fail_leave_no_object(store, run, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("c,x,y\na,1,0\nb,oops,1\n")
    command = ["predict", str(run), "--rows", str(tmp_path / "bad.csv"), "--out", f"s3://rows/failed/p.csv?{store}"]
    assert main(command) == 2
    assert "'oops' is not a number" in capsys.readouterr().err
    assert keys(store, "failed") == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://nowhere/p.csv", "'s3://nowhere/p.csv' cannot be written: there is no bucket 'nowhere'"),
        ("s3://p.csv", "'s3://p.csv' names no file to write"),
        ("s3://rows/parts.csv/", "'s3://rows/parts.csv/' names no file to write"),
        ("s3://user:hunter2@rows/p", "'s3://rows/p' names no format"),
        ("nope://user:hunter2@rows/p.csv", "'nope://rows/p.csv' cannot be written: Un"),
    ],
)
def test_places_that_cannot_be_written(store, run, place, said, capsys):
    assert main(["predict", str(run), "--rows", "no.csv", "--out", f"{place}?{store}"]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "hunter2" not in found


def test_reports_and_cards_are_written_to_a_store(store, run, capsys):
    page, card = (f"s3://rows/pages/{name}?{store}" for name in ("r.html", "c.yaml"))
    for _ in range(2):  # the second report takes the place of the first
        assert main(["report", str(run), "--draws", "0", "--out", page]) == 0
    assert main(["report", str(run), "--draws", "0", "--out", f"s3://rows/all/a.csv?{store}"]) == 2
    assert "'s3://rows/all/a.csv' exists already and is no report" in capsys.readouterr().err
    assert main(["describe", f"s3://rows/all/a.csv?{store}", "--label", "y", "--out", card]) == 0
    assert keys(store, "pages") == ["rows/pages/c.yaml", "rows/pages/r.html"]
    with Location.of(card).stream() as stream:
        assert stream.read().startswith(b"# Inferred from s3://rows/all/a.csv:")


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--train", "rows.csv", "--label", "y", "--out"],
        ["synth", "--out"],
        ["demo", "--out"],
        ["train", "--data.train", "rows.csv", "--label", "y", "--run"],
        ["compare", "--models", "MMOE", "--data.train", "rows.csv", "--label", "y", "--out"],
        ["train", "--data.train", "rows.csv", "--label", "y", "--run", "run", "--data.cache"],
        ["evaluate", "--rows", "no.csv"],
        ["report"],
    ],
    ids=lambda command: " ".join(command[:1] + command[-1:]),
)
def test_folders_are_on_disk(tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("rows.csv", index=False)
    assert main([*command, "s3://user:hunter2@rows/x/y?region=hunter2"]) == 2
    found = capsys.readouterr().err
    assert "'s3://rows/x/y' is not on this machine: give a folder on its disk, and copy it" in found
    assert "hunter2" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_file_uri_is_a_file(tmp_path):
    with new_output(f"file://{tmp_path}/a%20b/p.txt") as file:
        file.write_text("whole")
        assert [path.name for path in (tmp_path / "a b").iterdir()] == [file.name]
    assert (tmp_path / "a b/p.txt").read_text() == "whole"


def test_a_store_without_uploads_gets_a_file_that_is_moved(tmp_path):
    (tmp_path / "spool").write_text("whole")
    location = Location("new/folder/p.txt", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "store://")
    upload(tmp_path / "spool", location)
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["p.txt"]
    (tmp_path / "spool").write_text("another")
    (tmp_path / "new/folder/q.txt").mkdir()
    with pytest.raises(DataError, match=r"^'store://new/folder/q\.txt' cannot be written: "):
        upload(tmp_path / "spool", Location("new/folder/q.txt", location.filesystem, "store://"))
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == ["p.txt", "q.txt"]
    assert Path(tmp_path / "new/folder/p.txt").read_text() == "whole"
