"""Every reader: rows in its site's layout become rows of its cards; what is missing is one sentence."""

import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.data import DataError
from recmtl.data.raw import READERS, find_reader, open_raw
from recmtl.data.raw.columns import AtLeast, Between, Flag, HashShare
from recmtl.data.sources import csv as csv_source
from tests.data.raw.layouts import LAYOUTS, ROWS

CARDS = [card for reader in READERS.values() for card in reader.cards]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return the folder and part of each layout, written once."""
    written = {}

    def of(card):
        if card not in written:
            folder = tmp_path_factory.mktemp(card)
            written[card] = folder, LAYOUTS[card](folder, np.random.default_rng(7))
        return written[card]

    return of


def prepared(card, folder, part, **options):
    with open_raw(card, folder, part) as given:
        return recmtl.prepare(recmtl.card(card), **given, **options)


def frame(source, columns=None, numbers=()):
    columns = list(columns or source.columns)
    batches = source.batches(columns, frozenset(numbers))
    return pd.concat([batch.to_pandas() for batch in batches], ignore_index=True)


def listed(column):
    return [None if value is None or value != value else value for value in column]


def test_every_layout_is_generated():
    assert [*LAYOUTS] == CARDS


@pytest.mark.parametrize("card", CARDS)
def test_rows_of_the_layout_can_be_trained_on(raw, card):
    folder, part = raw(card)
    data = prepared(card, folder, part)
    assert {"train", "test"} <= data.splits.keys()
    assert all(len(rows) for rows in data.splits.values())
    for rows in (data.train, data.test):
        for label, values in rows.labels.items():
            if label in data.schema.schema.binary_labels:
                assert set(np.unique(values)) == {0.0, 1.0}, label
    assert prepared(card, folder, part).fingerprint == data.fingerprint


@pytest.mark.parametrize("card", CARDS)
def test_a_zip_of_the_folder_gives_the_same_rows(raw, card, tmp_path):
    folder, part = raw(card)
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    assert prepared(card, path, part).fingerprint == prepared(card, folder, part).fingerprint


@pytest.mark.parametrize("card", CARDS)
def test_the_card_says_where_it_comes_from(card):
    reader, text = find_reader(card), " ".join(recmtl.card(card).description.split())
    assert reader.site.split(" ")[0] in text
    assert "Licence:" in text
    assert "test is" in text.replace("Test:", "test is")


@pytest.mark.parametrize("card", CARDS)
def test_a_missing_file_is_one_sentence(raw, card, tmp_path):
    _, part = raw(card)
    reader = find_reader(card)
    for place in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError) as caught, open_raw(card, place, part):
            pass
        assert "\n" not in str(caught.value)
        assert reader.advice in str(caught.value)


def test_parts_and_names():
    with (
        pytest.raises(DataError, match=r"`part` of kuairand must be one of 1K, Pure, got None"),
        open_raw("kuairand", ""),
    ):
        pass
    with pytest.raises(DataError, match="`part` of kuairec must be left out, got 'NL'"), open_raw("kuairec", "", "NL"):
        pass
    with pytest.raises(DataError, match=r"no layout of raw files 'kuairad'; did you mean `?'?kuairand"):
        find_reader("kuairad")


class TestColumns:
    def test_kuairand_joins_as_pandas_does(self, raw):
        folder, part = raw("kuairand")
        data = folder / "KuaiRand-Pure" / "data"
        log = pd.read_csv(data / "log_standard_4_22_to_5_08_pure.csv")
        log = log[log["date"] >= 20220507]
        for name, key in (("user_features_pure", "user_id"), ("video_features_basic_pure", "video_id")):
            log = log.merge(pd.read_csv(data / f"{name}.csv"), how="left", on=key)
        with open_raw("kuairand", folder, part) as given:
            found = frame(given["test"])
            assert set(found["date"]) == {20220507, 20220508}
            assert set(frame(given["valid"], ["date"])["date"]) == {20220505, 20220506}
            train = pd.concat([frame(source, ["date"]) for source in given["train"]])
            assert train["date"].max() == 20220504
            lacking = int(log["author_id"].isna().sum())
            assert lacking
            assert given["test"].notes[0].startswith(f"{lacking} of {len(log)} rows of ")
        for column in ("user_id", "video_id", "author_id", "onehot_feat3", "tag", "time_ms"):
            pd.testing.assert_series_equal(found[column], log[column].reset_index(drop=True), check_dtype=False)

    def test_kuairec(self, raw):
        folder, _ = raw("kuairec")
        with open_raw("kuairec", folder) as given:
            found = frame(given["train"], ["watch_ratio", "like", "feat", "video_id"], ["watch_ratio", "like"])
        assert (found["like"] == (found["watch_ratio"] > 2)).all()
        assert found["feat"].tolist() == [["[8]", "[27, 9]", "[9]"][v % 3] for v in found["video_id"]]

    def test_aliccp(self, raw):
        folder, _ = raw("aliccp")
        with open_raw("aliccp", folder) as given:
            found = frame(given["train"], ["205", "210", "101", "122", "109_14", "click", "buy"])
            skeleton = pd.read_csv(folder / "sample_skeleton_train.csv", header=None)
            assert len(found) == ROWS - int(((skeleton[1] == 0) & (skeleton[2] == 1)).sum()) < ROWS
            assert given["train"].notes == ()
        place = skeleton.index[~((skeleton[1] == 0) & (skeleton[2] == 1))]
        assert found["205"].astype(str).tolist() == [str(9_000_000_000_000_000_001 + i % 7) for i in place]  # exactly
        assert found["101"].tolist() == [(i % 20) * 10 for i in place]
        lists = {0: None, 1: "0", 2: "0|1"}
        assert listed(found["210"]) == [lists[i % 3] for i in place]
        assert listed(found["109_14"]) == [lists[i % 20 % 3] for i in place]
        assert found["122"].isna().all()

    def test_aliccp_says_where_features_do_not_parse(self, raw, tmp_path):
        folder, _ = raw("aliccp")
        for path in folder.iterdir():
            lines = path.read_text().splitlines(keepends=True)
            if path.name == "sample_skeleton_train.csv":
                lines[4] = "4,0,0,bacff91692951000,1,205=7\n"
                lines[1] = "1,0,0,bacff91692951001,2,205\x027\x031.0\x01205\x028\x031.0\n"
            (tmp_path / path.name).write_text("".join(lines))
        with open_raw("aliccp", tmp_path) as given:
            with pytest.raises(DataError, match=r"sample_skeleton_train.csv, line 5, column 'features': '205=7'"):
                frame(given["train"], ["205"])
            (first, second, *_) = frame(given["test"], ["205"])["205"].astype(str)
            assert first != second

    def test_movielens_1m(self, raw):
        folder, _ = raw("movielens_1m")
        with open_raw("movielens_1m", folder) as given:
            names = ["user_id", "movie_id", "rating", "timestamp", "like", "zip_code", "year", "genres"]
            parts = {name: frame(source, names, ["rating", "like"]) for name, source in given.items()}
        train, valid, test = parts["train"], parts["valid"], parts["test"]
        assert len(train) + len(valid) + len(test) == ROWS
        for earlier, later in ((train, valid), (valid, test)):
            assert earlier["timestamp"].max() // 86_400 < later["timestamp"].min() // 86_400
            assert 0.1 <= len(later) / ROWS < 0.1 + 5 / ROWS  # a day has at most five ratings
        assert (train["like"] == (train["rating"] >= 4)).all()
        years = {1: "1977", 2: "1995", 3: "1999", 4: "1950", 5: "1951"}
        assert listed(train["year"]) == [years.get(m) for m in train["movie_id"]]
        assert train["zip_code"].tolist() == [f"{user:05}" for user in train["user_id"]]  # text, with zeros

    def test_movielens_csv(self, raw):
        folder, _ = raw("movielens")
        with open_raw("movielens", folder) as given:
            found = frame(given["train"], ["user_id", "movie_id", "year", "genres"])
        by_movie = found.drop_duplicates("movie_id").set_index("movie_id")
        assert by_movie["year"].to_dict() | {4: None, 6: None} == {
            1: "1995", 2: "1995", 3: "2001", 4: None, 5: "1951", 6: None
        }  # fmt: skip
        assert by_movie["genres"].isna().to_dict() == {1: False, 2: False, 3: True, 4: False, 5: False, 6: True}

    def test_census(self, raw):
        folder, _ = raw("census_income")
        with open_raw("census_income", folder) as given:
            found = frame(given["test"], numbers=["income", "never_married", "age"])
        expected = pd.read_csv(folder / "census-income.test", header=None, skipinitialspace=True, keep_default_na=False)
        assert (found["income"] == (expected[41] == "50000+.")).all()
        assert (found["never_married"] == (expected[7] == "Never married")).all()
        assert found["education"].tolist() == expected[4].tolist()
        assert set(found["mig_chg_msa"]) == {"?", "Nonmover"}

    def test_tenrec_keeps_a_pair_in_one_split(self, raw):
        folder, part = raw("tenrec")
        with open_raw("tenrec", folder, part) as given:
            splits = {name: frame(source, ["user_id", "item_id", "video_category"]) for name, source in given.items()}
        pairs = [{*zip(f["user_id"], f["item_id"], strict=True)} for f in splits.values()]
        assert sum(map(len, splits.values())) == ROWS
        assert len(set.union(*pairs)) == sum(map(len, pairs))
        assert len(splits["train"]) > len(splits["valid"]) + len(splits["test"])
        assert splits["train"]["video_category"].isna().any()

    def test_criteo(self, raw):
        folder, _ = raw("criteo_attribution")
        with open_raw("criteo_attribution", folder) as given:
            times = {name: frame(source, ["timestamp"])["timestamp"] for name, source in given.items()}
        assert times["train"].max() < 26 * 86_400 <= times["valid"].min()
        assert times["valid"].max() < 28 * 86_400 <= times["test"].min()

    def test_ratings_of_one_day_cannot_be_split_by_time(self, raw, tmp_path):
        folder, _ = raw("movielens")
        (tmp_path / "movies.csv").write_bytes((folder / "movies.csv").read_bytes())
        (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,86400\n1,2,4.0,86401\n")
        with pytest.raises(DataError, match="has ratings of 1 days: expected more"), open_raw("movielens", tmp_path):
            pass

    def test_a_missing_column_is_named(self, raw, tmp_path):
        (tmp_path / "QB-video.csv").write_text("user_id,item_id\n1,2\n")
        expected = r"QB-video.csv has no column 'click': expected user_id, item_id, click"
        with pytest.raises(DataError, match=expected), open_raw("tenrec", tmp_path, "QB"):
            pass

    def test_a_bad_label_is_named_as_it_stands_in_the_file(self, raw, tmp_path):
        folder, _ = raw("census_income")
        for path in folder.iterdir():
            lines = path.read_text().splitlines(keepends=True)
            if path.name == "census-income.data":
                lines[6] = lines[6].rpartition(", ")[0] + ", much\n"
            (tmp_path / path.name).write_text("".join(lines))
        with pytest.raises(DataError) as caught:
            prepared("census_income", tmp_path, None)
        expected = "census-income.data, line 7, column 'income_50k': 'much' is not '50000+.' or '- 50000.'"
        assert expected in str(caught.value)
        data = prepared("census_income", tmp_path, None, bad_rows="skip", holdout=0.0)
        assert len(data.train) == ROWS - 1
        assert any(expected in note for note in data.notes)


class TestDerived:
    """Whatever type a file's values were read as, a label is the same."""

    VALUES = ("0", "1", "2", None)

    @pytest.mark.parametrize("kind", ["float", "int", "text", "bytes"])
    def test_types(self, kind):
        text = pa.array(self.VALUES, pa.string())
        array = {
            "float": text.cast(pa.float64()),
            "int": text.cast(pa.int64()),
            "text": text,
            "bytes": text.cast(pa.binary()),
        }[kind]
        assert Flag("c", ("1", "2"), ("0",)).of(array).to_pylist() == [0.0, 1.0, 1.0, None]
        assert Flag("c", ("2",)).of(array).to_pylist() == [0.0, 0.0, 1.0, None]
        assert AtLeast("c", 1).of(array).to_pylist() == [0.0, 1.0, 1.0, None]
        assert AtLeast("c", 1, strict=True).of(array).to_pylist() == [0.0, 0.0, 1.0, None]
        batch = pa.RecordBatch.from_arrays([array], names=["c"])
        assert Between("c", high=1).mask(batch).tolist() == [True, False, False, True]
        assert Between("c", 1, 2).mask(batch).tolist() == [False, True, False, False]
        shares = [HashShare(["c"], i / 4, (i + 1) / 4).mask(batch) for i in range(4)]
        assert np.sum(shares, 0).tolist() == [1, 1, 1, 1]
        assert (shares[0] == HashShare(["c"], 0, 0.25).mask(batch.slice(0))).all()

    def test_values_that_do_not_parse_are_passed_on(self):
        for values, kind in ((["x", "1", None], pa.string()), ([b"x", b"1", None], pa.binary())):
            array = pa.array(values, kind)
            assert AtLeast("c", 1).of(array).to_pylist() == values
            assert Flag("c", ("1",), ("0",)).of(array).to_pylist() == values
            batch = pa.RecordBatch.from_arrays([array], names=["c"])
            assert Between("c", high=0).mask(batch).tolist() == [True, False, True]

    def test_hash_is_the_same_on_every_machine(self):
        batch = pa.RecordBatch.from_pydict({"user_id": [1, 2, 3, 4, 5, 6], "item_id": [7, 8, 9, 10, 11, 12]})
        halves = HashShare(["user_id", "item_id"], 0.0, 0.5).mask(batch)
        assert halves.tolist() == [False, False, False, False, True, True]


def test_rows_are_streamed(tmp_path, monkeypatch):
    """Of a megabyte of rows no more than a few parts are in memory at a time."""
    monkeypatch.setattr(csv_source, "PART_BYTES", 1 << 14)
    monkeypatch.setattr("tests.data.raw.layouts.ROWS", 8_000)
    LAYOUTS["aliccp"](tmp_path, np.random.default_rng(0))
    size = (tmp_path / "sample_skeleton_train.csv").stat().st_size
    with open_raw("aliccp", tmp_path) as given:
        before, most, rows = pa.total_allocated_bytes(), 0, 0
        for batch in given["train"].batches(["205", "210", "101", "click"], frozenset({"click"})):
            most, rows = max(most, pa.total_allocated_bytes() - before), rows + batch.num_rows
    assert (rows > 7_000, size > 1 << 20) == (True, True)
    assert most < size / 2
