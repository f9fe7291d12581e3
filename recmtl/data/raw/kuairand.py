"""KuaiRand: logs of a video app with users and videos, split by time."""

from __future__ import annotations

from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.columns import Between
from recmtl.data.raw.raw_source import Join, RawSource

COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment",
    "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "tab",
)  # fmt: skip
VALID_SINCE, TEST_SINCE = 20220505, 20220507  # of logs that end on 2022-05-08


class KuaiRand(RawReader):
    """The logs of the standard policy; the log of random exposure is left out."""

    name = "kuairand"
    title = "KuaiRand"
    cards = ("kuairand",)
    site = "https://kuairand.com (https://zenodo.org/records/10439422)"
    license = "CC BY-SA 4.0"
    files = (
        "log_standard_4_08_to_4_21_X.csv, log_standard_4_22_to_5_08_X.csv, user_features_X.csv and "
        "video_features_basic_X.csv, where X is 1k or pure (unpack the .tar.gz first)"
    )
    parts = ("1K", "Pure")
    split = (
        "the standard logs by time: to 4 May 2022 for training, 5 and 6 May for validation, 7 and 8 May for the test; "
        "the site has no split"
    )
    memory = (
        "the columns read of users and videos; of 1K, with 4.4 million videos, about 0.5 GB for each split that is read"
    )

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        end = str(part).lower()
        early, late = (f"log_standard_{days}_{end}.csv" for days in ("4_08_to_4_21", "4_22_to_5_08"))

        def rows(name: str, low: int | None = None, high: int | None = None) -> RawSource:
            log = files.csv(name.replace(".", r"\."), name, columns=COLUMNS)
            tables = {"user_id": f"user_features_{end}.csv", "video_id": f"video_features_basic_{end}.csv"}
            joins = [Join(files.csv(t.replace(".", r"\."), t, columns=[key]), key) for key, t in tables.items()]
            return RawSource(log, joins, chosen=Between("date", low, high))

        return {
            "train": [rows(early), rows(late, high=VALID_SINCE)],
            "valid": rows(late, VALID_SINCE, TEST_SINCE),
            "test": rows(late, TEST_SINCE),
        }
