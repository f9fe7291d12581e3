"""Text is parsed once; later passes read the parsed rows."""

from pathlib import Path

import pyarrow as pa
import pytest

import recmtl
from recmtl.data import DataError
from recmtl.data.sources.base import ParsedSpool
from recmtl.data.sources.csv import CsvSource
from recmtl.data.sources.open import open_sources
from recmtl.schema.serialization import FITTED_FILES

COLUMNS, NUMBERS = ("search_id", "categorical_10", "numerical_52", "click"), frozenset({"numerical_52", "click"})


def test_later_readings_equal_the_first(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsings: list[str] = []
    parse = CsvSource._blocks
    monkeypatch.setattr(
        CsvSource, "_blocks", lambda self, *options: parsings.append(self.name) or parse(self, *options)
    )
    monkeypatch.setattr("recmtl.data.sources.csv.PART_BYTES", 1 << 16)  # several blocks
    (source,) = open_sources(csv / "train.csv")
    spooled = ParsedSpool(source, tmp_path)
    expected = pa.Table.from_batches(source.batches(COLUMNS, NUMBERS)).to_pylist()
    next(spooled.batches(COLUMNS, NUMBERS))  # an incomplete reading does not count
    readings = [list(spooled.batches(COLUMNS, NUMBERS)) for _ in range(3)]
    assert len(parsings) == 3
    assert len(readings[0]) > 3
    assert all([row for batch in reading for row in batch.to_pylist()] == expected for reading in readings)


def test_spool_is_removed_from_a_prepared_folder(csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", out=out)
    names = {"manifest.json", *FITTED_FILES, "train-00000.arrow", "valid-00000.arrow"}
    assert {path.name for path in out.iterdir()} == names


def test_errors_name_the_source(csv: Path, tmp_path: Path) -> None:
    lines = (csv / "train.csv").read_text().splitlines(keepends=True)
    cells = lines[40].split(",")
    lines[40] = ",".join([*cells[:-2], "2", cells[-1]])  # a click of 2
    (tmp_path / "bad.csv").write_text("".join(lines))
    with pytest.raises(DataError, match=r"bad.csv, line 41, column 'click': '2' is not a binary label"):
        recmtl.prepare(recmtl.card("aliexpress"), tmp_path / "bad.csv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_write_error_is_not_reported_as_a_bad_file(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recmtl.data.sources.base.ipc.new_stream", full)
    with pytest.raises(DataError, match=r"the parsed rows of .*train.csv cannot be written: No space left on device$"):
        recmtl.prepare(recmtl.card("aliexpress"), csv / "train.csv", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
