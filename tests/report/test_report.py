"""What a report says, and that nothing in it is taken for markup."""

import base64
import dataclasses
import hashlib
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_names import SCRIPT, SHOPS, rows
from sklearn.metrics import roc_auc_score

from recmtl.cli.main import main
from recmtl.data import DataError
from recmtl.evaluate import auc_difference
from recmtl.evaluate.slices import slice_table
from recmtl.report import difference_frame, metric_frame, open_runs, report_html
from recmtl.report.rows import values_of
from recmtl.report.svg import _font, drawn
from recmtl.report.tables import difference_sentence, same_rows
from recmtl.schema import SchemaError, Task
from recmtl.train import RunError

VOID = {"meta", "link", "br", "img", "input", "hr"}


def quiet(what: str, rows: int) -> None:
    """Take no notice."""


class Reader(HTMLParser):
    """Checks that tags are closed in their order, and collects what stands in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def read(page: Path) -> Reader:
    return Reader(page.read_text())


def test_names_are_shown_and_never_run(read: Reader) -> None:
    assert len(read.all("script")) == 1
    assert len(read.all("b")) == 0
    assert read.text["title"] == ["</title><script>alert(2)</script>"]
    for shop in SHOPS:
        assert shop in read.text["th"]
    assert SCRIPT in " ".join(read.text["p"])
    assert any("<b>first&1" in text for text in read.text["h3"])
    assert "Rows with <b>markup</b>." in read.text["p"]


def test_names_in_figures_are_no_formulas(read: Reader) -> None:
    labels = [text for text in read.text["text"] if text]
    assert {SCRIPT[:12] + "…" + SCRIPT[-11:], "$x^$", "\u200b_under & over", "plain"} <= set(labels)


def test_nothing_is_fetched_and_only_what_is_known_runs(page: Path, read: Reader) -> None:
    for _, attributes in read.tags:
        assert not {"src", "srcset", "style", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(m["content"] for m in read.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.read_text(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "url(" not in content
        assert "@import" not in content


def test_ids_are_unique_and_what_refers_to_one_finds_it(page: Path, read: Reader) -> None:
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    text = page.read_text()
    referred = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', text))
    assert {name for names in referred for name in names if name} <= set(ids)


def test_headings_tables_and_figures_can_be_read_out(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tags = Counter(tag for tag, _ in read.tags)
    assert tags["caption"] == tags["table"] > 10
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.all("th"))
    assert tags["main"] == tags["nav"] == tags["header"] == 1
    figures = read.all("svg")
    assert len(figures) == tags["figure"] > 10
    for figure in figures:
        assert figure["role"] == "img"
        assert re.search(r"\d", figure["aria-label"] or "")


def ratio(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(page: Path, theme: int) -> None:
    colors = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", page.read_text(), re.DOTALL)[theme]))
    for name in ("ink", "soft", "link", "warn"):
        assert ratio(colors[name], colors["paper"]) >= 4.5
        assert ratio(colors[name], colors["shade"]) >= 4.5
    for line in range(8):
        assert ratio(colors[f"c{line}"], colors["paper"]) >= 4.5
    assert ratio("#000000", "#ffffff") == pytest.approx(21)


def test_metrics_are_those_of_the_predictions(folder: Path, first: Path) -> None:
    runs = open_runs([first, folder / "second"])
    frame = metric_frame(runs, draws=10).set_index(["run", "task", "metric"])
    predicted = pd.read_parquet(folder / "second" / "predictions" / "test.parquet")
    assert frame.loc[("second", "ctr", "auc"), "value"] == pytest.approx(
        roc_auc_score(predicted.label_click, predicted.ctr)
    )
    clicked = predicted[predicted.label_click == 1]
    assert frame.loc[("second", "cvr", "auc"), "rows"] == len(clicked)
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).mean() > 0.8
    assert set(frame.loc[("second", "stay")].index) == {"mae", "rmse", "r2"}
    bare = metric_frame(runs, draws=0).set_index(["run", "task", "metric"])
    assert np.isnan(bare.loc[("second", "ctr", "logloss"), "low"])


def test_runs_are_compared_with_the_first(folder: Path, first: Path) -> None:
    runs = open_runs([first, folder / "second"])
    frame = difference_frame(runs).set_index("task")
    expected = auc_difference([runs[1].scores["ctr"]], [runs[0].scores["ctr"]])
    assert expected is not None
    assert tuple(frame.loc["ctr", ["difference", "low", "high", "p"]]) == pytest.approx(
        (expected.estimate, expected.low, expected.high, expected.p)
    )
    assert set(frame["against"]) == {first.name}
    assert (frame["p_holm"] >= frame["p"]).all()


def test_the_sentence_says_what_differences_support() -> None:
    known = {"task": "ctr", "run": "b", "against": "a", "low": 0.0, "high": 0.0, "p": 0.0}
    frame = pd.DataFrame([known | {"difference": -0.02, "p_holm": 0.01}, known | {"difference": 0.5, "p_holm": 0.06}])
    said = difference_sentence(frame)
    assert said == (
        "Told from zero at 95% (Holm, comparisons: 2): b is worse than a on ctr by 0.0200. This is about these runs: "
        "the same recipes with other seeds might give other ones (`recmtl compare` takes several)."
    )
    assert difference_sentence(frame.tail(1)).startswith("No difference can be told from zero at 95%")


def test_other_rows_are_not_compared(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "second", tmp_path / "third")
    (tmp_path / "third" / "predictions" / "test.parquet").unlink()  # which leaves the validation rows
    runs = open_runs([first, tmp_path / "third"])
    assert runs[1].split == "valid"
    assert not same_rows(*runs)
    assert difference_frame(runs).empty
    text = " ".join(Reader(report_html(runs, draws=0)).text["p"])
    assert "Measured on other rows, or with other row weights, than <b>first&1, so not compared with it: third." in text


@pytest.mark.parametrize(
    "changed",
    [{"weight": "w"}, {"tasks": [Task("ctr", "click"), Task("cvr", "buy")]}],
    ids=["weight", "condition"],
)
def test_rows_that_count_otherwise_are_not_compared(
    folder: Path, first: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    one, other = open_runs([first, folder / "second"])
    given = other.predictions
    weight = np.linspace(1, 2, len(given.labels["click"])) if "weight" in changed else None
    schema = dataclasses.replace(given.schema, **changed)
    other = dataclasses.replace(other, predictions=dataclasses.replace(given, schema=schema, weight=weight))
    assert difference_frame([one, other]).empty
    assert "not compared with it: second." in report_html([one, other], draws=0)


@pytest.mark.parametrize("feature", ["shop", "genres", "count", "price"])
def test_slices_by_raw_and_by_prepared_rows_agree(folder: Path, first: Path, feature: str) -> None:
    (run,) = open_runs([first])
    prepared, raw = (values_of(run, feature, given, quiet) for given in (None, f"{folder}/test.csv"))
    tables = [slice_table(run.predictions, values).sort_values(["task", "rows", "value"]) for values in (prepared, raw)]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables))


def test_a_slice_worked_by_hand(folder: Path, first: Path) -> None:
    (run,) = open_runs([first])
    table = slice_table(run.predictions, values_of(run, "shop", None, quiet)).set_index(["task", "value"])
    predicted = pd.read_parquet(first / "predictions" / "test.parquet")
    mine = predicted[(rows(600, 2)["shop"] == SCRIPT).to_numpy()]
    found = table.loc[("ctr", SCRIPT)]
    assert found["auc"] == pytest.approx(roc_auc_score(mine.label_click, mine.ctr))
    assert (found["rows"], found["positives"]) == (len(mine), mine.label_click.sum())
    assert table.loc["ctr", "auc"].is_monotonic_increasing


def test_rows_that_were_not_predicted(folder: Path, first: Path, tmp_path: Path) -> None:
    (run,) = open_runs([first])
    other = rows(600, 2)
    other.loc[17, "click"] = 1 - other.loc[17, "click"]
    other.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(
        DataError, match=r"other.csv, row 18, column 'click': [01], but predicted was a row with [01]: exp"
    ):
        values_of(run, "shop", str(tmp_path / "other.csv"), quiet)
    with pytest.raises(DataError, match="has 400 rows, expected the 600 that were predicted"):
        values_of(run, "shop", f"{folder}/valid.csv", quiet)
    with pytest.raises(SchemaError, match="names 'nothing', which is no column of"):
        values_of(run, "nothing", f"{folder}/test.csv", quiet)
    with pytest.raises(SchemaError, match="no feature 'nothing': expected one of shop, genres, price, count"):
        values_of(run, "nothing", None, quiet)


def test_the_group_is_sliced_by_without_any_data(first: Path) -> None:
    (run,) = open_runs([first])
    values = values_of(run, "search", "no/such/file.csv", quiet)
    assert len(slice_table(run.predictions, values).query("task == 'ctr'")) == 5  # bins of equal shares


def test_data_that_is_gone(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "moved")
    recipe = tmp_path / "moved" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("train.csv", "gone.csv"))
    runs = open_runs([tmp_path / "moved"])
    read = Reader(report_html(runs, draws=0))
    assert "this is what the run itself holds" in " ".join(read.text["p"])
    assert {"shop", "price"} <= set(read.text["th"])
    with pytest.raises(DataError, match=r"give `--rows`: .*gone\.csv"):
        values_of(runs[0], "shop", None, quiet)


def test_runs_that_cannot_be_shown(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "run")
    with pytest.raises(RunError, match="is named twice"):
        open_runs([first, first / "."])
    shutil.rmtree(tmp_path / "run" / "predictions")
    with pytest.raises(RunError, match="holds no predictions of test or validation rows"):
        open_runs([tmp_path / "run"])
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match="holds an unfinished run"):
        open_runs([tmp_path / "run"])
    with pytest.raises(DataError, match="is not a run"):
        open_runs([tmp_path])


def test_runs_of_the_same_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "second", tmp_path / "second")
    names = [run.name for run in open_runs([folder / "second", tmp_path / "second"])]
    assert names == [str(folder / "second"), str(tmp_path / "second")]


def test_dead_experts_are_named(read: Reader) -> None:
    text = " ".join(read.text["p"])
    assert "Dead (below a tenth of an even share for every task): none. Besides, ctr does not use 2." in text


def test_the_command_says_what_is_wrong(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(first), "--draws", "1", "--out", str(tmp_path / "out.html")]) == 2
    assert capsys.readouterr().err == "recmtl: `--draws` must be 0 or at least 2, got 1\n"
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_a_page_is_the_same_each_time(first: Path) -> None:
    pages = [report_html(open_runs([first]), ["shop"], draws=5) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_font_is_taken_apart() -> None:
    assert _font("11px 'DejaVu Sans', sans-serif") == {"font-size": "11px"}
    assert _font("italic bold 8.5px serif") == {"font-style": "italic", "font-weight": "bold", "font-size": "8.5px"}


def test_letters_that_xml_does_not_have_are_replaced() -> None:
    svg = drawn(lambda axes: axes.set_title("a\x00b\x0bc\ufffe<"), "words", 1)
    assert "a\ufffdb\ufffdc\ufffd&lt;" in svg
