"""Tenrec: videos of two feeds, split by a hash of user and item."""

from __future__ import annotations

from collections.abc import Mapping

from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import HashShare
from recmtl.data.raw.raw_source import RawSource
from recmtl.schema import SplitName

COLUMNS = (
    "user_id", "item_id", "click", "follow", "like", "share", "video_category", "watching_times", "gender", "age",
)  # fmt: skip
PAIR = ("user_id", "item_id")
SHARES: Mapping[SplitName, tuple[float, float]] = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}


class Tenrec(RawReader):
    """Impressions of videos in the feeds QK and QB, or those of about a million users of QK (``ctr_data_1M.csv``)."""

    name = "tenrec"
    title = "Tenrec"
    cards = ("tenrec",)
    site = "https://static.qblv.qq.com/qblv/h5/algo-frontend/tenrec_dataset.html"
    license = "CC BY-NC 4.0 and the site's agreement"
    files = "QK-video.csv, QB-video.csv or ctr_data_1M.csv"
    parts = ("QK", "QB", "CTR-1M")
    split = (
        "8 : 1 : 1 by a stable hash of user and item, so that a repeated pair is in one split; rows have no time, and "
        "the paper's random split is not published"
    )

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        name = "ctr_data_1M.csv" if part == "CTR-1M" else f"{part}-video.csv"
        return {
            split: RawSource(files.csv(name.replace(".", r"\."), name, columns=COLUMNS), chosen=HashShare(PAIR, *share))
            for split, share in SHARES.items()
        }
