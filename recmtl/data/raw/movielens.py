"""MovieLens: ratings joined with movies (and users of the 1M version), split by time."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import parse_integers
from recmtl.data.raw.base import RawFiles, RawReader, Sources, open_csv
from recmtl.data.raw.columns import AtLeast, Between, lenient_numbers
from recmtl.data.raw.raw_source import Join, RawSource
from recmtl.data.sources.base import Source
from recmtl.data.sources.typed import TableSource
from recmtl.errors import DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS, Member
from recmtl.schema import SplitName
from recmtl.schema.text_format import TextFormat

DAY = 86_400
SHARE = 0.1  # of the ratings, of the test, and of validation
LIKE = AtLeast("rating", 4.0)
# Columns of .dat files, whose values stand between `::`: every second one is empty.
RATINGS = ("user_id", "_1", "movie_id", "_2", "rating", "_3", "timestamp")
USERS = ("user_id", "_1", "gender", "_2", "age", "_3", "occupation", "_4", "zip_code")
IN_CSV = {"user_id": "userId", "movie_id": "movieId"}
YEAR = r"\((?P<year>[0-9]{4})\)\s*$"


class MovieLens(RawReader):
    """Ratings as ``.dat`` files (1M, 10M) or with a header as ``.csv`` (20M, 25M, 32M, latest)."""

    name = "movielens"
    title = "MovieLens"
    cards = ("movielens", "movielens_1m")
    site = "https://grouplens.org/datasets/movielens/"
    license = (
        "the site's own, in the README of each version: for research, commercial use needs permission; whether it may "
        "be redistributed differs by version"
    )
    files = "ratings.dat and movies.dat (1M: users.dat, too), or ratings.csv and movies.csv"
    split = (
        "by time: the last days with at least a tenth of the ratings are the test, those before with as many are for "
        "validation; the site has none"
    )
    memory = "the movies, and the users of 1M: a few MB; the days of the ratings are counted in one pass before"

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        csv = not files.matching(r"ratings\.dat")
        end = "csv" if csv else "dat"
        member = files.one(rf"ratings\.{end}", f"ratings.{end}")
        movies = movie_table(files.one(rf"movies\.{end}", f"movies.{end}"), csv)
        joins = [Join(movies, "movie_id")]
        if files.matching(r"users\.dat"):
            joins.append(Join(open_csv(files.one(r"users\.dat", "users.dat"), TextFormat(":", USERS)), "user_id"))

        def ratings() -> Source:
            if csv:
                return open_csv(member, columns=["userId", "movieId", "rating", "timestamp"])
            return open_csv(member, TextFormat(":", RATINGS))

        valid, test = split_by_day(ratings())
        joined = partial(RawSource, joins=joins, derived={"like": LIKE}, renamed=IN_CSV if csv else None)
        bounds: dict[SplitName, tuple[int | None, int | None]]
        bounds = {"train": (None, valid), "valid": (valid, test), "test": (test, None)}
        return {split: joined(ratings(), chosen=Between("timestamp", *ends)) for split, ends in bounds.items()}


def split_by_day(ratings: Source) -> tuple[int, int]:
    """Return the first seconds of the validation and the test rows: of whole days with the share of each.

    Raises:
        DataError: There are too few days.
    """
    days: Counter[int] = Counter()
    for batch in ratings.batches(["timestamp"], frozenset()):
        numbers, _ = lenient_numbers(batch.column(0), "timestamp")
        found, counts = np.unique(numbers[np.isfinite(numbers)] // DAY, return_counts=True)
        days.update(dict(zip(found.astype(int).tolist(), counts.tolist(), strict=True)))
    starts, later = list[int](), 0
    for day in sorted(days, reverse=True)[:-1]:
        later += days[day]
        if later >= SHARE * days.total():
            starts.append(day * DAY)
            later = 0
        if len(starts) == 2:
            return starts[1], starts[0]
    raise DataError(f"{ratings.name} has ratings of {len(days)} days: expected more, to split them by time")


def movie_table(member: Member, csv: bool) -> Source:
    """Return the movies: id, year and genres. Titles may hold the separator of `.dat` files, and letters of Latin-1."""
    try:
        with member.stream() as stream:
            content = stream.read()
    except (OSError, pa.ArrowException, *ZIP_ERRORS) as error:
        raise unreadable(member.name, error) from error
    if csv:
        rows = open_csv(member, columns=["movieId", "title", "genres"])
        batches = list(rows.batches(["movieId", "title", "genres"], frozenset()))
        table = pa.Table.from_batches(batches, batches[0].schema) if batches else None
        columns = table.columns if table else [pa.array([], pa.string())] * 3
    else:
        lines = [line for line in content.decode("latin-1").splitlines() if line.strip()]
        found = [re.fullmatch(r"(.*?)::(.*)::(.*)", line) for line in lines]
        bad = next((i for i, match in enumerate(found) if match is None), None)
        if bad is not None:
            raise DataError(f"{member.name}, line {bad + 1}: expected MovieID::Title::Genres, got {lines[bad][:40]!r}")
        columns = [pa.array([match[i] for match in found if match], pa.string()) for i in (1, 2, 3)]
    ids, titles, genres = columns
    ids = parse_integers(ids.cast(pa.string()).combine_chunks() if csv else ids)
    if ids is None:
        raise DataError(f"{member.name} has a movie id that is no integer")
    years = pc.struct_field(pc.extract_regex(titles.cast(pa.string()), YEAR), "year")
    genres = pc.if_else(pc.equal(genres, "(no genres listed)"), None, genres)
    return TableSource(pa.table({"movie_id": ids, "year": years, "genres": genres}), member.name)
