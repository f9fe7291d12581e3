"""The raw layout gives the same rows as the processed layout."""

import json
import re
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.data import DataError
from recmtl.data.raw import open_raw
from recmtl.data.raw.aliexpress import join_items
from recmtl.data.raw.aliexpress_layout import ITEM_COLUMNS, PROCESSED_COLUMNS, USER_COLUMNS
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources.csv import CsvSource
from recmtl.data.synthetic.generate import synthesize
from recmtl.io.location import Location
from recmtl.schema.text_format import TextFormat

ITEM_CATEGORICAL = (19, 34, 35, 36, 40, 41, 42)  # columns, from 1
NUMBERS = frozenset({*(f"numerical_{i}" for i in range(1, 64)), "click", "conversion"})
FILES = ("user_train", "item_train", "user_test", "item_test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return a folder with the rows of the fixture `csv` in the raw layout."""
    folder = tmp_path_factory.mktemp("raw")
    synthesize(folder, 3000, seed=1, click_rate=0.2, conversion_rate=0.3, layout="raw")
    return folder


@pytest.fixture(scope="module")
def processed(csv, tmp_path_factory):
    """Return the same rows prepared from the processed layout, validation rows after training rows."""
    both = tmp_path_factory.mktemp("both") / "train.csv"
    both.write_text((csv / "train.csv").read_text() + (csv / "valid.csv").read_text().partition("\n")[2])
    return recmtl.prepare(recmtl.card("aliexpress"), both, test=csv / "test.csv")


def prepared(location, country="NL"):
    with open_raw("aliexpress", location, country) as given:
        return recmtl.prepare(recmtl.card("aliexpress"), **given)


def same(data, other):
    """Return whether two datasets hold bit-equal rows."""
    assert data.schema.fingerprint == other.schema.fingerprint
    assert data.splits.keys() == other.splits.keys() == {"train", "valid", "test"}
    return all(rows.table.equals(other.splits[name].table) for name, rows in data.splits.items())


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(raw, name="{}.csv"):
    return {name.format(file): (raw / f"{file}.csv").read_bytes() for file in FILES}


def user_line(search, **given):
    """Return a row of the user file whose column k (from 1) is k, except the search id and the given columns."""
    return ",".join([search, *(given.get(f"c{k}", str(k)) for k in range(2, 34))])


def item_line(search, label="0", **given):
    return ",".join([search, *(given.get(f"c{k}", str(k)) for k in range(2, 49)), label])


def source(folder, users, items):
    (folder / "user.csv").write_text("".join(f"{line}\n" for line in users))
    (folder / "item.csv").write_text("".join(f"{line}\n" for line in items))
    user, item = (Location.of(folder / f"{side}.csv") for side in ("user", "item"))
    return join_items(CsvSource(user, TextFormat(",", USER_COLUMNS)), CsvSource(item, TextFormat(",", ITEM_COLUMNS)))


def read(opened, columns=PROCESSED_COLUMNS):
    return [row for batch in opened.batches(columns, NUMBERS) for row in batch.to_pylist()]


def error(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def converted(opened):
    return recmtl.prepare(recmtl.card("aliexpress"), opened, holdout=0.0)


class TestJoin:
    def test_every_column_by_hand(self, tmp_path):
        (row,) = read(source(tmp_path, [user_line("7")], [item_line("7", "2")]))
        expected = {"search_id": 7, "click": 1.0, "conversion": 1.0}
        categorical = [*range(2, 9), 32, 33, *ITEM_CATEGORICAL]
        expected |= {f"categorical_{i}": k for i, k in enumerate(categorical, start=1)}
        numerical = [*range(9, 32), *(k for k in range(2, 49) if k not in ITEM_CATEGORICAL)]
        expected |= {f"numerical_{i}": float(k) for i, k in enumerate(numerical, start=1)}
        assert row == expected
        assert tuple(row) == PROCESSED_COLUMNS

    def test_labels(self, tmp_path):
        items = [item_line("7", label) for label in ("0", "1", "2", "")]
        rows = read(source(tmp_path, [user_line("7")], items), ["conversion", "click"])
        assert [(row["click"], row["conversion"]) for row in rows[:3]] == [(0, 0), (1, 0), (1, 1)]
        assert rows[3] == {"conversion": None, "click": None}

    @pytest.mark.parametrize("block", [1 << 22, 1 << 10])
    def test_equals_a_join_by_pandas(self, raw, monkeypatch, block):
        monkeypatch.setattr(csv_source, "PART_BYTES", block)
        users = pd.read_csv(raw / "user_test.csv", header=None, names=USER_COLUMNS)
        items = pd.read_csv(raw / "item_test.csv", header=None, names=ITEM_COLUMNS)
        joined = items.merge(users, on="search_id", how="left").assign(
            click=lambda f: (f.label > 0) * 1.0, conversion=lambda f: (f.label == 2) * 1.0
        )
        with open_raw("aliexpress", raw, "NL") as given:
            rows = pd.DataFrame(read(given["test"]))
        assert len(rows) == 300
        for column in PROCESSED_COLUMNS:
            np.testing.assert_array_equal(rows[column].astype(float), joined[column].astype(float), err_msg=column)

    @pytest.mark.parametrize(
        "columns", [["numerical_1"], ["categorical_10", "categorical_1"], ["search_id"], ["click"]]
    )
    def test_selected_columns(self, tmp_path, columns):
        opened = source(tmp_path, [user_line("7"), user_line("8")], [item_line("8"), item_line("7")])
        (batch,) = opened.batches(columns, NUMBERS)
        assert batch.schema.names == columns
        for _ in range(2):  # any number of times
            assert [row[columns[0]] for row in read(opened)] == batch.column(0).to_pylist()

    def test_search_ids_are_text(self, tmp_path):
        large = str(2**63 + 1), str(2**63 + 2), "-4", "a b"
        users = [user_line(search, c2=f"u{search}") for search in large]
        rows = read(source(tmp_path, users, [item_line(search) for search in reversed(large)]))
        assert [(row["search_id"], row["categorical_1"]) for row in rows] == [(s, f"u{s}") for s in reversed(large)]

    def test_search_ids_are_normalized(self, tmp_path):
        rows = read(source(tmp_path, [user_line("7.0", c2="u")], [item_line("7")]))
        assert [row["categorical_1"] for row in rows] == ["u"]

    def test_text_ids_join(self, tmp_path):
        opened = source(tmp_path, [user_line("x7")], [item_line("x8"), item_line("x7")])
        assert [row["search_id"] for row in read(opened)] == ["x7"]
        assert opened.unmatched == [1]

    def test_items_without_a_user_are_counted(self, tmp_path):
        items = [item_line(search) for search in ("8", "7", "", "9", "7", "8")]
        opened = source(tmp_path, [user_line("7"), user_line("")], items)
        for _ in range(2):
            assert len(read(opened)) == 2
            assert opened.unmatched == [4]
        data = converted(opened)
        left_out = f"4 of 6 rows of {tmp_path}/item.csv are left out: {tmp_path}/user.csv has no such search_id"
        assert data.notes[-1] == left_out

    def test_repeated_user(self, tmp_path):
        opened = source(tmp_path, [user_line("7"), user_line("8"), user_line("7")], [item_line("7")])
        assert len(read(opened)) == 1
        opened = source(tmp_path, [user_line("7"), user_line("8"), user_line("7", c9="0")], [item_line("7")])
        place = f"{tmp_path}/user.csv, line 3: search_id '7' has other values in an earlier line"
        assert error(read, opened).startswith(place)


class TestFaults:
    def test_errors_contain_file_and_line(self, tmp_path):
        users = [user_line("6"), user_line("7", c9="inf"), user_line("8")]
        items = [item_line("9"), item_line("8"), item_line("8", "3"), item_line("7")]
        message, more = error(converted, source(tmp_path, users, items)), ": at least 1 row has an infinite one; "
        label = "column 'label': '3' is not 0 (shown), 1 (clicked) or 2 (bought)"
        number = "column 'numerical_1': inf is not a finite number"
        assert message.partition(more)[0] in (
            f"{tmp_path}/item.csv, line 3, {label}",
            f"{tmp_path}/user.csv, line 2, {number}",
        )
        assert number in error(converted, source(tmp_path, users, items[:2] + items[3:]))
        users[1] = user_line("7")
        assert label in error(converted, source(tmp_path, users, items))
        items = [item_line("9"), item_line("8"), item_line("7", c2="-inf")]
        line = f"{tmp_path}/item.csv, line 3, column 'numerical_24': -inf is not a finite number"
        assert error(converted, source(tmp_path, users, items)).partition(more)[0] == line

    @pytest.mark.parametrize(
        ("users", "items", "message"),
        [
            ([user_line("7", c9="x")], [item_line("7")], "user.csv, line 1, column 'numerical_1': 'x' is not a number"),
            ([user_line("7")], [item_line("7", "x")], "item.csv, line 1, column 'label': 'x' is not 0 (shown), 1 (c"),
            ([user_line("7")], [item_line("7"), "7,1"], "item.csv, line 2: 2 columns, expected 49"),
            ([item_line("7")], [item_line("7")], "user.csv, line 1: 49 columns, expected 33"),
            ([], [item_line("7")], "there are no rows in {}/user.csv"),
            ([user_line("7")], [], "there are no rows in {}/item.csv"),
            ([user_line("7")], [item_line("8")], "no search_id of {}/item.csv is in {}/user.csv"),
        ],
    )
    def test_invalid_files(self, tmp_path, users, items, message):
        assert message.replace("{}", str(tmp_path)) in error(converted, source(tmp_path, users, items))

    def test_place(self, tmp_path):
        opened = source(tmp_path, [user_line("7")], [item_line("8"), "", item_line("7"), item_line("7")])
        assert opened.place(1) == f"{tmp_path}/item.csv, line 4"


class TestSameRows:
    def test_folder(self, raw, processed):
        assert same(prepared(raw), processed)

    def test_user_file_in_another_order(self, raw, processed, tmp_path):
        for name, content in contents(raw).items():
            lines = content.decode().splitlines(keepends=True)
            if "user" in name:
                np.random.default_rng(0).shuffle(lines)
            (tmp_path / name).write_text("".join(lines))
        assert same(prepared(tmp_path), processed)

    @pytest.mark.parametrize("name", ["{}.csv", "AliExpress_NL/{}.csv", "data.d/{}.csv", "NL.zipped/{}.csv"])
    def test_zip(self, raw, processed, tmp_path, name):
        hidden = {f"__MACOSX/._{file}.csv": b"" for file in FILES}
        path = zipped(tmp_path / "all.zip", contents(raw, name) | hidden)
        assert same(prepared(path), processed)

    def test_zip_in_zip(self, raw, processed, tmp_path):
        country = zipped(tmp_path / "x", contents(raw, "data/{}.csv")).read_bytes()
        path = zipped(tmp_path / "all.zip", {"a/AliExpress_NL.zip": country, "a/AliExpress_FR.zip": b"not opened"})
        assert same(prepared(path), processed)
        (tmp_path / "folder").mkdir()
        path.rename(tmp_path / "folder" / "all.ZIP")
        assert same(prepared(tmp_path / "folder"), processed)

    def test_zip_for_each_split(self, raw, processed, tmp_path):
        files = contents(raw, "{}")
        for split in ("train", "test"):
            parts = {f"{side}.csv": files[f"{side}_{split}"] for side in ("user", "item")}
            zipped(tmp_path / f"{split}.zip", parts)
        assert same(prepared(tmp_path), processed)

    def test_block_size_does_not_matter(self, raw, processed, monkeypatch):
        """Means and deviations are summed in another order; everything else is equal."""
        monkeypatch.setattr(csv_source, "PART_BYTES", 1 << 12)
        blocks = prepared(raw)
        for name, rows in processed.splits.items():
            for column in rows.table.schema.names:
                first, second = (np.array(r.table.column(column).to_pylist()) for r in (rows, blocks.splits[name]))
                np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-9, err_msg=column)


class TestFinding:
    @pytest.mark.parametrize(
        "name",
        [
            "AliExpress_NL/{split}/{side}_nl_{split}.csv",
            "nl_{side}_{split}.csv",
            "{split}-{side}s-NL.txt",
            "{Side}{Split}NL",
            "user_and_item_files/train_and_test/{SPLIT}/{SIDE}.CSV",
        ],
    )
    @pytest.mark.parametrize(("user", "item"), [("user", "item"), ("usr", "itm"), ("user", "impression")])
    def test_names(self, raw, tmp_path, name, user, item):
        for split in ("train", "test"):
            for side, word in (("user", user), ("item", item)):
                words = {"split": split, "side": word, "Side": word.title(), "Split": split.title()}
                path = tmp_path / name.format(**words, SIDE=word.upper(), SPLIT=split.upper())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((raw / f"{side}_{split}.csv").read_bytes())
        with open_raw("aliexpress", tmp_path, "nl") as given:
            assert [len(read(given[split], ["search_id"])) for split in ("train", "test")] == [2700, 300]

    def test_country(self, tmp_path):
        for country in ("NL", "FR"):
            for file in FILES:
                (tmp_path / f"{country}_{file}.csv").write_text("")
        with open_raw("aliexpress", tmp_path, "FR") as given:
            assert given["train"].name == f"{tmp_path}/FR_item_train.csv"
        message = error(prepared, tmp_path, "ES")
        assert message.startswith(f"expected one user file for train of ES in '{tmp_path}', found none among ")
        assert "'FR_item_test.csv', 'FR_item_train.csv'" in message
        assert error(prepared, tmp_path, "DE") == "`part` of aliexpress must be one of NL, ES, FR, US, RU, got 'DE'"
        (tmp_path / "user_train.csv").write_text("")
        expected = f"for train of NL in '{tmp_path}', found 2: 'NL_user_train.csv', 'user_train.csv'"
        assert expected in error(prepared, tmp_path)

    def test_country_in_the_name_of_the_folder(self, raw):
        folder = raw.parent / "AliExpress_FR"
        if not folder.exists():
            folder.symlink_to(raw)
        with open_raw("aliexpress", raw, "FR"), open_raw("aliexpress", raw / ".." / raw.name, "US"):
            pass
        zipped(raw.parent / "AliExpress_ES.zip", contents(raw))
        assert "of NL" in error(prepared, raw.parent / "AliExpress_ES.zip")

    def test_long_lists_of_files_are_shortened(self, tmp_path):
        for i in range(20):
            (tmp_path / f"{i:02}.csv").write_text("")
        assert "'11.csv' and 8 more" in error(prepared, tmp_path)

    def test_missing_files(self, tmp_path):
        missing = error(prepared, tmp_path / "gone.zip")
        assert missing.startswith(
            f"there is no folder or zip '{tmp_path}/gone.zip': get AliExpress from https://tianchi"
        )
        assert "found none among no files; get AliExpress" in error(prepared, tmp_path)
        (tmp_path / "a.csv").write_text("x")
        assert "neither a folder nor a zip" in error(prepared, tmp_path / "a.csv")


class TestDamagedZips:
    def test_encrypted(self, raw, tmp_path):
        path = zipped(tmp_path / "a.zip", contents(raw))
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(content)
        assert re.match(rf"{path}/\w+.csv cannot be read: File .* is encrypted", error(prepared, path))

    def test_damaged_zip_within(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"b.zip": bytes(5000)})
        assert error(prepared, path).startswith(f"{path}/b.zip is neither a folder nor a zip that can be read")

    def test_wrong_declared_size(self, raw, tmp_path):
        inner = zipped(tmp_path / "b.zip", contents(raw)).read_bytes()
        path = zipped(tmp_path / "a.zip", {"b.zip": inner})
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\1\2") + 24
        content[at : at + 4] = (100).to_bytes(4, "little")
        path.write_bytes(content)
        assert error(prepared, path).startswith(f"{path}/b.zip ")

    @pytest.mark.parametrize("content", [b"1", b"1,"])
    def test_endless_line(self, raw, tmp_path, content):
        path = zipped(tmp_path / "a.zip", contents(raw) | {"user_train.csv": content * (1 << 27)})
        tracemalloc.start()
        try:
            assert error(prepared, path).startswith(f"{path}/user_train.csv, line 1")
            assert tracemalloc.get_traced_memory()[1] < 1 << 27
        finally:
            tracemalloc.stop()

    def test_depth(self, raw, tmp_path):
        path = zipped(tmp_path / "0.zip", contents(raw))
        for depth in range(1, 3):
            path = zipped(tmp_path / f"{depth}.zip", {f"{depth - 1}.zip": path.read_bytes()})
        assert len(prepared(path).splits) == 3
        path = zipped(tmp_path / "3.zip", {"2.zip": path.read_bytes()})
        assert "found none among '2.zip/1.zip/0.zip'; get" in error(prepared, path)

    @pytest.mark.parametrize("file", ["user_train", "item_train"])
    def test_damaged_member(self, raw, tmp_path, file):
        path = zipped(tmp_path / "a.zip", contents(raw))
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{file}.csv")
        content = bytearray(path.read_bytes())
        middle = info.header_offset + info.compress_size // 2
        content[middle : middle + 20] = bytes(20)
        path.write_bytes(content)
        message = error(prepared, path)
        assert message.startswith(f"{path}/{file}.csv")

    @pytest.mark.parametrize("share", [0.1, 0.9])
    def test_truncated(self, raw, tmp_path, share):
        path = zipped(tmp_path / "a.zip", contents(raw))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        assert error(prepared, path).startswith(f"{path} is neither a folder nor a zip that can be read")


