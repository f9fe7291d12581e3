"""The tables of a comparison in each format, and their notes."""

import io
import re

import pandas as pd
import pytest
from planted import Plant
from rich.console import Console

from recmtl.cli.compare import LiveTable, print_tables
from recmtl.comparison import export
from recmtl.comparison.export import write_tables
from recmtl.comparison.grid import GridRun, Variant
from recmtl.comparison.progress import RunEnd
from recmtl.comparison.tables import result_tables

SINGLE, BEST, EQUAL = Variant("SingleTask", "Sum"), Variant("MMOE_|wide&*", "Sum"), Variant("ESMM", "PCGrad")
SIGNALS = {SINGLE: {"a": 1.0, "b": 1.0}, BEST: {"a": 2.0, "b": 0.3}, EQUAL: {"a": 2.0, "b": 1.0}}
WORST = {row: {"a": 2.0 if row == BEST else 0.5} for row in SIGNALS}


def cells_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_equals_the_dataframes(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    header, rule, *rows = cells_of((comparison.folder / "table.md").read_text())
    assert header == ["model", "balancer", "a auc", "b auc", "runs", "time", "memory"]
    assert rule == ["---"] * 2 + ["---:"] * 5
    table = comparison.table()
    for task, column in (("a", 2), ("b", 3)):
        for cells, line in zip(rows, table[table["task"] == task].itertuples(), strict=False):
            text = f"{line.mean:.4f} ± {line.sd:.4f}"
            assert cells[column] == (f"**{text}**" if line.best else f"{text} ‡" if line.tied else text)
    assert rows[1][:2] == [r"MMOE_\|wide&*", "Sum"]
    assert rows[0][4:] == ["4", "1.5 s", "4 MB"]  # seconds 0 to 3, megabytes 1 to 4


def test_csv_reads_back_with_all_numbers(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    found = pd.read_csv(comparison.folder / "table.csv")
    columns = ["task", "metric", "runs", "mean", "sd", "best", "tied"]
    pd.testing.assert_frame_equal(found[columns], comparison.table()[columns])
    assert found["seconds"][0] == 1.5
    assert found["p"].isna().sum() == 2  # the best rows
    transfer = pd.read_csv(comparison.folder / "transfer.csv")
    pd.testing.assert_frame_equal(transfer, comparison.differences(reference="SingleTask"))


def test_latex_has_complete_rows_and_escapes_special_characters(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    text = (comparison.folder / "table.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    content = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert len(re.findall(r"(?<!\\)\{", content)) == len(re.findall(r"(?<!\\)\}", content))
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    rows = [line for line in content.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows] == [columns] * 4
    assert r"MMOE\_|wide\&*" in content
    assert r"\textbf{" in content
    assert "% a: 1 variant not significantly different from the best" in text


def test_the_terminal_shows_every_cell(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    shown = result_tables(plant(SIGNALS))
    print_tables(shown)
    printed = capsys.readouterr().out
    for table in shown:
        assert all(cell.text in printed for row in table.rows for cell in row)
        assert all(note in printed for note in table.notes)


def test_notes_agree_with_the_tests(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    main, transfer = result_tables(comparison)
    (best,) = (
        f"{line.model} with {line.balancer}"
        for line in comparison.table().query("task == 'a'").itertuples()
        if line.best
    )
    assert main.notes[1] == (
        f"a: 1 variant not significantly different from the best, {best}; 1 variant significantly worse, "
        "at 95 % (Holm, 6 pairs of variants)."
    )
    assert transfer.notes[1:] == [
        f"a: positive transfer with {BEST}, {EQUAL}, at 95 % (Holm, 4 comparisons).",
        f"b: negative transfer with {BEST}; 1 variant not significantly different from single-task training, at 95 % "
        "(Holm, 4 comparisons).",
    ]
    assert transfer.rows[0][2].text.startswith("+0.")
    assert transfer.rows[0][3].text.startswith("−0.")
    assert [cell.bold for cell in transfer.rows[1][2:]] == [True, False]


def test_a_loss_that_rises_is_negative_transfer(plant: Plant) -> None:
    _, transfer = result_tables(plant(SIGNALS), "logloss")
    assert f"b: negative transfer with {BEST}" in transfer.notes[2]


@pytest.mark.parametrize(
    ("signals", "seeds", "metric", "said"),
    [
        (
            {row: {"a": 1.0} for row in SIGNALS},
            4,
            None,
            r"a: no variant differs significantly from the best, \S+ with \w+, at",
        ),
        (
            WORST,
            4,
            None,
            r"a: MMOE_\|wide&\* with Sum is significantly better than 2 other variants, at 95 % \(Holm",
        ),
        (WORST, 1, "logloss", "a: not tested: logloss needs at least two seeds"),
        ({BEST: {"a": 1.0}}, 4, None, r"a: there is no other variant to compare \S+ with Sum with"),
    ],
)
def test_the_conclusion_for_each_outcome(
    plant: Plant, signals: dict[Variant, dict[str, float]], seeds: int, metric: str | None, said: str
) -> None:
    main, *_ = result_tables(plant(signals, seeds), metric)
    assert re.search(said, main.notes[1])


@pytest.mark.parametrize(("seeds", "said"), [(1, True), (2, False)])
def test_a_single_seed_is_noted(plant: Plant, seeds: int, said: bool) -> None:
    comparison = plant(SIGNALS, seeds)
    for table in result_tables(comparison):
        assert any(note.startswith("A variant with a single run is tested as that run") for note in table.notes) == said
    for table in result_tables(comparison, "logloss"):  # not tested with a single seed
        assert not any(note.startswith("A variant with a single run") for note in table.notes)


def test_no_note_on_tests_if_nothing_was_tested(plant: Plant) -> None:
    (main,) = result_tables(plant({BEST: {"a": 1.0}}, 1))
    assert not any(note.startswith("A variant with a single run") for note in main.notes)


def test_no_difference_to_single_task(plant: Plant) -> None:
    _, transfer = result_tables(plant({row: {"a": 1.0} for row in SIGNALS}))
    said = "a: no variant differs significantly from single-task training, at 95 % (Holm, 2 comparisons)."
    assert transfer.notes[1] == said


def test_failed_runs_are_listed(plant: Plant) -> None:
    main, *_ = result_tables(plant(SIGNALS, failed=((EQUAL, 0),)))
    assert main.notes[-1] == "Failed: ESMM with PCGrad, seed 0: no memory | left"
    assert main.rows[2][4].text == "3 of 4"


def test_a_terminal_shows_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "recmtl.cli.compare.Console",
        lambda **options: Console(**options | {"file": screen, "force_terminal": True, "width": 80}),
    )
    runs = [GridRun(Variant("MMOE", "Sum"), seed, {}) for seed in range(3)]
    with LiveTable() as table:
        table.count_rows("train", 1000)
        table.begin(runs)
        table.finish(RunEnd(runs[0], None, "auc 0.7500"))
        table.start(runs[1])
        table.start(runs[2])
        table.finish(RunEnd(runs[2], 4.0, "finished", "no memory left"))
    printed = screen.getvalue()
    last = printed[printed.rindex("seed 0") :]
    assert re.search(r"MMOE with Sum │ auc 0.7500 │\s+0 s … │ failed", last)
    assert "2 of 3 runs" in last
    assert "MMOE with Sum, seed 2 · failed: no memory left" in printed


def test_a_failed_export_leaves_the_old_tables(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    before = (comparison.folder / "table.md").read_text()
    monkeypatch.setattr(export, "latex", lambda table: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_tables(comparison, "logloss")
    assert (comparison.folder / "table.md").read_text() == before


def test_without_variance_nothing_is_significant(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmtl.comparison.differences.auc_difference", lambda *_: None)
    main, transfer = result_tables(plant(SIGNALS))
    assert main.notes[1] == "a: not tested: the variance of auc cannot be estimated."
    assert transfer.notes[1] == "a: not tested against single-task training."


def test_a_class_that_stands_once_is_named_without_its_options(plant: Plant) -> None:
    bottom, balancer = "SharedBottom(layers=[64, 32], tower_layers=[16])", "MetaBalance(beta=0.5)"
    names = [
        (bottom, "Sum"),
        ("MMOE(experts=2)", "Sum"),
        ("MMOE(experts=4)", "Sum"),
        (bottom, balancer),
        ("logistic", ""),
    ]
    comparison = plant({Variant(*name): {"a": signal} for name, signal in zip(names, range(5), strict=True)})
    main, *_ = result_tables(comparison)
    assert [[cell.text for cell in row[:2]] for row in main.rows] == [
        ["SharedBottom", "Sum"],
        ["MMOE(experts=2)", "Sum"],
        ["MMOE(experts=4)", "Sum"],
        ["SharedBottom", "MetaBalance"],
        ["logistic", "–"],
    ]
    assert main.notes[-1] == f"Options: SharedBottom is {bottom}; MetaBalance is {balancer}."
    assert not any(bottom in note or balancer in note for note in main.notes[:-1])
    assert {*comparison.table()["model"]} == {name for name, _ in names}  # as in `table.csv`
