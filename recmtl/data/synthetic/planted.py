"""Write the rows of a planted problem, its dataset card and what is known of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.bayes import TaskTruth
from recmtl.data.synthetic.domains import Domains
from recmtl.data.synthetic.folder import CARD, TEST_TRUTH, check_generated, check_size, generated_folder, split_sizes
from recmtl.data.synthetic.funnel import FunnelOfFour
from recmtl.data.synthetic.interactions import Interactions
from recmtl.data.synthetic.interests import Interests
from recmtl.data.synthetic.problem import DrawnRows, Problem
from recmtl.data.synthetic.selection import Selection
from recmtl.data.synthetic.streams import CHUNK_ROWS, stream
from recmtl.data.synthetic.writers import column_types, csv_writer
from recmtl.schema import Schema

Plant = Literal["selection", "funnel", "interests", "domains", "interactions"]
PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "selection": Selection,
    "funnel": FunnelOfFour,
    "interests": Interests,
    "domains": Domains,
    "interactions": Interactions,
}
MAX_STRENGTH = 10.0


@dataclass(frozen=True)
class PlantedFacts:
    """The content of `truth.json` of a planted problem.

    Args:
        plant: The problem.
        rows: The total number of rows.
        seed: The seed of the truth and the rows.
        strength: How strong the planted property is.
        hidden: The log-odds of the hidden factor of `selection`.
        files: The rows of each file, and the positives of each label.
        test: The Bayes AUC of each task on the test rows.
        planted: Figures of the test rows that show what is planted.
    """

    plant: Plant
    rows: int
    seed: int
    strength: float
    hidden: float
    files: dict[str, dict[str, int]]
    test: dict[str, TaskTruth]
    planted: dict[str, Any]


def plant(
    out: str | Path,
    problem: Plant,
    rows: int = 100_000,
    *,
    seed: int = 0,
    strength: float = 1.0,
    hidden: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> PlantedFacts:
    """Write generated rows with a planted property, and what is known of them.

    The folder holds `train.csv`, `valid.csv` and `test.csv` (80, 10 and 10 % of the rows), the dataset card
    `card.yaml`, the true probabilities of each test row in `test_truth.csv`, and `truth.json`. Equal arguments give
    equal files. The files appear when all are complete, `truth.json` last.

    Args:
        out: The folder of the files; created if missing.
        problem: ``selection``, ``funnel``, ``interests``, ``domains`` or ``interactions``.
        rows: The total number of rows.
        seed: The seed of the planted truth and the rows.
        strength: How strong the planted property is: the factor of its log-odds; 0 plants none.
        hidden: For ``selection``: the log-odds, in clicks and conversions, of one standard deviation of a factor that
            no column shows. Its bias cannot be corrected.
        progress: Called with the number of rows drawn so far.

    Raises:
        ValueError: An argument is out of range.
        ExistsError: The folder has files of these names that were not generated.

    Example:
        >>> import recmtl, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     truth = recmtl.plant(folder, "interactions", rows=2000)
        >>> truth.test["ctr"].auc > truth.planted["auc_without"]["ctr"]
        True
    """
    out = Path(out)
    check_size(out, rows, seed)
    built = _build(problem, seed, strength, hidden)
    check_generated(out, planted=True)
    with generated_folder(out) as folder:
        files, tested = _write_files(folder.path, built, split_sizes(rows), progress or (lambda rows: None))
        built.schema.save(folder.path / CARD)
        tasks, shown = built.tasks(tested), built.planted(tested)
        facts = PlantedFacts(problem, rows, seed, strength, hidden, files, tasks, shown)
        folder.write_truth(asdict(facts))
    return facts


def _build(problem: Plant, seed: int, strength: float, hidden: float) -> Problem:
    if problem not in get_args(Plant):
        raise ValueError(f"`plant` must be one of {', '.join(get_args(Plant))}, got {problem!r}")
    for name, value in (("strength", strength), ("hidden", hidden)):
        if not 0 <= value <= MAX_STRENGTH:
            raise ValueError(f"`{name}` must be from 0 to {MAX_STRENGTH:g}, got {value}")
    if hidden and problem != "selection":
        raise ValueError(f"`hidden` belongs to `selection`: leave it out for {problem!r}")
    return PROBLEMS[problem](seed, strength, **({"hidden": hidden} if hidden else {}))


def _write_files(
    folder: Path, problem: Problem, sizes: Mapping[str, int], progress: Callable[[int], None]
) -> tuple[dict[str, dict[str, int]], DrawnRows]:
    """Write the rows and the truth of the test rows; return the counts of each file, and the test rows."""
    labels = list(dict.fromkeys(task.label for task in problem.schema.tasks))
    counts = {name: {"rows": 0, **dict.fromkeys(labels, 0)} for name in sizes}
    tested: list[DrawnRows] = []
    done = 0
    with ExitStack() as stack:
        writers = {}
        for name, drawn in _draw(problem, sizes):
            types = column_types({column: drawn.columns[column] for column in _written(problem.schema, labels)})
            if name not in writers:
                writers[name] = stack.enter_context(csv_writer(folder / f"{name}.csv", types, header=True))
            writers[name](drawn.columns)
            rows = len(drawn.columns[labels[0]])
            counts[name]["rows"] += rows
            for label in labels:
                counts[name][label] += int(drawn.columns[label].sum())
            if name == "test":
                tested.append(DrawnRows({label: drawn.columns[label] for label in labels}, drawn.truth))
            done += rows
            progress(done)
        test = DrawnRows(_joined([drawn.columns for drawn in tested]), _joined([drawn.truth for drawn in tested]))
        stack.enter_context(csv_writer(folder / TEST_TRUTH, column_types(test.truth), header=True))(test.truth)
    return counts, test


def _draw(problem: Problem, sizes: Mapping[str, int]) -> Iterator[tuple[str, DrawnRows]]:
    """Yield chunks of rows with their file."""
    for name, rows in sizes.items():
        for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
            yield name, problem.draw(stream(problem.seed, name, chunk), min(CHUNK_ROWS, rows - start))


def _written(schema: Schema, labels: list[str]) -> list[str]:
    return [*(feature.name for feature in schema.features), *labels]


def _joined(chunks: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