class TestCommands:
    def test_synth_and_prepare(self, tmp_path, capsys, csv):
        rates = ["--rows", "3000", "--seed", "1", "--click_rate", "0.2", "--conversion_rate", "0.3"]
        assert main(["synth", "--layout", "raw", "--out", f"{tmp_path}/raw", *rates]) == 0
        assert {p.stem for p in (tmp_path / "raw").iterdir()} == {*FILES, "truth"}
        truths = [json.loads((folder / "truth.json").read_text()) for folder in (tmp_path / "raw", csv)]
        assert truths[0]["test"] == truths[1]["test"]
        assert truths[0]["files"]["train"]["rows"] == 2700
        command = ["prepare", "--card", "aliexpress", "--raw", f"{tmp_path}/raw", "--part", "NL"]
        assert main([*command, "--out", f"{tmp_path}/a"]) == 0
        assert "300 test rows" in capsys.readouterr().out
        items = (tmp_path / "raw" / "item_test.csv").read_text()
        (tmp_path / "raw" / "item_test.csv").write_text(items + item_line("none") + "\n")
        assert main([*command, "--out", f"{tmp_path}/b"]) == 0
        said = capsys.readouterr()
        assert "note: 1 of 301 rows" in said.out + said.err
        assert same(recmtl.PreparedData.open(tmp_path / "a"), recmtl.PreparedData.open(tmp_path / "b"))
        assert "1 of 301 rows" in recmtl.PreparedData.open(tmp_path / "b").notes[-1]


