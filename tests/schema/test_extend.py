"""The fitted schema of another day: ids that stay, new ones behind them, rare ones that wait, old ones that go."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl import Extension
from recmtl.data import encode_rows
from recmtl.schema import history as history_module
from recmtl.schema import load_fitted, save_fitted
from recmtl.schema.extend import unchanged_ids
from recmtl.schema.serialization import LAYOUT, history_digest

TASK = recmtl.Task("ctr", "click")


def prepared(
    column: list[object], extend: object = None, feature: object = recmtl.Categorical("c"), **columns: list[object]
) -> recmtl.PreparedData:
    """Prepare one column, each value of it in a row, with the label of the row's parity."""
    rows = pd.DataFrame({"c": column, "click": [i % 2 for i in range(len(column))], **columns})
    schema = None if extend is not None else recmtl.Schema([feature], [TASK])
    return recmtl.prepare(schema, rows, holdout=0, extend=extend)


def categories(data: recmtl.PreparedData) -> list[str | None]:
    return data.schema.vocabularies["c"].to_pylist()


def ids(data: recmtl.PreparedData, values: list[object]) -> list[int]:
    (rows,) = encode_rows(data.schema, pd.DataFrame({"c": values}), labelled=False, note=lambda sentence: None)
    return rows.packed()[:, 0].tolist()


def test_new_categories_get_ids_behind_the_known_ones() -> None:
    first = prepared(list("aaabbc"))
    second = prepared(list("zzyyyb"), first)
    assert categories(first) == ["a", "b", "c"]
    assert categories(second) == ["a", "b", "c", "y", "z"]  # the more frequent first
    assert second.train.packed()[:, 0].tolist() == [6, 6, 5, 5, 5, 3]
    assert ids(second, list("abcx")) == [2, 3, 4, 0]
    assert second.notes == ("column 'c' has 3 categories: 2 new",)
    assert second.schema.history.parents == (first.schema.fingerprint,)
    assert second.schema.history.rows == 12


def test_integers_and_their_text_are_one_category() -> None:
    second = prepared([7, 8, 8], prepared([7, 7, 9]))
    assert categories(second) == ["7", "9", "8"]
    assert categories(prepared(["8", "x", "9"], second)) == ["7", "9", "8", "x"]


def test_rare_categories_wait_until_they_are_frequent_enough() -> None:
    feature = recmtl.Categorical("c", min_count=3)
    first = prepared(list("aaabbc"), feature=feature)
    assert (categories(first), ids(first, ["b"])) == (["a"], [0])
    second = prepared(list("bccdde"), first)  # b and c: 3 times in two days
    assert categories(second) == ["a", "b", "c"]
    third = prepared(list("de"), second)
    assert categories(third) == ["a", "b", "c", "d"]
    assert third.schema.history.waiting["c"].to_pylist() == [{"category": "e", "count": 2}]


def test_as_many_rare_categories_wait_as_memory_is_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module.most_frequent, "__defaults__", (2,))
    found = prepared(list("aaaaabbccde"), feature=recmtl.Categorical("c", min_count=3))
    assert found.schema.history.waiting["c"].to_pylist() == [{"category": c, "count": 2} for c in "bc"]


def test_a_full_vocabulary_takes_new_categories_when_old_ones_go() -> None:
    feature = recmtl.Categorical("c", max_vocabulary=2)
    second = prepared(list("xxxa"), prepared(list("aabbc"), feature=feature))
    assert categories(second) == ["a", "b"]
    third = prepared(list("ay"), Extension(second.schema, max_age=2))  # b is not seen for the second time
    assert categories(third) == ["a", "x"]
    assert third.schema.history.waiting["c"].to_pylist() == [{"category": c, "count": 1} for c in "cy"]


def test_categories_that_are_not_seen_for_long_are_unknown_again_and_their_ids_free() -> None:
    first = prepared(list("aabc"))
    second = prepared(list("aac"), Extension(first.schema, max_age=2))
    third = prepared(list("aac"), Extension(second.schema, max_age=2, allow_repeat=True))
    assert (categories(third), ids(third, list("abc"))) == (["a", None, "c"], [2, 0, 4])
    assert "1 not seen for long, which are unknown again" in third.notes[0]
    fourth = prepared(list("apqq"), third)
    assert (categories(fourth), ids(fourth, list("abcpq"))) == (["a", "q", "c", "p"], [2, 0, 4, 5, 3])
    assert unchanged_ids(third.schema, fourth.schema, "c", 6).tolist() == [True, True, True, False, True, False]
    assert fourth.schema.history.ages["c"].tolist() == [0, 0, 1, 0]
    back = prepared(list("bb"), fourth)  # it begins anew
    assert categories(back) == ["a", "q", "c", "p", "b"]


