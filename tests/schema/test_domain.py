"""The domain of a schema: what it may name, and which domain each row belongs to."""

from pathlib import Path

import pandas as pd
import pytest

import recmtl
from recmtl.data import Loader
from recmtl.models.domains import checked_domain, domains_of
from recmtl.schema import Feature, load_fitted, save_fitted
from recmtl.schema.fitted import MOST_DOMAINS
from recmtl.schema.readings import infer_columns

CTR = [recmtl.Task("ctr", "click")]
ROWS = pd.DataFrame(
    {"item": list("abab"), "country": ["US", "NL", "US", "US"], "click": [0, 1, 1, 0], "price": [1.0, 2.0, 3.0, 4.0]}
)


def schema(*features: Feature, domain: object = "country") -> recmtl.Schema:
    return recmtl.Schema([*features, recmtl.Numeric("price")], CTR, domain=domain)


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        (recmtl.Categorical("item"), "'country' is not a feature"),
        (recmtl.Numeric("country"), "'country' is numeric"),
        (recmtl.MultiCategorical("country"), "'country' has several categories per row"),
        (recmtl.Categorical("c*", hash_buckets=9), "'country' has hash buckets instead of a vocabulary"),
    ],
)
def test_the_domain_is_a_categorical_feature_with_a_vocabulary(feature: Feature, reason: str) -> None:
    with pytest.raises(recmtl.SchemaError, match=f"categorical feature with a vocabulary, but {reason}"):
        schema(feature)


def test_the_domain_is_text_and_has_a_name_of_its_own() -> None:
    with pytest.raises(recmtl.SchemaError, match="`domain` must be non-empty text"):
        schema(domain=1)
    with pytest.raises(recmtl.SchemaError, match="domain 'ctr' has the name of a task"):
        schema(recmtl.Categorical("ctr"), domain="ctr")


def test_a_row_of_no_training_domain_is_of_the_last(tmp_path: Path) -> None:
    fitted = recmtl.prepare(schema(recmtl.Categorical("item"), recmtl.Categorical("count*")), ROWS, holdout=0).schema
    save_fitted(fitted, tmp_path)
    for known in (fitted, load_fitted(tmp_path)):
        assert known.schema.domain == "country"
        assert known.domain.categories == ("US", "NL")
        assert known.domain.names == ("US", "NL", "other")
    new = ROWS.assign(country=["NL", "JP", None, "US"])
    notes: list[str] = []
    rows = recmtl.Trainer(recmtl.SharedBottom(fitted, layers=[2])).encode(new, note=notes.append)
    batch = next(Loader(rows, 4).epoch())
    assert domains_of(batch, checked_domain("STAR", fitted)).tolist() == [1, 2, 2, 0]
    assert rows.keys["country"].to_pylist() == ["NL", "JP", None, "US"]  # carried through


def test_a_category_may_be_named_other() -> None:
    rows = ROWS.assign(country=["other", "NL", "other", "other"])
    domain = recmtl.prepare(schema(recmtl.Categorical("country")), rows, holdout=0).schema.domain
    assert domain.names == ("other", "NL", "other_")


def test_a_card_and_what_is_inferred_name_the_domain(tmp_path: Path) -> None:
    given = schema(recmtl.Categorical("country"))
    given.save(tmp_path / "card.yaml")
    assert "domain: country\n" in (tmp_path / "card.yaml").read_text()
    assert recmtl.Schema.load(tmp_path / "card.yaml") == given
    assert "domain country" in repr(given)
    rows = ROWS.assign(country=[1.5, 2.5, 3.5, 4.5])  # which the rules would read as numbers
    inferred = recmtl.Schema.infer(rows, ["click"], domain="country")
    assert recmtl.Categorical("country", min_count=2) in inferred.features
    with pytest.raises(recmtl.SchemaError, match="'land' is not in"):
        infer_columns(ROWS, ["click"], roles={"domain": "land"})


def test_needs_a_domain_of_few_categories() -> None:
    plain = recmtl.prepare(schema(domain=None), ROWS, holdout=0).schema
    with pytest.raises(ValueError, match="STAR needs a schema with a `domain`"):
        checked_domain("STAR", plain)
    many = pd.DataFrame({"country": range(MOST_DOMAINS + 1), "price": 1.0, "click": 1})
    fitted = recmtl.prepare(schema(recmtl.Categorical("country")), many, holdout=0).schema
    with pytest.raises(ValueError, match="at most 64 domains, got 65 categories of 'country': set `max_vocabulary`"):
        checked_domain("STAR", fitted)
