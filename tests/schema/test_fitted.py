import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from recmtl.schema import (
    Binned,
    Categorical,
    FittedSchema,
    IdBlock,
    LabelCounts,
    LabelRate,
    Moments,
    MultiCategorical,
    Numeric,
    Schema,
    SchemaError,
    Task,
    Timestamp,
)
from recmtl.schema.serialization import FITTED_FILES, load_fitted, save_fitted

BRAND, USER, TAGS = (
    Categorical("brand"),
    Categorical("user", hash_buckets=10, label_rates=True),
    MultiCategorical("tags"),
)
AGE = Binned("age", bins=4)


def make(brands=("a", "ü"), mean=0.5, deviation=2.0, middle=0.7, positives=0.25):
    features = [Numeric("x"), BRAND, TAGS, USER, AGE, Numeric("z", clip=(0, None), missing_indicator=True)]
    schema = Schema(features, [Task("t", "y"), Task("u", "v", given="y")])
    return FittedSchema(
        schema=schema,
        vocabularies={"brand": pa.array(brands, pa.string()), "tags": pa.array([], pa.string())},
        lengths={"tags": 3},
        moments={"x": Moments(mean, deviation), "z": Moments(0.1, 1.0)},
        quantiles={"x": (-1.0, 0.1, middle), "z": (0.0, 0.0), "age": (18.0, 30.0, 65.0)},
        ranges={"x": (-1.0, middle), "age": (1.0, 99.0)},
        integer_keys=frozenset({"k"}),
        rates={("y", None): LabelRate(10, 0.25), ("v", "y"): LabelRate(3, 1 / 3), ("v", None): LabelRate(9, 0.1)},
        label_counts={"user": LabelCounts(np.arange(24.0).reshape(2, 12), np.full((2, 12), positives))},
    )


def test_repr_fits_two_lines():
    text = repr(make())
    assert text.startswith("FittedSchema(Schema(2 numeric, 2 categorical")
    assert text.endswith("; tasks t, u); 2 categories, 3 id columns)")
    assert len(text) < 200
    assert make()._repr_html_() == make().schema._repr_html_()


def test_id_blocks_follow_the_features():
    fitted = make()
    blocks = (IdBlock(BRAND, 4, 0, 1), IdBlock(TAGS, 2, 0, 3), IdBlock(USER, 12, 1, 1), IdBlock(AGE, 6, 2, 1))
    assert fitted.id_blocks == blocks
    assert fitted.id_columns == 3
    assert [f.name for f in fitted.numeric] == ["x", "z"]
    assert fitted.numeric_columns == 3 + 2 * 2  # the rates and rows of a user for two tasks
    assert [block.name for block in fitted.rated_blocks] == ["user"]


def test_timestamp_has_a_block_per_part_and_shared_features_the_size_and_width_of_the_owner(tmp_path):
    item, seen = Categorical("item", width=5), MultiCategorical("seen", share_with="item")
    day = Timestamp("day", parts=("month", "hour"), width=2)
    fitted = dataclasses.replace(
        make(),
        schema=Schema([seen, day, item, BRAND], [Task("t", "y")]),
        vocabularies={"item": pa.array(["a", "b", "c"]), "brand": pa.array(["x"])},
        lengths={"seen": 4},
    )
    assert fitted.id_blocks == (
        IdBlock(seen, 5, 0, 4, 5),
        IdBlock(day, 14, 0, 1, 2, "month"),
        IdBlock(day, 26, 1, 1, 2, "hour"),
        IdBlock(item, 5, 2, 1, 5),
        IdBlock(BRAND, 3, 3, 1),
    )
    owners = [("item", None), ("day", "month"), ("day", "hour"), ("item", None), ("brand", None)]
    assert [block.owner for block in fitted.id_blocks] == owners
    assert [block.name for block in fitted.id_blocks] == ["seen", "day.month", "day.hour", "item", "brand"]
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    assert (loaded.fingerprint, loaded.id_blocks) == (fitted.fingerprint, fitted.id_blocks)
    other = dataclasses.replace(fitted, schema=Schema([seen, Timestamp("day"), item, BRAND], [Task("t", "y")]))
    assert other.fingerprint != fitted.fingerprint


