"""The domain of each row of a batch, for models and losses that tell domains apart."""

from __future__ import annotations

from torch import Tensor

from recmtl.data import Batch
from recmtl.layers import LayerStyle
from recmtl.schema import DomainColumn, FittedSchema, Schema
from recmtl.schema.fitted import FIRST, MOST_DOMAINS


def domains_of(batch: Batch, column: DomainColumn) -> Tensor:
    """Return the domain of each row, int64 ``[B]``: 0 to D - 1, and D if it was not seen in training, or is missing."""
    ids = batch.ids[:, column.block.start].long()
    return (ids - FIRST).where(ids >= FIRST, len(column.categories))


def checked_domain(who: str, schema: FittedSchema) -> DomainColumn:
    """Return the domain of a schema, which `who` needs.

    Raises:
        ValueError: The schema has no domain, or one of too many categories.
    """
    check_has_domain(who, schema.schema)
    column = schema.domain
    assert column is not None
    if len(column.categories) > MOST_DOMAINS:
        raise ValueError(
            f"{who} takes at most {MOST_DOMAINS} domains, got {len(column.categories):,} categories of "
            f"{column.block.name!r}: set `max_vocabulary` or `min_count` of that feature, which leave the rarest out"
        )
    return column


def check_has_domain(who: str, schema: Schema) -> None:
    """Check that a schema has a domain, which `who` needs.

    Raises:
        ValueError: It has none.
    """
    if schema.domain is None:
        raise ValueError(
            f"{who} needs a schema with a `domain`, the feature that says which domain a row belongs to, got one "
            "without: write `domain` on the card, or `--domain COLUMN` without a card"
        )


def check_one_network(model: str, style: LayerStyle) -> None:
    """Check that the style of a model that has no ensembles is that of one network."""
    if style.ensemble > 1:
        raise ValueError(f"{model} is one network and no ensemble: leave out `style.ensemble`, got {style.ensemble}")