def test_free_places_survive_a_file_and_the_lookup_of_integers(tmp_path: Path) -> None:
    second = prepared([1, 1, 3], Extension(prepared([1, 1, 2, 3]).schema, max_age=1))
    save_fitted(second.schema, tmp_path)
    loaded = load_fitted(tmp_path)
    assert loaded.fingerprint == second.schema.fingerprint
    assert history_digest(loaded.history) == history_digest(second.schema.history)
    assert loaded.vocabularies["c"].to_pylist() == ["1", None, "3"]
    assert ids(second, [1, 2, 3]) == ids(second, ["1", "2", "3"]) == [2, 0, 4]


def test_domains_are_not_forgotten() -> None:
    schema = recmtl.Schema([recmtl.Categorical("c")], [TASK], domain="c")
    rows = pd.DataFrame({"c": list("aab"), "click": [0, 1, 0]})
    first = recmtl.prepare(schema, rows, holdout=0)
    second = recmtl.prepare(None, rows.assign(c=list("ccc")), holdout=0, extend=Extension(first.schema, max_age=1))
    assert second.schema.domain.categories == ("a", "b", "c")


def test_hashed_schemas_of_two_days_are_one() -> None:
    features = [recmtl.Categorical("c", hash_buckets=5), recmtl.MultiCategorical("d", hash_buckets=5)]
    features += [recmtl.Numeric("n"), recmtl.Binned("m")]
    schema = recmtl.Schema(features, [TASK])
    frames = [
        pd.DataFrame(
            {
                "c": rows,
                "d": [rows[0], rows[1], "|".join(rows), rows[2]],
                "n": range(4),
                "m": range(4),
                "click": [0, 1, 0, 1],
            }
        )
        for rows in (list("abcd"), list("wxyz"))
    ]
    first = recmtl.prepare(schema, frames[0], holdout=0)
    second = recmtl.prepare(None, frames[1], holdout=0, extend=first)
    assert second.schema.fingerprint == first.schema.fingerprint


def test_missing_values_of_a_later_day_are_a_category_then() -> None:
    first = prepared(["a", "b", "a", "b"])
    assert ids(first, [None]) == [0]
    second = prepared(["a", None, None, "b"], first)
    assert (ids(second, [None]), second.schema.missing["c"]) == ([1], 0.25)


def test_a_number_that_was_never_missing_is_read_as_before() -> None:
    first = prepared([1.0, 2.0, 3.0, 4.0], feature=recmtl.Numeric("c"))
    second = prepared([1.0, None, 3.0, 9.0], first)
    assert second.schema.fingerprint == first.schema.fingerprint
    assert any("has a value in every training row, but none in 1 of 4 train rows" in note for note in second.notes)


def test_what_was_constant_is_so_until_it_varies() -> None:
    first = prepared(list("aaaa"))
    assert (first.schema.constants, ids(first, list("ab"))) == ({"c": (2,)}, [2, 2])
    same = prepared(list("aa"), first)
    assert same.schema.constants == {"c": (2,)}
    other = prepared(list("bb"), first)  # constant, but other than before
    assert (other.schema.constants, ids(other, list("abx"))) == ({}, [2, 3, 0])


def test_lists_may_become_longer() -> None:
    feature = recmtl.MultiCategorical("c", max_length=4)
    first = prepared(["a|b", "b", "a", "c"], feature=feature)
    second = prepared(["a|b|c|a|b|c", "a", "b", "c"], first)
    assert (first.schema.lengths, second.schema.lengths) == ({"c": 2}, {"c": 4})


def test_keys_that_were_integers_become_text() -> None:
    schema = recmtl.Schema([recmtl.Categorical("c")], [TASK], keys=["id"])
    rows = pd.DataFrame({"c": list("aab"), "click": [0, 1, 0], "id": [1, 2, 3]})
    first = recmtl.prepare(schema, rows, holdout=0)
    second = recmtl.prepare(None, rows.assign(id=["1", "x", "3"]), holdout=0, extend=first)
    assert (first.schema.integer_keys, second.schema.integer_keys) == ({"id"}, frozenset())
    assert second.train.keys["id"].to_pylist() == ["1", "x", "3"]


