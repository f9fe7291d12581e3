"""Criteo attribution: one table of impressions, split by time."""

from __future__ import annotations

from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import Between
from recmtl.data.raw.raw_source import RawSource
from recmtl.schema.text_format import TextFormat

DAY = 86_400  # seconds; the first row of the file is at second 0
VALID_SINCE, TEST_SINCE = 26 * DAY, 28 * DAY  # of 30 days
COLUMNS = ("timestamp", "uid", "campaign", "conversion", "click", *(f"cat{i}" for i in range(1, 10)))


class CriteoAttribution(RawReader):
    """Impressions of 30 days of display advertising."""

    name = "criteo_attribution"
    title = "Criteo Attribution Modeling for Bidding"
    cards = ("criteo_attribution",)
    site = "https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/"
    license = "CC BY-NC-SA 4.0"
    files = "criteo_attribution_dataset.tsv.gz"
    split = "by time: 26 days for training, two for validation, the last two for the test; the site has no split"

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        name = "criteo_attribution_dataset.tsv"

        def rows(low: int | None = None, high: int | None = None) -> RawSource:
            table = files.csv(name.replace(".", r"\."), name, TextFormat("\t"), COLUMNS)
            return RawSource(table, chosen=Between("timestamp", low, high))

        return {"train": rows(high=VALID_SINCE), "valid": rows(VALID_SINCE, TEST_SINCE), "test": rows(TEST_SINCE)}
