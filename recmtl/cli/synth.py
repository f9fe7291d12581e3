"""The `synth` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from recmtl.cli.console import RowCounter, print_line
from recmtl.cli.parser import usage_errors
from recmtl.data.synthetic.bayes import TaskTruth
from recmtl.data.synthetic.days import plant_days
from recmtl.data.synthetic.generate import synthesize
from recmtl.data.synthetic.planted import plant as write_planted
from recmtl.errors import counted
from recmtl.schema import SplitName


def synth_command(
    out: Path,
    rows: int = 200_000,
    seed: int = 0,
    vocabulary: int = 0,
    click_rate: float = 0.05,
    conversion_rate: float = 0.10,
    layout: Literal["processed", "raw"] = "processed",
    negative_rate: float = 1.0,
    thinned: Sequence[SplitName] | None = None,
    plant: Literal["selection", "funnel", "interests", "domains", "interactions", "days"] | None = None,
    strength: float | None = None,
    hidden: float | None = None,
    days: int | None = None,
    new_ids: float | None = None,
) -> None:
    """Generate rows like AliExpress's from a known model, or with a planted property: CSV files and truth.json.

    Args:
        out: The folder to write.
        rows: Rows in all: 80 % train, 10 % validation, 10 % test.
        seed: The seed of the model and the rows.
        vocabulary: The number of values of each of two predictive id columns; 0 leaves these columns small.
        click_rate: Share of rows that are clicked.
        conversion_rate: Share of clicks that convert.
        layout: `processed` writes a CSV per split; `raw` writes AliExpress's user and item files, with the validation
            rows among the training rows.
        negative_rate: The rate at which rows without a click are kept in the files that are thinned.
        thinned: A file to thin, `train`, `valid` or `test`, by default `train`; may be repeated.
        plant: Write a small table that shows one property of a model, with its card and the true probabilities of the
            test rows: `selection` (clicked rows are not like all rows), `funnel` (four steps, all of whose rates are
            known), `interests` (the history decides, candidate by candidate), `domains` (which share half of their
            effects) or `interactions` (products of effects). `days` writes folders of rows by day, with new ids each
            day and drifting effects.
        strength: How strong the property is that `--plant` names: 1 if it is left out, 0 plants none.
        hidden: Log-odds of a hidden factor of clicks and conversions, for `--plant selection`; 0 if it is left out.
        days: The number of days from 2024-01-01, for `--plant days`; 7 if it is left out.
        new_ids: The share of the users and of the items of a day that are new, for `--plant days`; 0.05 if it is left
            out.
    """
    of_aliexpress = {
        "vocabulary": vocabulary,
        "click_rate": click_rate,
        "conversion_rate": conversion_rate,
        "layout": layout,
        "negative_rate": negative_rate,
        "thinned": thinned,
    }
    of_days = {"days": days, "new_ids": new_ids}
    of_planted = {"strength": strength, "hidden": hidden}
    tests: Mapping[str, TaskTruth]
    whose = "the test rows"
    with RowCounter() as counter, usage_errors():
        progress = counter.count_to("write")
        if plant is not None:
            _check_left_out(of_aliexpress, "belongs to rows in the layout of AliExpress: leave it out with `--plant`")
            _check_left_out(of_days if plant != "days" else {"hidden": hidden}, f"is no option of `--plant {plant}`")
            said: dict[str, Any] = {k: v for k, v in (of_planted | of_days).items() if v is not None}
            if plant == "days":
                by_day = plant_days(out, rows, seed=seed, progress=progress, **said)
                kept, (last, tests) = by_day.rows, [*by_day.test.items()][-1]
                whose = last
            else:
                facts = write_planted(out, plant, rows, seed=seed, progress=progress, **said)
                kept, tests = rows, facts.test
        else:
            _check_left_out(of_planted | of_days, "belongs to a planted problem: name one with `--plant`")
            options: dict[str, Any] = of_aliexpress | {"thinned": thinned or ("train",)}
            truth = synthesize(out, rows, seed=seed, progress=progress, **options)
            kept, tests = sum(file.rows for file in truth.files.values()), truth.test
    bayes = ", ".join(f"{name} {task.auc:.4f}" for name, task in tests.items() if task.auc is not None)
    print_line(f"{counted(kept, 'row')} in {out} · Bayes AUC of {whose}: {bayes}")


def _check_left_out(options: Mapping[str, object], why: str) -> None:
    """Check that options have their defaults."""
    defaults = signature(synth_command).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise ValueError(f"`--{name}` {why}")