def test_label_rates_of_known_categories_are_kept_and_those_of_new_ones_counted() -> None:
    schema = recmtl.Schema([recmtl.Categorical("c", label_rates=True)], [TASK])
    values = list("aaaaaaaabbbbbbbb")
    rows = pd.DataFrame({"c": values, "click": [1, 0, 0, 0] * 4})
    first = recmtl.prepare(schema, rows, holdout=0)
    later = pd.DataFrame({"c": list("aaaabbbbzzzzzzzz"), "click": [1] * 16})
    kept = recmtl.prepare(None, later, holdout=0, extend=first).schema.label_counts["c"]
    assert kept.rows[0].tolist() == [0, 0, 8, 8, 8]
    assert kept.positives[0].tolist() == [0, 0, 2, 2, 8]
    added = recmtl.prepare(None, later, holdout=0, extend=Extension(first.schema, "update"))
    assert added.schema.label_counts["c"].rows[0].tolist() == [0, 0, 12, 12, 8]
    assert added.schema.label_counts["c"].positives[0].tolist() == [0, 0, 6, 6, 8]
    numbers = recmtl.prepare(None, later, holdout=0, extend=first).train.table["numeric"].to_pylist()
    (read,) = encode_rows(first.schema, later)
    assert numbers[:8] == read.table["numeric"].to_pylist()[:8]  # none is of the row's own label
    assert len({tuple(row) for row in numbers[8:]}) > 1  # out of fold


def test_bad_days_are_refused_in_one_sentence() -> None:
    first = prepared(list("aabc"))
    rows = pd.DataFrame({"c": list("ab"), "click": [0, 1]})
    with pytest.raises(
        recmtl.DataError,
        match=r"^the run was trained on the rows of the train frame already: give new .*`--allow_repeat true",
    ):
        prepared(list("aabc"), first)
    assert len(prepared(list("aabc"), Extension(first.schema, allow_repeat=True)).schema.history.files) == 1
    with pytest.raises(recmtl.SchemaError, match=r"^column 'c' is not in"):
        recmtl.prepare(None, rows[["click"]], holdout=0, extend=first)
    for features, said in (
        ([recmtl.Numeric("c")], "^feature 'c' is categorical in the run, but numeric in the schema$"),
        ([recmtl.Categorical("d")], "^the schema lacks the feature 'c' of the run: give none, or one with it$"),
        ([recmtl.Categorical("c"), recmtl.Numeric("d")], "^the run has no feature 'd': leave it out, or train a new"),
    ):
        with pytest.raises(recmtl.SchemaError, match=said):
            recmtl.prepare(recmtl.Schema(features, [TASK]), rows.assign(d=1), holdout=0, extend=first)
    with pytest.raises(recmtl.DataError, match=r"^the rows are thinned otherwise than the run's"):
        recmtl.prepare(None, rows, holdout=0, extend=first, thinning=recmtl.Thinning(0.5))
    with pytest.raises(recmtl.SchemaError, match=r"^there is no schema: give one, or by `extend`"):
        recmtl.prepare(None, rows)
    for options, said in (
        ({"statistics": "new"}, "`statistics` must be one of"),
        ({"max_age": 0}, "`max_age` must be"),
    ):
        with pytest.raises(recmtl.SchemaError, match=said):
            Extension(first.schema, **options)


def test_a_schema_of_an_older_layout_is_named(tmp_path: Path) -> None:
    save_fitted(prepared(list("aabc")).schema, tmp_path)
    file = tmp_path / "schema.json"
    file.write_text(file.read_text().replace(f'"layout": {LAYOUT}', f'"layout": {LAYOUT - 1}'))
    with pytest.raises(recmtl.SchemaError, match=r"was written by another version: fit it again$"):
        load_fitted(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_a_naive_twin(seed: int) -> None:
    """Days of random categories, with rare ones that wait and old ones that go, against dictionaries."""
    random = np.random.default_rng(seed)
    feature = recmtl.Categorical("c", min_count=2)
    known: dict[str, int] = {}
    counts: dict[str, int] = {}
    unseen: dict[str, int] = {}
    data = None
    for number in range(5):
        column = [f"v{i}" for i in random.integers(number * 3, number * 3 + 12, 25)]
        data = prepared(column, data and Extension(data.schema, max_age=2, allow_repeat=True), feature=feature)
        today = {c: column.count(c) for c in column}
        for category in list(known):
            unseen[category] = 0 if category in today else unseen[category] + 1
            if unseen[category] >= 2:
                del known[category], unseen[category]
        for category, count in today.items():
            if category not in known:
                counts[category] = counts.get(category, 0) + count
        ready = sorted((c for c in counts if counts[c] >= 2), key=lambda c: (-counts[c], c))
        for category in ready:
            taken = set(known.values())
            known[category] = next(i for i in range(2, 99) if i not in taken)
            unseen[category] = 0
            del counts[category]
        assert ids(data, sorted(known)) == [known[c] for c in sorted(known)]
        assert data.train.packed()[:, 0].tolist() == [known.get(c, 0) for c in column]
