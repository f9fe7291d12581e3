"""Do balancers win once all of them are tuned alike? python -m benchmarks.tuned NAME [FOLDER]

SharedBottom with every balancer, single-task training, boosted trees and a logistic regression, on a part of the rows
of *census* (Census-Income, FOLDER as of `benchmarks.comparison`) or on generated rows in the layout of *aliexpress*.
The options of each are searched on validation rows by the same number of trials: of nets the learning rate and the
balancer's own options, of `FixedWeights` the weight of each task. Then each is trained from five seeds with its best
options, and measured on the test rows. What is finished in the folder of `--out` is not run again, so that it can be
interrupted; the tables go to `--results` as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import recmtl
from benchmarks.comparison import RESULTS, cut, options, write
from recmtl.comparison import Budget, compare
from recmtl.data.synthetic.generate import synthesize
from recmtl.recipe.classes import known_names

BALANCERS = ("FixedWeights", *(name for name in known_names("balancer") if name != "FixedWeights"))
BASELINES = ("lightgbm", "histgb", "logistic")
TITLES = {"census": "Census-Income", "aliexpress": "generated rows in the layout of AliExpress"}
TRIALS, SEEDS = 20, 5
ROWS = {"train": 30_000, "valid": 10_000}  # of Census-Income, beside all test rows
GENERATED = 40_000  # rows in all
TOWERS = [16]
MODEL = {"class_path": "SharedBottom", "init_args": {"layers": [64, 32], "tower_layers": TOWERS}}
SINGLE_TASK = {"class_path": "SingleTask", "init_args": {"layers": [64, 32], "tower_layers": TOWERS}}
TRAINER = {"epochs": 4, "optimization": {"batch_size": 512}, "stopping": {"patience": 2}, "run": {"threads": 1}}


def census(source: Path, folder: Path) -> dict[str, str]:
    """Write a part of the rows of Census-Income, and return the files."""
    files = cut(source / "census_valid.csv.gz", folder)
    for name, file in (("train", source / "census_train.csv.gz"), ("valid", Path(files["valid"]))):
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        path = folder / f"{name}_part.csv"
        frame.sample(min(ROWS[name], len(frame)), random_state=0).to_csv(path, index=False)
        files[name] = str(path)
    return files


def aliexpress(folder: Path, rows: int) -> dict[str, str]:
    """Generate rows, and return the files."""
    if not (folder / "truth.json").exists():
        synthesize(folder, rows, click_rate=0.2, conversion_rate=0.3)
    return {name: str(folder / f"{name}.csv") for name in ("train", "valid", "test")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["census", "aliexpress"])
    parser.add_argument("folder", type=Path, nargs="?", help="of Census-Income")
    parser.add_argument("--out", type=Path, default=Path("tuned"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--balancers", nargs="+", default=list(BALANCERS))
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES))
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=GENERATED, help="to generate")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(arguments)
    if (given.name == "census") != (given.folder is not None):
        parser.error("give the folder of Census-Income, and none for aliexpress")
    folder = given.out / given.name
    folder.mkdir(parents=True, exist_ok=True)
    files = census(given.folder, folder) if given.folder else aliexpress(folder, given.rows)
    card = "census_income" if given.folder else "aliexpress"
    recipe: dict[str, Any] = {"data": {"card": card}, "model": MODEL, "trainer": TRAINER}
    comparison = compare(
        recipe,
        folder / "comparison",
        [SINGLE_TASK, MODEL],
        given.balancers,
        given.seeds,
        baselines=given.baselines,
        options=options(folder, files),
        jobs=given.jobs,
        tuned=Budget(given.trials),
    )
    prepared = map(recmtl.PreparedData.open, (folder / "cache").iterdir())
    splits = next(data.splits for data in prepared if "test" in data.splits)
    counts = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
    title = f"All methods with {given.trials} trials each, on {TITLES[given.name]}"
    what = f"`python -m benchmarks.tuned {given.name}{' FOLDER' if given.folder else ''}`: {counts} rows"
    write(comparison, title, what, given.results / f"tuned_{given.name}.md")


if __name__ == "__main__":
    main()
