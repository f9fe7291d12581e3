"""A few generated rows of each dataset, in the layout in which its site hands it out."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from recmtl.data.raw import census_income
from recmtl.data.raw.aliccp import COMMON_FIELDS, SAMPLE_FIELDS
from recmtl.data.synthetic.generate import synthesize

ROWS = 240
ONEHOT = [f"onehot_feat{i}" for i in range(18)]


def tokens(fields: dict[str, list[int]]) -> str:
    return "\x01".join(f"{field}\x02{one}\x03{0.5}" for field, ids in fields.items() for one in ids)


def aliexpress(folder: Path, rng: np.random.Generator) -> str:
    synthesize(folder, ROWS, seed=1, click_rate=0.3, conversion_rate=0.4, layout="raw")
    return "NL"


def aliccp(folder: Path, rng: np.random.Generator) -> None:
    for split in ("train", "test"):
        with (folder / f"common_features_{split}.csv").open("w") as file:
            for user in range(20):
                fields = {f: [user * 10 + i] for i, f in enumerate(COMMON_FIELDS) if "_14" not in f and f != "122"}
                fields["109_14"] = list(range(user % 3))
                file.write(f"bacff91692951{user:03x},{len(fields)},{tokens(fields)}\n")
        with (folder / f"sample_skeleton_{split}.csv").open("w") as file:
            for row in range(ROWS):
                click = int(rng.random() < 0.4)
                buy = int(rng.random() < 0.4) * click if row % 60 else 1  # some purchases have no click
                fields = {f: [int(rng.integers(9))] for f in SAMPLE_FIELDS}
                fields |= {"210": list(range(row % 3)), "205": [9_000_000_000_000_000_001 + row % 7]}
                file.write(f"{row},{click},{buy},bacff91692951{row % 20:03x},{len(fields)},{tokens(fields)}\n")


def users_of(ids: range, rng: np.random.Generator) -> pd.DataFrame:
    names = ["is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num", *ONEHOT]
    frame = pd.DataFrame({"user_id": ids, **{name: rng.integers(0, 2, len(ids)) for name in names}})
    ranges = ("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range")
    return frame.assign(user_active_degree="full_active", **dict.fromkeys(ranges, "(0,10]"))


def kuairand(folder: Path, rng: np.random.Generator) -> str:
    data = folder / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)

    def log(dates: list[int]) -> pd.DataFrame:
        flags = ["is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view"]
        counts = ["play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter"]
        return pd.DataFrame(
            {
                "user_id": rng.integers(0, 12, ROWS),
                "video_id": rng.integers(0, 9, ROWS),
                "date": rng.choice(dates, ROWS),
                "hourmin": 400,
                "time_ms": 1_650_485_801_301 + rng.integers(0, 10**9, ROWS),
                **{name: rng.integers(0, 2, ROWS) for name in flags},
                **{name: rng.integers(0, 90_000, ROWS) for name in counts},
                "is_rand": 0,
                "tab": rng.integers(0, 3, ROWS),
            }
        )

    log([20220408, 20220421]).to_csv(data / "log_standard_4_08_to_4_21_pure.csv", index=False)
    late = log([20220422, 20220504, 20220505, 20220506, 20220507, 20220508])
    late.to_csv(data / "log_standard_4_22_to_5_08_pure.csv", index=False)
    late.to_csv(data / "log_random_4_22_to_5_08_pure.csv", index=False)
    users_of(range(12), rng).to_csv(data / "user_features_pure.csv", index=False)
    videos = pd.DataFrame({"video_id": range(8), "author_id": range(8), "tag": ["12,65", "3", None, "1"] * 2})
    videos = videos.assign(video_type="NORMAL", upload_type="ShortImport", music_id=989_206_467, music_type=4)
    videos.to_csv(data / "video_features_basic_pure.csv", index=False)
    return "pure"


def kuairec(folder: Path, rng: np.random.Generator) -> None:
    data = folder / "KuaiRec 2.0" / "data"
    data.mkdir(parents=True)
    for name in ("big_matrix", "small_matrix"):
        watched = rng.integers(1, 30_000, ROWS)
        frame = pd.DataFrame({"user_id": rng.integers(0, 12, ROWS), "video_id": rng.integers(0, 9, ROWS)})
        frame = frame.assign(play_duration=watched, video_duration=10_000, time="2020-07-05 00:08:23.438")
        frame = frame.assign(date=20200705.0, timestamp=1593878903.438, watch_ratio=watched / 10_000)
        frame.to_csv(data / f"{name}.csv", index=False)
    users_of(range(12), rng).to_csv(data / "user_features.csv", index=False)
    tags = pd.DataFrame({"video_id": range(9), "feat": ["[8]", "[27, 9]", "[9]"] * 3})
    tags.to_csv(data / "item_categories.csv", index=False)


def tenrec(folder: Path, rng: np.random.Generator) -> str:
    names = ["click", "follow", "like", "share", "watching_times", "gender", "age"]
    frame = pd.DataFrame({"user_id": rng.integers(1, 30, ROWS), "item_id": rng.integers(1, 30, ROWS)})
    frame = frame.assign(video_category=rng.choice(["1", "2", r"\N"], ROWS), **dict.fromkeys(names, 0))
    frame = frame.assign(**{name: rng.integers(0, 2, ROWS) for name in names})
    frame[["user_id", "item_id", *names[:4], "video_category", *names[4:]]].to_csv(folder / "QB-video.csv", index=False)
    return "QB"


def movielens_1m(folder: Path, rng: np.random.Generator) -> None:
    data = folder / "ml-1m"
    data.mkdir()
    times = 956_703_932 + rng.permutation(ROWS) * 20_000
    with (data / "ratings.dat").open("w") as file:
        for row in range(ROWS):
            file.write(f"{row % 9 + 1}::{row % 6 + 1}::{rng.integers(1, 6)}::{times[row]}\n")
    with (data / "users.dat").open("w") as file:
        for user in range(1, 10):
            file.write(f"{user}::{'FM'[user % 2]}::25::{user}::{user:05}\n")
    titles = [
        "Star Wars: Episode IV - A New Hope (1977)",
        "Misérables, Les (1995)",
        "A::B (1999)",
        "X (1950)",
        "Y (1951)",
    ]
    lines = [f"{i}::{title}::Action|Sci-Fi\n" for i, title in enumerate(titles, start=1)]
    (data / "movies.dat").write_bytes("".join(lines).encode("latin-1"))


def movielens(folder: Path, rng: np.random.Generator) -> None:
    times = 956_703_932 + rng.permutation(ROWS) * 20_000
    frame = pd.DataFrame({"userId": np.arange(ROWS) % 9 + 1, "movieId": np.arange(ROWS) % 6 + 1})
    frame.assign(rating=rng.integers(1, 11, ROWS) / 2, timestamp=times).to_csv(folder / "ratings.csv", index=False)
    titles = ["Toy Story (1995)", "American President, The (1995)", '"Great" (2001)', "No Year", "Y (1951) "]
    genres = ["Comedy|Drama", "Drama", "(no genres listed)", "Action", "Action"]
    pd.DataFrame({"movieId": range(1, 6), "title": titles, "genres": genres}).to_csv(folder / "movies.csv", index=False)


def census(folder: Path, rng: np.random.Generator) -> None:
    numbers = {"age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked"}
    choices = {
        "marital_stat": ["Never married", "Divorced", "Married-civilian spouse present"],
        "income_50k": ["- 50000.", "50000+."],
        "instance_weight": ["1700.09"],
        "mig_chg_msa": ["?", "Nonmover"],
        "hisp_origin": ["NA", "All other"],
    }
    for end in ("data", "test"):
        lines = []
        for row in range(ROWS):
            values = [
                str(row % 50) if name in numbers else str(rng.choice(choices.get(name, ["a b", "Not in universe"])))
                for name in census_income.COLUMNS
            ]
            lines.append(", ".join(values) + "\n")
        (folder / f"census-income.{end}").write_text("".join(lines))


def criteo_attribution(folder: Path, rng: np.random.Generator) -> None:
    names = ["conversion_timestamp", "conversion_id", "attribution", "click_pos", "click_nb", "cost", "cpo"]
    frame = pd.DataFrame({"timestamp": np.sort(rng.integers(0, 30 * 86_400, ROWS)), "uid": rng.integers(0, 99, ROWS)})
    frame = frame.assign(campaign=rng.integers(0, 5, ROWS), conversion=rng.integers(0, 2, ROWS))
    frame = frame.assign(click=rng.integers(0, 2, ROWS), time_since_last_click=-1, **dict.fromkeys(names, -1))
    frame = frame.assign(**{f"cat{i}": rng.integers(0, 9, ROWS) for i in range(1, 10)})
    with gzip.open(folder / "criteo_attribution_dataset.tsv.gz", "wt") as file:
        frame.to_csv(file, index=False, sep="\t")


LAYOUTS: dict[str, Callable[[Path, np.random.Generator], str | None]] = {
    "aliexpress": aliexpress,
    "aliccp": aliccp,
    "kuairand": kuairand,
    "kuairec": kuairec,
    "tenrec": tenrec,
    "movielens": movielens,
    "movielens_1m": movielens_1m,
    "census_income": census,
    "criteo_attribution": criteo_attribution,
}
