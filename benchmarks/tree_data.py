"""The data sets of `benchmarks.trees`: rows to train on, rows that decide when to stop, and rows that are measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from recmtl.data.synthetic.generate import synthesize

ALIEXPRESS_ROWS = 600_000  # 80 % of them to train on
MOVIELENS = "recbole==1.2.1"  # its package holds MovieLens-100k
MOVIELENS_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
SPLITS = ("train", "stop", "measured")


@dataclass(frozen=True)
class TreeData:
    """A data set in three parts. The measured rows decide nothing: no option, no number of trees, no epoch.

    Args:
        name: Its name on the command line.
        title: Its name in tables.
        train: The rows to fit on: features and labels.
        stop: The rows that choose options and decide when to stop.
        measured: The rows whose AUC is reported.
        tasks: The label column of each task.
        funnel: The tasks of which the second implies the first; empty if they do not.
        codes: Integer columns that are categories.
        lists: Text columns of lists, separated by ``|``.
        ids: Columns of many categories, of which trees also read the label rate, out of fold.
        groups: The group of each measured row ``[rows]`` for intervals; ``None`` if rows are independent.
        bayes: The AUC of the true probabilities of the measured rows, by task, where it is known.
    """

    name: str
    title: str
    train: pd.DataFrame
    stop: pd.DataFrame
    measured: pd.DataFrame
    tasks: Mapping[str, str]
    funnel: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    groups: npt.NDArray[np.int64] | None = None
    bayes: Mapping[str, float] = field(default_factory=dict)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the three parts by name."""
        return {name: getattr(self, name) for name in SPLITS}

    def head(self, rows: int) -> TreeData:
        """Return the first rows of each part; the Bayes AUC is that of all rows, so it is left out."""
        groups = None if self.groups is None else self.groups[:rows]
        train, stop, measured = (frame.head(rows) for frame in self.frames().values())
        return replace(self, train=train, stop=stop, measured=measured, groups=groups, bayes={})


def read_text(file: Path) -> pd.DataFrame:
    """Read a CSV file in which only an empty field is missing: ``NA`` and ``?`` are categories."""
    return pd.read_csv(file, keep_default_na=False, na_values=[""])


def census(folder: Path) -> TreeData:
    """Census-Income: the last 10 % of the training file decide when to stop, the validation file is measured."""
    train = read_text(folder / "census_train.csv.gz").drop(columns="instance_weight")
    measured = read_text(folder / "census_valid.csv.gz").drop(columns="instance_weight")
    cut = len(train) - len(train) // 10
    stop = train[cut:].reset_index(drop=True)
    codes = ("det_ind_code", "det_occ_code", "own_or_self", "vet_benefits", "year")
    tasks = {name: name for name in ("income", "never_married")}
    return TreeData("census", "Census-Income", train[:cut], stop, measured, tasks, codes=codes)


def adult(folder: Path) -> TreeData:
    """Adult: about 60, 20 and 20 % of the rows, by a hash of all columns, so that equal rows stay together."""
    rows = read_text(folder / "adult_train.csv.gz").drop(columns="survey_weight")
    fifth = pd.util.hash_pandas_object(rows.astype(str), index=False) % 5
    train, stop, measured = (rows[mask].reset_index(drop=True) for mask in (fifth < 3, fifth == 3, fifth == 4))
    return TreeData("adult", "Adult", train, stop, measured, {name: name for name in ("income", "never_married")})


def aliexpress(folder: Path, rows: int = ALIEXPRESS_ROWS) -> TreeData:
    """Return generated rows in the layout of AliExpress, with 10 % clicks and 25 % conversions of them."""
    if not (folder / "truth.json").exists():
        synthesize(folder, rows, click_rate=0.10, conversion_rate=0.25)
    train, stop, measured = (pd.read_csv(folder / f"{name}.csv") for name in ("train", "valid", "test"))
    groups = measured["search_id"].to_numpy(np.int64)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["test"]
    tasks = {"ctr": "click", "ctcvr": "conversion"}
    return TreeData(
        "aliexpress",
        "Generated rows in the layout of AliExpress",
        train.drop(columns="search_id"),
        stop.drop(columns="search_id"),
        measured.drop(columns="search_id"),
        tasks,
        funnel=("ctr", "ctcvr"),
        codes=tuple(str(name) for name in train if str(name).startswith("categorical_")),
        groups=groups,
        bayes={task: truth[task]["auc"] for task in tasks},
    )


def movielens(wheel: Path | None) -> TreeData:
    """MovieLens-100k by time: the first 80 % of the ratings, the next 10 %, and the last 10 %.

    A user likes a film with 4 stars or 5, and loves it with 5. Rows of one user are not independent.

    Args:
        wheel: The package of RecBole, which holds the files; ``None`` downloads it by pip.
    """
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            return movielens(download(Path(folder)))
    ratings, users, items = (read_atomic(wheel, kind) for kind in ("inter", "user", "item"))
    genres = items["class"].str.replace(" ", "|")
    year = pd.to_numeric(items["release_year"], errors="coerce")
    items = items[["item_id"]].assign(genres=genres, release_year=year)
    rows = ratings.merge(users.drop(columns="zip_code"), on="user_id").merge(items, on="item_id")
    rows = rows.sort_values(["timestamp", "user_id", "item_id"], kind="stable", ignore_index=True)
    rating, time = rows.pop("rating"), pd.to_datetime(rows.pop("timestamp"), unit="s")
    rows = rows.assign(time=time, like=(rating >= 4).astype(int), love=(rating == 5).astype(int))
    first, second = len(rows) * 8 // 10, len(rows) * 9 // 10
    return TreeData(
        "movielens",
        "MovieLens-100k, split by time",
        rows[:first],
        rows[first:second].reset_index(drop=True),
        rows[second:].reset_index(drop=True),
        tasks={"like": "like", "love": "love"},
        funnel=("like", "love"),
        lists=("genres",),
        ids=("user_id", "item_id"),
        groups=rows["user_id"][second:].to_numpy(np.int64),
    )


def download(folder: Path) -> Path:
    """Download the package that holds MovieLens-100k, without installing it."""
    command = [sys.executable, "-m", "pip", "download", MOVIELENS, "--no-deps", "--quiet", "--dest", str(folder)]
    subprocess.run(command, check=True)
    return next(folder.glob("recbole-*.whl"))


def read_atomic(wheel: Path, kind: str) -> pd.DataFrame:
    """Read a tab-separated file of the package; its header has a type after each name."""
    with zipfile.ZipFile(wheel) as archive, archive.open(f"{MOVIELENS_FOLDER}.{kind}") as file:
        frame = pd.read_csv(file, sep="\t", keep_default_na=False, na_values=[""])
    return frame.rename(columns=lambda name: name.partition(":")[0])
