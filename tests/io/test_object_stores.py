"""Files behind URIs, read from a local S3 server."""

import logging

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from recmtl.cli.main import main
from recmtl.data import DataError, prepare
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.io.location import Location, expand
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
