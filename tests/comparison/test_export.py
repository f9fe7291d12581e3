"""The tables of a comparison, read back from each format, and the sentences below them."""

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from planted import Plant
from rich.console import Console

from recmtl.cli.compare import print_sheets
from recmtl.cli.live_table import LiveTable
from recmtl.comparison import export as formats
from recmtl.comparison.export import write_tables
from recmtl.comparison.grid import GridRun, Row
from recmtl.comparison.tables import sheets

SINGLE, BEST, EQUAL = Row("SingleTask", "Sum"), Row("MMOE_|wide&*", "Sum"), Row("ESMM", "PCGrad")
SIGNALS = {SINGLE: {"a": 1.0, "b": 1.0}, BEST: {"a": 2.0, "b": 0.3}, EQUAL: {"a": 2.0, "b": 1.0}}
WORST = {row: {"a": 2.0 if row == BEST else 0.5} for row in SIGNALS}


def cells_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_says_what_the_frames_say(plant: Plant) -> None:
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
    assert rows[1][:2] == [r"MMOE_\|wide&\*", "Sum"]
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


def test_latex_has_as_many_fields_as_columns_and_escapes_what_it_must(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    text = (comparison.folder / "table.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    rows = [line for line in text.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows] == [columns] * 4
    assert r"MMOE\_|wide\&*" in text
    assert r"\textbf{" in text
    assert r"$^\ddagger$" in text
    assert text.isascii()


def test_the_terminal_shows_every_field(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    shown = sheets(plant(SIGNALS))
    print_sheets(shown)
    printed = capsys.readouterr().out
    for sheet in shown:
        assert all(str(field) in printed for row in sheet.rows for field in row)
        assert all(note in printed for note in sheet.notes)


def test_the_sentences_say_what_the_tests_support(plant: Plant) -> None:
    comparison = plant(SIGNALS)
    main, transfer = sheets(comparison)
    (best,) = (
        f"{line.model} with {line.balancer}"
        for line in comparison.table().query("task == 'a'").itertuples()
        if line.best
    )
    assert main.notes[1] == (
        f"On a, 1 row cannot be told apart from the best, {best}; 1 row is worse, at 95 % (Holm, 6 pairs of rows)."
    )
    assert transfer.notes[1:] == [
        f"On a, transfer is positive for {BEST}, {EQUAL}, at 95 % (Holm, 4 comparisons).",
        f"On b, transfer is negative for {BEST}; 1 row cannot be told apart from single-task training, at 95 % "
        "(Holm, 4 comparisons).",
    ]
    assert transfer.rows[0][2].text.startswith("+0.")
    assert transfer.rows[0][3].text.startswith("−0.")
    assert [field.bold for field in transfer.rows[1][2:]] == [True, False]


def test_a_loss_that_rises_is_negative_transfer(plant: Plant) -> None:
    _, transfer = sheets(plant(SIGNALS), "logloss")
    assert f"On b, transfer is negative for {BEST}" in transfer.notes[2]


@pytest.mark.parametrize(
    ("signals", "seeds", "metric", "said"),
    [
        (
            {row: {"a": 1.0} for row in SIGNALS},
            4,
            None,
            r"On a, no row can be told apart from the best, \S+ with \w+, at",
        ),
        (WORST, 4, None, r"On a, MMOE_\|wide&\* with Sum is better than 2 other rows, at 95 % \(Holm, 3 pairs"),
        (WORST, 1, "logloss", "On a, nothing can be told: a single seed leaves logloss untested"),
        ({BEST: {"a": 1.0}}, 4, None, r"On a, there is nothing to hold \S+ with Sum against"),
    ],
)
def test_a_sentence_for_each_outcome(
    plant: Plant, signals: dict[Row, dict[str, float]], seeds: int, metric: str | None, said: str
) -> None:
    main, *_ = sheets(plant(signals, seeds), metric)
    assert re.search(said, main.notes[1])


@pytest.mark.parametrize(("seeds", "said"), [(1, True), (2, False)])
def test_a_single_seed_says_nothing_of_other_seeds(plant: Plant, seeds: int, said: bool) -> None:
    comparison = plant(SIGNALS, seeds)
    for sheet in sheets(comparison):
        assert any(note.startswith("A row with a single run is tested as that run") for note in sheet.notes) == said
    for sheet in sheets(comparison, "logloss"):  # which a single seed leaves untested
        assert not any(note.startswith("A row with a single run") for note in sheet.notes)


def test_nothing_is_said_of_tests_where_there_is_none(plant: Plant) -> None:
    (main,) = sheets(plant({BEST: {"a": 1.0}}, 1))
    assert not any(note.startswith("A row with a single run") for note in main.notes)


def test_no_row_can_be_told_from_single_task(plant: Plant) -> None:
    _, transfer = sheets(plant({row: {"a": 1.0} for row in SIGNALS}))
    assert transfer.notes[1] == (
        "On a, no row can be told apart from single-task training, at 95 % (Holm, 2 comparisons)."
    )


def test_what_failed_is_said(plant: Plant) -> None:
    main, *_ = sheets(plant(SIGNALS, failed=((EQUAL, 0),)))
    assert main.notes[-1] == "Failed: ESMM with PCGrad, seed 0: no memory | left"
    assert main.rows[2][4].text == "3 of 4"


def test_a_terminal_shows_the_table_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "recmtl.cli.live_table.Console",
        lambda **options: Console(**options | {"file": screen, "force_terminal": True, "width": 80}),
    )
    cells = [GridRun(Row("MMOE", "Sum"), seed, {}) for seed in range(3)]
    (tmp_path / "metrics.json").write_text('{"best": {"monitor": "auc", "value": 0.75}}')
    with LiveTable(cells) as board:
        board.kept(cells[0], tmp_path)
        board.started(cells[1])
        board.started(cells[2])
        board.ended(cells[2], tmp_path, "no memory left")
    printed = screen.getvalue()
    last = printed[printed.rindex("seed 0") :]
    assert re.search(r"MMOE with Sum │ auc 0.7500 │\s+0 s … │ failed", last)
    assert "2 of 3 runs" in last
    assert "MMOE with Sum, seed 2 · failed: no memory left" in printed


def test_formats_are_written_beside_and_renamed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = plant(SIGNALS)
    write_tables(comparison)
    before = (comparison.folder / "table.md").read_text()
    monkeypatch.setattr(formats, "latex", lambda sheet: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_tables(comparison, "logloss")
    assert (comparison.folder / "table.md").read_text() == before


def test_rows_that_show_no_variance_are_not_told_apart(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmtl.comparison.differences.auc_difference", lambda *_: None)
    main, transfer = sheets(plant(SIGNALS))
    assert main.notes[1] == "On a, nothing can be told: the rows and seeds at hand do not show how far auc varies."
    assert transfer.notes[1].startswith("On a, no row can be told apart from single-task training")