def test_bad_items_are_skipped_and_counted(raw, tmp_path):
    item = raw / "item_train.csv"
    text = item.read_text().splitlines()
    bad = [text[0].rsplit(",", 1)[0] + ",3", "1,2,3", *text]
    files = {p.name: p.read_text() for p in item.parent.iterdir()} | {item.name: "\n".join(bad) + "\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with open_raw("aliexpress", tmp_path, "NL") as given:
        found = recmtl.prepare(recmtl.card("aliexpress"), **given, bad_rows="skip")
    with open_raw("aliexpress", raw, "NL") as given:
        expected = recmtl.prepare(recmtl.card("aliexpress"), **given)
    assert len(found.train) == len(expected.train)
    left_out = [note for note in found.notes if "left out" in note]
    assert left_out == [
        "2 bad rows were left out",
        f"left out: {tmp_path}/item_train.csv, line 1, column 'label': '3' is not 0 (shown), 1 (clicked) or 2 (bought)",
        f"left out: {tmp_path}/item_train.csv, line 2: 3 columns, expected 49",
    ]


def broken(raw, folder, file, line, change):
    """Copy the raw files with one line changed; return the path of the changed file."""
    for path in raw.glob("*.csv"):
        lines = path.read_bytes().split(b"\n")
        if path.name == file:
            lines[line - 1] = change(lines[line - 1])
        (folder / path.name).write_bytes(b"\n".join(lines))
    return f"{folder / file}, line {line}"


def items_of(raw, line):
    """Return the lines of the item file with the search of a line of the user file."""
    search = (raw / "user_train.csv").read_text().splitlines()[line - 1].partition(",")[0]
    items = (raw / "item_train.csv").read_text().splitlines()
    return [i for i, item in enumerate(items, start=1) if item.startswith(f"{search},")]


def skipping(folder):
    """Return rows and notes with bad rows skipped."""
    with open_raw("aliexpress", folder, "NL") as given:
        data = recmtl.prepare(recmtl.card("aliexpress"), **given, holdout=0.0, bad_rows="skip")
    return len(data.train), [note for note in data.notes if "left out" in note]


def rows_of(raw):
    return len((raw / "item_train.csv").read_text().splitlines())


@pytest.mark.parametrize("file", ["item_train.csv", "user_train.csv"])
def test_invalid_search_id(raw, tmp_path, file):
    place = broken(raw, tmp_path, file, 5, lambda line: b"\xff" + line)
    said = error(prepared, tmp_path)
    assert said.startswith(f"{place}, column 'search_id': ")
    assert said.endswith(" is not text in UTF-8")
    rows, notes = skipping(tmp_path)
    if file == "item_train.csv":
        assert rows == rows_of(raw) - 1
        assert notes == ["1 bad row was left out", f"left out: {said}"]
    else:
        unmatched = len(items_of(raw, 5))
        assert rows == rows_of(raw) - unmatched
        assert notes[:2] == [f"bad rows of {tmp_path / file} left out: 1", f"left out: {said}"]
        assert notes[2].startswith(f"{unmatched} of {rows_of(raw):,} rows of ")


def test_user_with_a_wrong_number_of_columns(raw, tmp_path):
    place = broken(raw, tmp_path, "user_train.csv", 5, lambda line: line[:10])
    columns = (raw / "user_train.csv").read_bytes().splitlines()[4][:10].count(b",") + 1
    said = f"{place}: {columns} columns, expected 33"
    assert error(prepared, tmp_path) == said
    unmatched = len(items_of(raw, 5))
    rows, notes = skipping(tmp_path)
    assert rows == rows_of(raw) - unmatched
    assert notes[:2] == [f"bad rows of {tmp_path / 'user_train.csv'} left out: 1", f"left out: {said}"]
    assert notes[2].startswith(f"{unmatched} of ")


def test_all_users_invalid(tmp_path):
    said = error(
        lambda opened: list(opened.batches(PROCESSED_COLUMNS, NUMBERS, lambda: None)), source(tmp_path, ["1,2"], [])
    )
    user = tmp_path / "user.csv"
    expected = f"bad rows of {user} left out: 1; left out: {user}, line 1: 2 columns, expected 33"
    assert said == f"there are no rows in {user}; {expected}"


def test_bad_value_of_a_user_is_reported_in_the_user_file(raw, tmp_path):
    place = broken(raw, tmp_path, "user_train.csv", 5, lambda line: line.rsplit(b",", 3)[0] + b",abc,1,1")
    said = error(prepared, tmp_path)
    assert said.startswith(f"{place}, column 'numerical_23': 'abc' ")
    lines = items_of(raw, 5)
    rows, notes = skipping(tmp_path)
    assert rows == rows_of(raw) - len(lines)
    assert notes[1:] == [f"left out: {tmp_path / 'item_train.csv'}, line {i}, joined from {said}" for i in lines[:5]]


def test_object_stores_are_refused_without_showing_the_password(capsys):
    place = "s3://user:hunter2@bucket/AliExpress_NL.zip?region=us-east-1"
    assert main(["prepare", "--card", "aliexpress", "--raw", place, "--part", "NL", "--out", "never"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "recmtl: 's3://bucket/AliExpress_NL.zip' is not on this machine: copy the raw files and give their folder\n"
    )


@pytest.mark.parametrize("odd", ["user", "item", "both", "neither"])
def test_search_ids_read_as_integers_and_as_text_join(tmp_path, monkeypatch, odd):
    """One id that is not an integer turns the rest of its file into text."""
    monkeypatch.setattr(csv_source, "PART_BYTES", 2000)
    users = [user_line(str(i), c2=f"u{i}") for i in range(40)] + [user_line("x", c2="ux")] * (odd in ("user", "both"))
    users += [user_line(str(i), c2=f"u{i}") for i in range(100, 140)]
    items = [item_line(str(i)) for i in (3, 120, 999, -5)] * 20 + [item_line("x")] * (odd in ("item", "both"))
    items += [item_line(str(i)) for i in (7, 139)] * 20
    opened = source(tmp_path, users, items)
    rows = read(opened)
    found = [(str(row["search_id"]), row["categorical_1"]) for row in rows]
    x = [("x", "ux")] if odd == "both" else []
    assert found == [("3", "u3"), ("120", "u120")] * 20 + x + [("7", "u7"), ("139", "u139")] * 20
    assert opened.unmatched == [40 + (odd == "item")]