def test_rate_of_a_task_uses_its_condition():
    fitted = make()
    assert [fitted.rate(t) for t in fitted.schema.tasks] == [LabelRate(10, 0.25), LabelRate(3, 1 / 3)]


def test_round_trip_is_exact(tmp_path):
    fitted = make()
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    assert loaded.schema == fitted.schema
    assert {n: v.to_pylist() for n, v in loaded.vocabularies.items()} == {"brand": ["a", "ü"], "tags": []}
    for name in ("lengths", "moments", "quantiles", "integer_keys", "rates"):
        assert getattr(loaded, name) == getattr(fitted, name)
    for mine, other in zip(fitted.label_counts["user"], loaded.label_counts["user"], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert loaded.fingerprint == fitted.fingerprint
    assert loaded.id_blocks == fitted.id_blocks


def test_fingerprint_changes_with_anything_that_affects_encoding():
    prints = {make().fingerprint, make(brands=("ü", "a")).fingerprint, make(brands=("a",)).fingerprint}
    prints |= {make(mean=0.6).fingerprint, make(deviation=2.1).fingerprint, make(middle=0.8).fingerprint}
    prints.add(make(positives=0.5).fingerprint)
    assert len(prints) == 7
    assert make().fingerprint == make().fingerprint


def test_fingerprint_does_not_depend_on_the_chunk_size(monkeypatch):
    whole = make(brands="abcde").fingerprint
    monkeypatch.setattr("recmtl.schema.fitted.DIGEST_CHUNK", 2)
    assert make(brands="abcde").fingerprint == whole
    assert make(brands="abced").fingerprint != whole


@pytest.mark.parametrize("file", FITTED_FILES)
def test_missing_file(tmp_path, file):
    save_fitted(make(), tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(SchemaError, match=f"cannot read the fitted schema in '{tmp_path}'"):
        load_fitted(tmp_path)


@pytest.mark.parametrize("file", FITTED_FILES)
@pytest.mark.parametrize("keep", [0, 10, -7])
def test_truncated_file(tmp_path, file, keep):
    save_fitted(make(), tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:keep])
    with pytest.raises(SchemaError, match=r"the fitted schema in .* is damaged"):
        load_fitted(tmp_path)


def test_files_of_different_schemas(tmp_path):
    (tmp_path / "other").mkdir()
    save_fitted(make(), tmp_path)
    save_fitted(make(brands=("a", "b", "c")), tmp_path / "other")
    (tmp_path / "other" / "vocabularies.arrow").replace(tmp_path / "vocabularies.arrow")
    with pytest.raises(SchemaError, match="is damaged: its vocabularies have other sizes"):
        load_fitted(tmp_path)


def test_label_counts_of_other_ids_or_values(tmp_path):
    save_fitted(make(), tmp_path)
    for values, reason in (
        (np.zeros((2, 12)), "its content does not match its fingerprint"),
        (np.zeros((2, 11)), "label_counts.arrow has other sizes than schema.json says"),
        (np.zeros((1, 12)), "label_counts.arrow has other sizes than schema.json says"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        save_fitted(dataclasses.replace(make(), label_counts={"user": LabelCounts(values, values)}), tmp_path / "other")
        (tmp_path / "other" / "label_counts.arrow").replace(tmp_path / "label_counts.arrow")
        with pytest.raises(SchemaError, match=f"is damaged: {reason}"):
            load_fitted(tmp_path)


@pytest.mark.parametrize(("length", "columns"), [(10**9, "1,000,000,003"), (-9, "-6")])
def test_number_of_id_columns_is_limited(tmp_path, length, columns):
    """Memory is allocated for them; the fingerprint matches."""
    save_fitted(dataclasses.replace(make(), lengths={"tags": length}), tmp_path)
    with pytest.raises(SchemaError, match=f"damaged: its rows have {columns} ids, expected at most 1,048,576"):
        load_fitted(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"schema": 5, "vocabulary_sizes": {}}, {"schema": {"features": []}}])
def test_invalid_content(tmp_path, content):
    save_fitted(make(), tmp_path)
    (tmp_path / "schema.json").write_text(json.dumps(content))
    with pytest.raises(SchemaError, match=r"the fitted schema in .* is damaged"):
        load_fitted(tmp_path)
