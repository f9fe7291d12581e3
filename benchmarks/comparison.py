"""Which differences between models and balancers are real: python -m benchmarks.comparison NAME [FOLDER]

*census*: single-task training with `Sum`, and SharedBottom and MMOE with six balancers, on Census-Income. *balancers*:
single-task training, and SharedBottom with every balancer, on the same rows. FOLDER holds census_train.csv.gz and
census_valid.csv.gz; the second is cut in two by a hash of each line: one half decides when to stop, the other is
measured. *aliexpress*: single-task training with `Sum` and ESMM with six balancers, on generated rows in the layout of
AliExpress. Each combination is trained from five seeds. What is finished in the folder of `--out` is not run again, so
that it can be interrupted; the tables go to `--results` as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import recmtl
from recmtl.comparison import Comparison, compare
from recmtl.data.synthetic.generate import synthesize
from recmtl.recipe.environment import environment

RESULTS = Path(__file__).parent / "results"
BALANCERS = ("Sum", "MetaBalance", "GradNorm", "PCGrad", "NormalizedSplitter", "RotoGrad")
LITERATURE = (
    *("MGDA", "IMTLG", "IMTLL", "CAGrad", "GradVac", "NashMTL", "FairGrad", "AlignedMTL", "UPGrad", "DualProj"),
    *("GradCraft", "GradDrop", "UncertaintyWeighting", "DWA", "RLW", "GLS", "STCH", "FAMO", "ExcessMTL", "DBMTL"),
    *("PPCGrad", "RotateOnly", "RotoGradNorm"),
)
SEEDS, ROWS = 5, 250_000
EPOCHS = 3
# The towers of ESMM, and as many layers for each task alone.
ESMM = {"tower_layers": [128, 64], "style": {"dropout": 0.2}}
SINGLE_TASK = {"class_path": "SingleTask", "init_args": {"layers": [128], "tower_layers": [64]}}


def cut(file: Path, folder: Path) -> dict[str, str]:
    """Cut a file in two by a hash of each of its lines, so that lines which are equal stay together."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    first = pd.util.hash_pandas_object(frame, index=False) % 2 == 0
    paths = {"valid": folder / "valid.csv", "test": folder / "test.csv"}
    frame[first].to_csv(paths["valid"], index=False)
    frame[~first].to_csv(paths["test"], index=False)
    return {name: str(path) for name, path in paths.items()}


def census(source: Path, folder: Path, every: bool, **grid: Any) -> Comparison:
    """Compare on Census-Income, by the shipped recipe of MMOE.

    Args:
        source: Holds the two files.
        every: Whether to compare every balancer, on SharedBottom alone.
        folder: Where what is written lies.
        grid: What else the comparison takes.
    """
    files = {"train": str(source / "census_train.csv.gz"), **cut(source / "census_valid.csv.gz", folder)}
    models = ["SingleTask", "SharedBottom"] if every else ["SingleTask", "SharedBottom", "MMOE"]
    balancers = BALANCERS + LITERATURE if every else BALANCERS
    return compare("census_mmoe", folder / "comparison", models, balancers, options=options(folder, files), **grid)


def aliexpress(folder: Path, rows: int = ROWS, **grid: Any) -> Comparison:
    """Compare on generated rows.

    Args:
        folder: Where what is written lies.
        rows: How many to generate.
        grid: What else the comparison takes.
    """
    names = ("train", "valid", "test")
    if not (folder / "truth.json").exists():
        synthesize(folder, rows, click_rate=0.10, conversion_rate=0.25)
    files = {name: str(folder / f"{name}.csv") for name in names}
    recipe = {
        "data": {"card": "aliexpress"},
        "model": {"class_path": "ESMM", "init_args": ESMM},
        "trainer": {"epochs": EPOCHS},
    }
    return compare(
        recipe, folder / "comparison", [SINGLE_TASK, "ESMM"], BALANCERS, options=options(folder, files), **grid
    )


def options(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Give what all runs share beside their recipe."""
    data = {f"data.{name}": path for name, path in files.items()}
    return {**data, "data.cache": str(folder / "cache"), "trainer.run.tensorboard": False}


def write(comparison: Comparison, title: str, what: str, file: Path) -> None:
    """Write the tables of a comparison, and what they are of."""
    machine = ", ".join(environment())
    tables = (comparison.folder / "table.md").read_text(encoding="utf-8")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# {title}\n\n{what}, on {machine}.\n\n{tables}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["census", "balancers", "aliexpress"])
    parser.add_argument("folder", type=Path, nargs="?", help="of Census-Income")
    parser.add_argument("--out", type=Path, default=Path("comparisons"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="to generate")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(arguments)
    if (given.name != "aliexpress") != (given.folder is not None):
        parser.error("give the folder of Census-Income, and none for aliexpress")
    grid, folder = {"seeds": given.seeds, "jobs": given.jobs}, given.out / given.name
    folder.mkdir(parents=True, exist_ok=True)
    if given.folder is not None:
        comparison = census(given.folder, folder, given.name == "balancers", **grid)
        title = "Census-Income" if given.name == "census" else "Every balancer on Census-Income"
    else:
        comparison, title = aliexpress(folder, given.rows, **grid), "Generated rows in the layout of AliExpress"
    rows = f"{len(recmtl.PreparedData.open(next((folder / 'cache').iterdir())).splits[comparison.split]):,}"
    what = f"`python -m benchmarks.comparison {given.name}{' FOLDER' if given.folder else ''}`: {rows} rows measured"
    write(comparison, title, what, given.results / f"comparison_{given.name}.md")


if __name__ == "__main__":
    main()
