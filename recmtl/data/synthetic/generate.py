"""Generate rows in the AliExpress layouts with known click and conversion probabilities.

A search has one user and several items. Columns are drawn first, with the zeros, skews and blocks of the real files;
then the planted truth, a sum of effects of the columns, gives each row its log-odds of a click and, if clicked, of a
conversion. The AUC of the true probabilities, the Bayes AUC, is the best that a model can be expected to reach.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from recmtl.data.raw.aliexpress_layout import (
    CATEGORICAL,
    CLICK,
    CONVERSION,
    NUMERICAL,
    SEARCH_ID,
    USER_CATEGORICAL,
    USER_NUMERICAL,
)
from recmtl.data.synthetic.bayes import TaskTruth, bayes_auc
from recmtl.data.synthetic.folder import check_generated, check_size, generated_folder, split_sizes
from recmtl.data.synthetic.streams import CHUNK_ROWS, STREAMS, stream
from recmtl.data.synthetic.truth import WEIGHTS, Array, Columns, PlantedTruth, effects_of, intercept, sigmoid
from recmtl.data.synthetic.writers import WRITERS
from recmtl.schema.thinning import SplitName, Thinning, thinning_of

Drawn = dict[str, npt.NDArray[np.generic]]
Append = Callable[[Columns], None]  # appends whole searches, given by column name

THINNING = 1  # in the seed of the random numbers that thin a file
CALIBRATION_ROWS = 200_000
MAX_SEARCH_ROWS = 20
SEARCH_ENDS = 0.25  # probability that a row is the last of its search
MAX_VOCABULARY = 2**31

USER_ID, ITEM_ID = "categorical_1", "categorical_10"  # columns that `vocabulary` enlarges
CARDINALITIES = dict(zip(CATEGORICAL, (12, 4, 6, 2, 21, 7, 50, 8, 7, 300, 2, 2, 2, 24, 3, 5), strict=True))

# (last column, share of zeros, shape) of blocks of adjacent numeric columns, which are zero together (a user without
# history, an item never sold) and nearly repeat their first column, as in the real files. Effects use first columns.
USER_BLOCKS = ((3, 0.60, "skewed"), (8, 0.30, "count"), (21, 0.14, "unit"), (23, 0.75, "skewed"))
ITEM_BLOCKS = (
    (27, 0.60, "skewed"), (32, 0.10, "unit"), (37, 0.20, "unit"), (46, 0.30, "unit"), (51, 0.15, "unit"),
    (57, 0.10, "unit"), (58, 0.50, "count"), (60, 0.99, "unit"), (63, 0.30, "unit"),
)  # fmt: skip
SHAPES: dict[str, Callable[[Array], Array]] = {
    "unit": lambda uniform: uniform,
    "skewed": lambda uniform: uniform**3,
    "count": lambda uniform: np.floor(1 + 5 * np.log1p(-uniform) ** 2),  # heavy-tailed and unbounded
}


@dataclass(frozen=True)
class FileCounts:
    """The contents of one file."""

    rows: int
    searches: int
    clicks: int
    conversions: int


@dataclass(frozen=True)
class Truth:
    """The content of `truth.json`: the arguments, the contents of the files, and the Bayes AUC of each task.

    The contents are those of thinned files, the AUC that of all test rows.
    """

    rows: int
    seed: int
    vocabulary: int
    click_rate: float
    conversion_rate: float
    negative_rate: float
    thinned: list[SplitName]
    files: dict[str, FileCounts]
    test: dict[str, TaskTruth]


def synthesize(
    out: str | Path,
    rows: int,
    *,
    seed: int = 0,
    vocabulary: int = 0,
    click_rate: float = 0.05,
    conversion_rate: float = 0.10,
    layout: Literal["processed", "raw"] = "processed",
    negative_rate: float = 1.0,
    thinned: Sequence[SplitName] = ("train",),
    progress: Callable[[int], None] | None = None,
) -> Truth:
    """Write `train.csv`, `valid.csv` and `test.csv` (80, 10 and 10 % of the rows) and `truth.json`.

    The raw layout has the same rows in `user_train.csv`, `item_train.csv`, `user_test.csv` and `item_test.csv`; it has
    no validation files, so the validation rows follow the training rows.

    Equal arguments give equal files. The files appear when all are complete, `truth.json` last. Memory is independent
    of `rows` except for 18 bytes per test row.

    Args:
        out: The folder of the files; created if missing.
        rows: The total number of rows.
        seed: The seed of the planted truth and the rows.
        vocabulary: The number of user ids (`categorical_1`) and item ids (`categorical_10`); 0 for small categories.
        click_rate: The expected share of rows with a click.
        conversion_rate: The expected share of clicks with a conversion.
        layout: ``processed``, one CSV per split, or ``raw``, the user and item files of the original download.
        negative_rate: The rate at which rows without a click are kept in thinned files; of a seed, those of a lower
            rate are among those of a higher one.
        thinned: The files to thin. In the raw layout the validation rows are as thin as the training rows.
        progress: Called with the number of rows drawn so far, those that a thinned file drops included.

    Raises:
        ValueError: An argument is out of range.
        ExistsError: The folder has files of these names that were not generated.
        SchemaError: `negative_rate` or `thinned` is.
    """
    out, thinning = Path(out), thinning_of(negative_rate, ("click",) if negative_rate != 1 else (), thinned)
    _check_arguments(out, rows, seed, vocabulary, click_rate, conversion_rate)
    planted = calibrate(seed=seed, vocabulary=vocabulary, click_rate=click_rate, conversion_rate=conversion_rate)
    check_generated(out)
    with generated_folder(out) as folder:
        done = progress or (lambda rows: None)
        counts, tasks = _write_files(folder.path, planted, split_sizes(rows), vocabulary, layout, thinning, done)
        thin = list(thinning.thinned) if thinning else []
        truth = Truth(rows, seed, vocabulary, click_rate, conversion_rate, negative_rate, thin, counts, tasks)
        folder.write_truth(asdict(truth))
    return truth


def _check_arguments(
    out: Path, rows: int, seed: int, vocabulary: int, click_rate: float, conversion_rate: float
) -> None:
    check_size(out, rows, seed)
    if vocabulary != 0 and not 2 <= vocabulary <= MAX_VOCABULARY:
        raise ValueError(f"`vocabulary` must be 0 or from 2 to {MAX_VOCABULARY}, got {vocabulary}")
    for name, rate in (("click_rate", click_rate), ("conversion_rate", conversion_rate)):
        if not 0 < rate < 1:
            raise ValueError(f"`{name}` must be above 0 and below 1, got {rate}")


def calibrate(*, seed: int, vocabulary: int, click_rate: float, conversion_rate: float) -> PlantedTruth:
    """Return the planted truth for arguments of `synthesize`, calibrated on rows of a separate stream.

    Effects are standardized, so that their weights mean the same for every seed, and the intercepts yield the rates.
    """
    chunks = (stream(seed, "calibration", chunk) for chunk in range(CALIBRATION_ROWS // CHUNK_ROWS))
    effects = np.concatenate([effects_of(_draw_features(rng, CHUNK_ROWS, vocabulary, 0), seed) for rng in chunks])
    centre, spread = effects.mean(axis=0), effects.std(axis=0)  # [E]
    click, conversion = ((effects - centre) / spread @ WEIGHTS).T  # [n] each
    click_intercept = intercept(click, np.ones_like(click), click_rate)
    conversion_intercept = intercept(conversion, sigmoid(click + click_intercept), conversion_rate)
    return PlantedTruth(seed, centre, spread, np.array([click_intercept, conversion_intercept]))


def _write_files(
    folder: Path,
    planted: PlantedTruth,
    sizes: Mapping[str, int],
    vocabulary: int,
    layout: str,
    thinning: Thinning | None,
    progress: Callable[[int], None],
) -> tuple[dict[str, FileCounts], dict[str, TaskTruth]]:
    into = {name: "train" if name == "valid" and layout == "raw" else name for name in sizes}
    counts = {split: np.zeros(4, dtype=np.int64) for split in into.values()}
    thin = {name: thinning for name in sizes if thinning and into[name] in thinning.thinned}
    kept = {name: np.random.default_rng([planted.seed, STREAMS[name], 0, THINNING]) for name in thin}
    tested, drawn = [], 0
    with ExitStack() as stack:
        writers = {split: stack.enter_context(WRITERS[layout](folder, split)) for split in counts}
        for name, columns, probabilities in _draw(planted, sizes, vocabulary):
            if name == "test":
                tested.append((*probabilities, columns[CLICK] == 1, columns[CONVERSION] == 1))
            drawn += len(columns[CLICK])
            if name in thin:
                mask = (columns[CLICK] == 1) | (kept[name].random(len(columns[CLICK])) < thin[name].negative_rate)
                columns = {column: values[mask] for column, values in columns.items()}
            writers[into[name]](columns)
            searches = len(np.unique(columns[SEARCH_ID]))
            counts[into[name]] += [len(columns[CLICK]), searches, columns[CLICK].sum(), columns[CONVERSION].sum()]
            progress(drawn)
    tasks = bayes_auc(*(np.concatenate(chunks) for chunks in zip(*tested, strict=True)))
    return {name: FileCounts(*count.tolist()) for name, count in counts.items()}, tasks


def _draw(
    planted: PlantedTruth, sizes: Mapping[str, int], vocabulary: int
) -> Iterator[tuple[str, Drawn, tuple[Array, Array]]]:
    """Yield chunks of whole searches: their file, columns, and click and conversion probabilities."""
    last_search = 0
    for name, rows in sizes.items():
        for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
            rng = stream(planted.seed, name, chunk)
            columns = _draw_features(rng, min(CHUNK_ROWS, rows - start), vocabulary, last_search)
            last_search = int(columns["search_id"][-1])
            probabilities = planted.probabilities(columns)
            click, conversion = (rng.random(len(p)) < p for p in probabilities)
            columns |= {"click": click.astype(np.int64), "conversion": (click & conversion).astype(np.int64)}
            yield name, columns, probabilities


def _draw_features(rng: np.random.Generator, rows: int, vocabulary: int, last_search: int) -> Drawn:
    """Draw searches of one user and several items, with ids above `last_search`; the last is cut to fit `rows`."""
    sizes = np.minimum(rng.geometric(SEARCH_ENDS, size=rows), MAX_SEARCH_ROWS)
    search = np.repeat(np.arange(rows), sizes)[:rows]  # [rows]
    searches = int(search[-1]) + 1
    user: Drawn = {"search_id": last_search + rng.integers(1, 40, size=searches).cumsum()}
    user |= _draw_categories(rng, searches, CATEGORICAL[:USER_CATEGORICAL], vocabulary)
    user |= _draw_numbers(rng, searches, NUMERICAL[:USER_NUMERICAL], USER_BLOCKS)
    columns = {name: column[search] for name, column in user.items()}
    columns |= _draw_categories(rng, rows, CATEGORICAL[USER_CATEGORICAL:], vocabulary)
    return columns | _draw_numbers(rng, rows, NUMERICAL[USER_NUMERICAL:], ITEM_BLOCKS)


def _draw_categories(rng: np.random.Generator, rows: int, names: Sequence[str], vocabulary: int) -> Drawn:
    """Draw category k ≥ 0 about in proportion to (k + 1)^-0.8: Zipf-like, by inverting a power law."""
    drawn: Drawn = {}
    for name in names:
        size = vocabulary if vocabulary and name in (USER_ID, ITEM_ID) else CARDINALITIES[name]
        power_law = (1 + rng.random(rows) * ((size + 1) ** 0.2 - 1)) ** 5  # in [1, size + 1)
        drawn[name] = np.minimum(power_law.astype(np.int64) - 1, size - 1)
    return drawn


def _draw_numbers(
    rng: np.random.Generator, rows: int, names: Sequence[str], blocks: Sequence[tuple[int, float, str]]
) -> Drawn:
    drawn: Drawn = {}
    columns = iter(names)
    for last, zeros, shape in blocks:
        present, common = rng.random(rows) >= zeros, rng.random(rows)  # [rows] each: of the block
        uniform = common
        for name in columns:
            drawn[name] = np.round(SHAPES[shape](uniform), 6) * present
            if name == NUMERICAL[last - 1]:
                break
            uniform = 0.9 * common + 0.1 * rng.random(rows)
    return drawn
