"""Criteo attribution: one table of impressions, split by time."""

from __future__ import annotations

from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import Between
from recmtl.data.raw.raw_source import RawSource
from recmtl.schema.text_format import TextFormat

DAY = 86_400  # seconds; the first row of the file is at second 0
TEST_DAYS = 28, 30  # of 30
COLUMNS = ("timestamp", "uid", "campaign", "conversion", "click", *(f"cat{i}" for i in range(1, 10)))


class CriteoAttribution(RawReader):
    """Impressions of 30 days of display advertising."""

    name = "criteo_attribution"
    title = "Criteo Attribution Modeling for Bidding"
    cards = ("criteo_attribution",)
    site = "https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/"
    license = "CC BY-NC-SA 4.0"
    files = "criteo_attribution_dataset.tsv.gz"
    split = "by time: 28 days for training, the last two for the test; the site has no split"

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        first, _ = TEST_DAYS
        opened = [
            files.csv(r"criteo_attribution_dataset\.tsv", "criteo_attribution_dataset.tsv", TextFormat("\t"), COLUMNS)
            for _ in range(2)
        ]
        return {
            "train": RawSource(opened[0], chosen=Between("timestamp", high=first * DAY)),
            "test": RawSource(opened[1], chosen=Between("timestamp", low=first * DAY)),
        }
