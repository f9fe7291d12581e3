"""Planted days: rows by day, with new ids each day and effects that drift."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.bayes import TaskTruth, task_truth
from recmtl.data.synthetic.folder import CARD, DAYS, TRUTHS, check_generated, check_size, generated_folder
from recmtl.data.synthetic.problem import (
    CALIBRATION_ROWS,
    RATES,
    TASKS,
    category_effects,
    draw_categories,
    draw_numbers,
)
from recmtl.data.synthetic.streams import CHUNK_ROWS, stream
from recmtl.data.synthetic.truth import Array, Columns, intercept, sigmoid
from recmtl.data.synthetic.writers import column_types, csv_writer
from recmtl.schema import Categorical, Numeric, Schema

FIRST_DAY = date(2024, 1, 1)
IDS = {"user": 800, "item": 400}  # in use on a day
SIZES = {"category": 40, "brand": 30, "slot": 6}
NUMBERS = ("quality", "price")
SCALES = {"user": 0.5, "item": 0.7, "category": 0.6, "brand": 0.4, "slot": 0.2, "quality": 0.4, "price": 0.4}
DRIFTING = ("item", "category", "brand")  # whose effects change from day to day
DRIFT = 0.4  # the sine of the angle by which effects turn in a day, at a strength of 1
FIRST = "_first"  # of a task: its probability by the effects of the first day
MAX_DAYS, MAX_NEW_IDS = 366, 0.5


@dataclass(frozen=True)
class DayFacts:
    """The content of `truth.json` of planted days.

    Args:
        plant: ``days``.
        rows: The total number of rows.
        seed: The seed of the truth and the rows.
        strength: How fast effects drift.
        new_ids: The share of the ids of a day that are new.
        files: The rows of each day, and the positives of each label.
        test: The Bayes AUC of each task by day.
        planted: By day, the share of rows with an id that the first day has not, and the AUC of the effects of the
            first day: what a model reaches that stopped learning then.
    """

    plant: str
    rows: int
    seed: int
    strength: float
    new_ids: float
    files: dict[str, dict[str, int]]
    test: dict[str, dict[str, TaskTruth]]
    planted: dict[str, dict[str, float | None]]


class DriftingDays:
    r"""The truth of planted days, from which the rows of each are drawn.

    For task $t$ on day $d$ the log-odds are

    $$
    b_t + \sum_j s_j f_{tjd}(x_j)
    $$

    The effects $f$ of `item`, `category` and `brand` turn from day to day:
    $f_{d+1} = \cos\theta f_d + \sin\theta \varepsilon$ with $\sin\theta = 0.4 \cdot$ strength and new effects
    $\varepsilon$, so that the variance stays. Each day a share of the users and of the items leaves, the oldest, and as
    many new ones come.

    Args:
        seed: The seed.
        days: The number of days.
        strength: How fast effects drift; 0 is not at all.
        new_ids: The share of the ids of a day that are new.
    """

    schema = Schema(
        [*(Categorical(name) for name in (*IDS, *SIZES)), *map(Numeric, NUMBERS)],
        TASKS,
        description="Generated rows by day, with new ids each day and effects that drift.",
    )

    def __init__(self, seed: int, days: int, strength: float = 1.0, new_ids: float = 0.05) -> None:
        self.seed, self.days = seed, days
        self._new = {name: round(new_ids * size) for name, size in IDS.items()}
        self._effects = [*self._drift(strength)]
        logits = self._logits(self.features(stream(seed, "calibration"), 0, CALIBRATION_ROWS), 0)
        ones = np.ones(CALIBRATION_ROWS)
        self._intercepts = [intercept(scores, ones, rate) for scores, rate in zip(logits.T, RATES, strict=True)]

    def _drift(self, strength: float) -> Iterator[dict[str, Array]]:
        """Yield the effects of each day, by column `[2, ids or categories]`."""
        sine = min(1.0, DRIFT * strength)
        sizes = SIZES | {name: size + (self.days - 1) * self._new[name] for name, size in IDS.items()}
        now: dict[str, Array] = {}
        for day in range(self.days):
            rng = stream(self.seed, "effects", day)
            drawn = {name: category_effects(rng, len(TASKS), size) for name, size in sizes.items()}
            turned = {name: (1 - sine**2) ** 0.5 * now[name] + sine * drawn[name] for name in DRIFTING if now}
            now = drawn if not now else now | turned
            yield now

    def features(self, rng: np.random.Generator, day: int, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Draw the features of a day: its ids and its categories are all equally likely."""
        columns: dict[str, npt.NDArray[np.generic]] = {
            name: day * self._new[name] + rng.integers(size, size=rows) for name, size in IDS.items()
        }
        return columns | draw_categories(rng, rows, SIZES) | draw_numbers(rng, rows, NUMBERS)

    def known(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Return which rows have ids of the first day alone `[n]`."""
        first = [columns[name].astype(np.int64) < size for name, size in IDS.items()]
        found: npt.NDArray[np.bool_] = np.all(first, axis=0)
        return found

    def _logits(self, columns: Columns, day: int, known: bool = False) -> Array:
        """Return the log-odds without intercepts `[n, 2]` by the effects of a day; of `known` ids alone, or of all."""
        total = np.zeros((len(TASKS), len(columns[NUMBERS[0]])))
        for name, effects in self._effects[day].items():
            ids = columns[name].astype(np.int64)
            seen = ids < IDS[name] if known and name in IDS else np.ones(len(ids), np.bool_)
            total += SCALES[name] * effects[:, ids] * seen
        for name in NUMBERS:
            total += SCALES[name] * columns[name].astype(np.float64)
        return total.T

    def draw(self, day: int, rows: int) -> Iterator[tuple[Columns, dict[str, Array]]]:
        """Yield chunks of the rows of a day with their labels, and their true probabilities by task."""
        for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
            rng = stream(self.seed, "days", day, chunk)
            columns = self.features(rng, day, min(CHUNK_ROWS, rows - start))
            p = sigmoid(self._logits(columns, day) + self._intercepts)  # [n, 2]
            first = sigmoid(self._logits(columns, 0, known=True) + self._intercepts)
            labels = (rng.random(p.shape) < p).astype(np.int64)
            truth = {task.name: p[:, i] for i, task in enumerate(TASKS)}
            truth |= {f"{task.name}{FIRST}": first[:, i] for i, task in enumerate(TASKS)}
            yield columns | {task.label: labels[:, i] for i, task in enumerate(TASKS)}, truth


def plant_days(
    out: str | Path,
    rows: int = 70_000,
    days: int = 7,
    *,
    seed: int = 0,
    strength: float = 1.0,
    new_ids: float = 0.05,
    progress: Callable[[int], None] | None = None,
) -> DayFacts:
    """Write generated rows of several days, with new ids each day and drifting effects, and what is known of them.

    The folder holds the rows, `days/date=2024-01-01/rows.csv` and so on, their true probabilities in
    `truth/date=2024-01-01/rows.csv`, the dataset card `card.yaml`, and `truth.json`. Equal arguments give equal files.
    The files appear when all are complete, `truth.json` last.

    Args:
        out: The folder of the files; created if missing.
        rows: The total number of rows, equally many each day.
        days: The number of days, from 2024-01-01.
        seed: The seed of the planted truth and the rows.
        strength: How fast effects drift: 0 is not at all; at 1 those of a day correlate by 0.92 with the day before.
        new_ids: The share of the users and of the items of a day that are new.
        progress: Called with the number of rows drawn so far.

    Raises:
        ValueError: An argument is out of range.
        ExistsError: The folder has files of these names that were not generated.
    """
    out = Path(out)
    _check_arguments(out, rows, days, seed, strength, new_ids)
    problem = DriftingDays(seed, days, strength, new_ids)
    check_generated(out, planted=True, folders=(DAYS, TRUTHS))
    names = [str(FIRST_DAY + timedelta(days=day)) for day in range(days)]
    files: dict[str, dict[str, int]] = {}
    tests: dict[str, dict[str, TaskTruth]] = {}
    planted: dict[str, dict[str, float | None]] = {}
    with generated_folder(out) as folder:
        for day, name in enumerate(names):
            columns, truth = _write_day(folder.path, name, [*problem.draw(day, rows // days)])
            labels = {task.name: columns[task.label] == 1 for task in TASKS}
            files[name] = {"rows": rows // days, **{task.label: int(labels[task.name].sum()) for task in TASKS}}
            tests[name] = {task: task_truth(truth[task], positive) for task, positive in labels.items()}
            first = {f"{t}{FIRST}": task_truth(truth[f"{t}{FIRST}"], positive).auc for t, positive in labels.items()}
            planted[name] = {"new": float(1 - problem.known(columns).mean()), **first}
            if progress:
                progress((day + 1) * (rows // days))
        problem.schema.save(folder.path / CARD)
        facts = DayFacts("days", rows // days * days, seed, strength, new_ids, files, tests, planted)
        folder.write_truth(asdict(facts))
    return facts


def _write_day(
    folder: Path, name: str, chunks: Sequence[tuple[Columns, Mapping[str, Array]]]
) -> tuple[Columns, Mapping[str, Array]]:
    """Write the rows and the truth of a day, and return both."""
    joined = [
        {column: np.concatenate([chunk[part][column] for chunk in chunks]) for column in chunks[0][part]}
        for part in (0, 1)
    ]
    with ExitStack() as stack:
        for place, columns in zip((DAYS, TRUTHS), joined, strict=True):
            (folder / place / f"date={name}").mkdir(parents=True)
            file = folder / place / f"date={name}" / "rows.csv"
            stack.enter_context(csv_writer(file, column_types(columns), header=True))(columns)
    return joined[0], joined[1]


def _check_arguments(out: Path, rows: int, days: int, seed: int, strength: float, new_ids: float) -> None:
    check_size(out, rows, seed)
    if not 2 <= days <= MAX_DAYS:
        raise ValueError(f"`days` must be from 2 to {MAX_DAYS}, got {days}")
    if rows < 10 * days:
        raise ValueError(f"`rows` must be at least 10 a day, {10 * days}, got {rows}")
    if not 0 <= strength <= 1 / DRIFT:
        raise ValueError(f"`strength` must be from 0 to {1 / DRIFT:g}, at which no effect lasts, got {strength}")
    if not 0 <= new_ids <= MAX_NEW_IDS:
        raise ValueError(f"`new_ids` must be from 0 to {MAX_NEW_IDS:g}, got {new_ids}")
