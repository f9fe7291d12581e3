"""CSV whose quotes follow a backslash, as Spark writes it, and rows that are longer than the header."""

import csv

import pytest

import recmtl
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources.open import open_sources
from recmtl.errors import DataError, SchemaError
from recmtl.schema.text_format import TextFormat

WORDS = ['say "hi, 3" now', "a, b", '6" pipe', "two\nlines", "back\\slash", "plain", "N", 'ends in "']
BACKSLASH = TextFormat(escape="\\")


def spark_csv(path, rows=200):
    """Write rows as Spark does: quotes and backslashes within quoted values follow a backslash, nulls are ``\\N``."""
    with open(path, "w", newline="") as file:
        out = csv.writer(file, escapechar="\\", doublequote=False, lineterminator="\n")
        out.writerow(["title", "x", "click"])
        out.writerows([WORDS[i % len(WORDS)], i % 13, i % 2] for i in range(rows - 1))
        file.write("\\N,\\N,1\n")
    return path


@pytest.mark.parametrize("part", [64, 1 << 10, 1 << 22])
def test_values(tmp_path, monkeypatch, part):
    """At any size of parts: a null word and an escaped quote may lie across two of them."""
    monkeypatch.setattr(csv_source, "PART_BYTES", part)
    (source,) = open_sources(spark_csv(tmp_path / "a.csv"), text=BACKSLASH)
    rows = [row for batch in source.batches(["title", "x"], frozenset({"x"})) for row in batch.to_pylist()]
    assert rows == [{"title": WORDS[i % 8], "x": i % 13} for i in range(199)] + [{"title": None, "x": None}]


def test_inference_and_preparation(tmp_path):
    path = spark_csv(tmp_path / "a.csv")
    schema = recmtl.Schema.infer(path, ["click"], escape="\\", kinds={"title": "categorical"})
    assert recmtl.Schema.from_dict(schema.to_dict()) == schema
    prepared = recmtl.prepare(schema, path, holdout=0)
    assert len(prepared.train) == 200
    assert set(prepared.schema.vocabularies["title"].to_pylist()) == set(WORDS)
    assert recmtl.describe(path, schema).notes == recmtl.describe(path, schema, bad_rows="skip").notes


def test_without_the_option_the_file_is_said_to_have_such_quotes(tmp_path):
    (tmp_path / "a.csv").write_text("title,x,click\n" + '"say \\"hi, 3\\" now",3,1\n"say \\"hi, 4\\" now",4,0\n' * 20)
    say = r"line 2: 4 columns, expected 3; the file has quotes after a backslash: say `--escape '\\'`"
    for way in (
        lambda: recmtl.Schema.infer(tmp_path / "a.csv", ["click"]),
        lambda: recmtl.describe(tmp_path / "a.csv", labels=["click"]),
        lambda: recmtl.prepare(
            recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("click", "click")]), tmp_path / "a.csv", holdout=0
        ),
    ):
        with pytest.raises(DataError, match=say):
            way()
    (tmp_path / "b.csv").write_text("title,x,click\n" + '"6\\" pipe",3,1\n"a, b",4,0\n' * 20)
    (source,) = open_sources(tmp_path / "b.csv")
    list(source.batches(["title"], frozenset()))
    assert source.notes == (
        f"{tmp_path}/b.csv has quotes after a backslash: "
        r"""say `--escape '\'` (on a card `escape: "\\"`) if it escapes them""",
    )


def test_row_names_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("x\tg\tclick\n" + "".join(f"{i + 1}\t{i % 7}\ta\t{i % 2}\n" for i in range(50)))
    for way in (recmtl.Schema.infer, lambda data, labels: recmtl.describe(data, labels=labels)):
        with pytest.raises(DataError, match=r"line 2: 4 columns, expected 3; .*R's `write.table`.*`row.names = FALSE`"):
            way(tmp_path / "a.csv", ["click"])


@pytest.mark.parametrize("escape", ["", '"', "ab", "ü", 3])
def test_bad_option(escape):
    with pytest.raises(SchemaError, match="`escape`"):
        TextFormat(escape=escape)
