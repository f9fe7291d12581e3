"""KuaiRec: a sparse matrix of watched videos to train on, a full one to test on."""

from __future__ import annotations

from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import AtLeast
from recmtl.data.raw.raw_source import Join, RawSource
from recmtl.schema import SplitName

COLUMNS = (
    "user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp", "watch_ratio",
)  # fmt: skip
LIKE = AtLeast("watch_ratio", 2.0, strict=True)  # what the site proposes


class KuaiRec(RawReader):
    """Videos that users watched, with their attributes and tags."""

    name = "kuairec"
    title = "KuaiRec"
    cards = ("kuairec",)
    site = "https://kuairec.com (https://zenodo.org/records/18164998)"
    license = "CC BY-SA 4.0"
    files = "big_matrix.csv, small_matrix.csv, user_features.csv and item_categories.csv"
    split = (
        "the big matrix for training, of which validation rows are held out; the small, fully observed one for the "
        "test, as the site proposes"
    )
    memory = "user_features.csv and item_categories.csv, about 5 MB"

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        matrices: dict[SplitName, str] = {"train": "big_matrix.csv", "test": "small_matrix.csv"}
        found: dict[SplitName, RawSource] = {}
        for split, name in matrices.items():
            users = files.csv(r"user_features\.csv", "user_features.csv", columns=["user_id"])
            items = files.csv(r"item_categories\.csv", "item_categories.csv", columns=["video_id", "feat"])
            rows = files.csv(name.replace(".", r"\."), name, columns=COLUMNS)
            found[split] = RawSource(rows, [Join(users, "user_id"), Join(items, "video_id")], {"like": LIKE})
        return found
