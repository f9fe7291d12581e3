"""The content of a report; names in it are never markup."""

import base64
import dataclasses
import hashlib
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import chain, pairwise
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
from recmtl.evaluate.significance import main_difference
from recmtl.evaluate.slices import slice_table
from recmtl.report import difference_frame, metric_frame, open_runs, report_html
from recmtl.report.figures import SERIES
from recmtl.report.run_data import PredictedRows
from recmtl.report.tables import difference_note, metric_notes, metric_tables, on_same_rows
from recmtl.schema import SchemaError, Task
from recmtl.train import RunError

VOID = {"meta", "link", "br", "img", "input", "hr"}


def quiet(what: str, rows: int) -> None:
    """Ignore progress."""


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


def test_names_are_text_and_never_markup(read: Reader) -> None:
    assert len(read.all("script")) == 1
    assert len(read.all("b")) == 0
    assert read.text["title"] == ["</title><script>alert(2)</script>"]
    for shop in SHOPS:
        assert shop in read.text["th"]
    (words,) = (text for text in read.text["p"] if text.startswith("ctr: AUC by shop."))
    assert words.count(f"lowest {SCRIPT} at ") == 2
    assert any("<b>first&1" in text for text in read.text["h3"])
    assert "Rows with <b>markup</b>." in read.text["p"]


def test_names_in_figures_are_no_formulas(read: Reader) -> None:
    figures = [base64.b64decode((image["src"] or "").partition(",")[2]).decode() for image in read.all("img")]
    labels = [text for svg in figures for text in Reader(svg).text["text"] if text]
    assert {SCRIPT[:12] + "…" + SCRIPT[-11:], "$x^$", "\u200b_under & over", "plain"} <= set(labels)


def test_nothing_is_fetched_and_only_known_scripts_run(page: Path, read: Reader) -> None:
    for _, attributes in read.tags:
        assert not {"srcset", "style", "action"} & set(attributes)
        assert (attributes.get("src") or "data:image/svg+xml;").startswith("data:image/svg+xml;")
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


def test_ids_are_unique_and_references_exist(page: Path, read: Reader) -> None:
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    text = page.read_text()
    referred = set(re.findall(r'href="#([^"]+)"|aria-labelledby="([^"]+)"', text))
    assert {name for names in referred for name in names if name} <= set(ids)


def test_headings_tables_and_figures_are_accessible(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tags = Counter(tag for tag, _ in read.tags)
    captions = {attributes["id"] for attributes in read.all("p") if attributes.get("class") == "caption"}
    assert {attributes["aria-labelledby"] for attributes in read.all("table")} == captions
    assert len(captions) == tags["table"] > 10
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.all("th"))
    assert tags["main"] == tags["nav"] == tags["header"] == 1
    figures = read.all("img")
    assert len(figures) == tags["figure"] > 10
    assert all(re.search(r"\d", figure["alt"] or "") for figure in figures)


def ratio(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def inverted(color: str) -> str:
    """The colour after the CSS filters `invert(1) hue-rotate(180deg)`."""
    rotation = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
    parts = np.clip(rotation @ [1 - int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)], 0, 1)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(page: Path, theme: int) -> None:
    colors = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", page.read_text(), re.DOTALL)[theme]))
    for name in ("ink", "soft", "link", "warn"):
        assert ratio(colors[name], colors["paper"]) >= 4.5
        assert ratio(colors[name], colors["shade"]) >= 4.5
    for color in SERIES:
        assert ratio(color if theme == 0 else inverted(color), colors["paper"]) >= 4.5
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
    assert frame["metric"].to_dict() == {"ctr": "auc", "cvr": "auc", "stay": "mae"}
    found = main_difference(runs[1].scores["stay"], runs[0].scores["stay"])
    assert tuple(frame.loc["stay", ["difference", "p"]]) == pytest.approx((found.estimate, found.p))
    assert "stay" not in difference_frame(runs, draws=0)["task"].tolist()


def test_the_note_lists_significant_differences() -> None:
    known = {"task": "ctr", "metric": "auc", "run": "b", "against": "a", "low": 0.0, "high": 0.0, "p": 0.0}
    stay = known | {"task": "stay", "metric": "mae", "difference": -0.1, "p_holm": 0.01}
    lower, chance = known | {"difference": -0.02, "p_holm": 0.01}, known | {"difference": 0.5, "p_holm": 0.06}
    frame = pd.DataFrame([lower, stay, chance])
    said = difference_note(frame)
    assert said == (
        "Significant at 95% (Holm, comparisons: 3): b is worse than a on ctr by 0.0200 in AUC; b is better than a on "
        "stay by 0.1000 in MAE. This holds for these runs: other seeds may give other results (`recmtl compare` trains "
        "several)."
    )
    assert difference_note(frame.tail(1)).startswith("No difference is significant at 95%")


def test_other_rows_are_not_compared(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "second", tmp_path / "third")
    (tmp_path / "third" / "predictions" / "test.parquet").unlink()  # leaves the validation rows
    runs = open_runs([first, tmp_path / "third"])
    assert runs[1].split == "valid"
    assert not on_same_rows(*runs)
    assert difference_frame(runs).empty
    text = " ".join(Reader(report_html(runs, draws=0)).text["p"])
    said = "Not compared with <b>first&1, because they were measured on other rows or labels, or with other row weights"
    assert f"{said}: third." in text


@pytest.mark.parametrize(
    "changed",
    [{"weight": "w"}, {"tasks": [Task("ctr", "click"), Task("cvr", "buy")]}],
    ids=["weight", "condition"],
)
def test_other_weights_or_conditions_are_not_compared(
    folder: Path, first: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    one, other = open_runs([first, folder / "second"])
    given = other.predictions
    weight = np.linspace(1, 2, len(given.labels["click"])) if "weight" in changed else None
    schema = dataclasses.replace(given.schema, **changed)
    other = dataclasses.replace(other, predictions=dataclasses.replace(given, schema=schema, weight=weight))
    assert difference_frame([one, other]).empty
    assert "with other row weights: second." in report_html([one, other], draws=0)


@pytest.mark.parametrize("feature", ["shop", "genres", "count", "price"])
def test_slices_by_raw_and_by_prepared_rows_agree(folder: Path, first: Path, feature: str) -> None:
    (run,) = open_runs([first])
    prepared, raw = (PredictedRows(run, given, quiet).values(feature) for given in (None, f"{folder}/test.csv"))
    tables = [slice_table(run.predictions, values).sort_values(["task", "rows", "value"]) for values in (prepared, raw)]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables))


def test_a_slice_worked_by_hand(folder: Path, first: Path) -> None:
    (run,) = open_runs([first])
    table = slice_table(run.predictions, PredictedRows(run, None, quiet).values("shop")).set_index(["task", "value"])
    predicted = pd.read_parquet(first / "predictions" / "test.parquet")
    mine = predicted[(rows(600, 2)["shop"] == SCRIPT).to_numpy()]
    found = table.loc[("ctr", SCRIPT)]
    assert found["auc"] == pytest.approx(roc_auc_score(mine.label_click, mine.ctr))
    assert (found["rows"], found["positives"]) == (len(mine), mine.label_click.sum())
    assert table.loc["ctr", "auc"].is_monotonic_increasing


def test_rows_that_were_not_predicted_are_errors(folder: Path, first: Path, tmp_path: Path) -> None:
    (run,) = open_runs([first])
    other = rows(600, 2)
    other.loc[17, "click"] = 1 - other.loc[17, "click"]
    other.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(
        DataError, match=r"other.csv, row 18, column 'click': [01], but the predicted row has [01]: exp"
    ):
        PredictedRows(run, str(tmp_path / "other.csv"), quiet).values("shop")
    with pytest.raises(DataError, match="has 400 rows, expected the 600 that were predicted"):
        PredictedRows(run, f"{folder}/valid.csv", quiet).values("shop")
    with pytest.raises(SchemaError, match="there is no column 'nothing' in"):
        PredictedRows(run, f"{folder}/test.csv", quiet).values("nothing")
    with pytest.raises(SchemaError, match="no feature 'nothing', expected one of shop, genres, price, count"):
        PredictedRows(run, None, quiet).values("nothing")


def test_slices_by_the_group_need_no_data(first: Path) -> None:
    (run,) = open_runs([first])
    values = PredictedRows(run, "no/such/file.csv", quiet).values("search")
    assert len(slice_table(run.predictions, values).query("task == 'ctr'")) == 5  # bins of equal shares


def test_a_report_without_the_data(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "moved")
    recipe = tmp_path / "moved" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("train.csv", "gone.csv"))
    runs = open_runs([tmp_path / "moved"])
    read = Reader(report_html(runs, draws=0))
    assert "so only its fitted schema is described" in " ".join(read.text["p"])
    assert {"shop", "price"} <= set(read.text["th"])
    with pytest.raises(DataError, match=r"give `--rows`: .*gone\.csv"):
        PredictedRows(runs[0], None, quiet).values("shop")


def test_runs_that_cannot_be_reported(folder: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "run")
    with pytest.raises(RunError, match="is given twice"):
        open_runs([first, first / "."])
    shutil.rmtree(tmp_path / "run" / "predictions")
    with pytest.raises(RunError, match="has no predictions of test or validation rows"):
        open_runs([tmp_path / "run"])
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match="is an unfinished run"):
        open_runs([tmp_path / "run"])
    with pytest.raises(DataError, match="is not a run"):
        open_runs([tmp_path])


def test_runs_with_the_same_folder_name_are_named_by_path(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "second", tmp_path / "second")
    names = [run.name for run in open_runs([folder / "second", tmp_path / "second"])]
    assert names == [str(folder / "second"), str(tmp_path / "second")]


def test_dead_experts_are_listed(read: Reader) -> None:
    text = " ".join(read.text["p"])
    assert "Dead experts (below a tenth of an even share for every task): none. Unused by ctr: 2." in text


def test_errors_of_the_command(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(first), "--draws", "1", "--out", str(tmp_path / "out.html")]) == 2
    assert capsys.readouterr().err == "recmtl: `--draws` must be 0 or at least 2, got 1\n"
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_metrics_are_rows_and_tasks_columns(folder: Path, first: Path) -> None:
    runs = open_runs([first, folder / "second"])
    frame = metric_frame(runs, draws=0)
    binary, regression = metric_tables(frame, several=True)
    assert binary.header == ["metric", "run", "ctr", "cvr"]
    assert regression.header == ["metric", "run", "stay"]
    texts = [[cell.text for cell in row] for row in binary.rows]
    values = frame.set_index(["run", "task", "metric"])
    for run, row in zip(("<b>first&1", "second"), texts[:2], strict=True):
        auc = [f"{values.loc[(run, task, 'auc'), 'value']:.4f}" for task in ("ctr", "cvr")]
        assert row == ["AUC", run, *auc]
    clicks, rate = runs[0].scores["ctr"].positives, runs[0].scores["ctr"].labels.mean()
    assert ["positives", "all", str(clicks)] in [row[:3] for row in texts]  # the same rows, so the same number
    assert texts[-1][2] == f"{rate:.2%}"
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    assert ["log-loss of a constant", "all", f"{entropy:.4f}"] in [row[:3] for row in texts]
    assert list(dict.fromkeys(row[0].text for row in regression.rows)) == [
        "MAE",
        "RMSE",
        "R²",
        "RMSE of a constant",
        "rows",
        "mean label",
    ]


def test_many_tasks_take_several_tables(first: Path) -> None:
    frame = metric_frame(open_runs([first]), draws=0)
    frame = pd.concat([frame.assign(task=[f"{task}{i}" for task in frame["task"]]) for i in range(4)])
    binary = [table.header[1:] for table in metric_tables(frame, several=False)[:2]]
    assert [len(tasks) for tasks in binary] == [6, 2]
    assert [*chain.from_iterable(binary)] == [f"{task}{i}" for i in range(4) for task in ("ctr", "cvr")]


def test_a_page_is_the_same_each_time(first: Path) -> None:
    pages = [report_html(open_runs([first]), ["shop"], draws=5) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_note_says_which_groups_are_left_out_of_grouped_metrics() -> None:
    task = {"run": "run", "reason": None, "groups": 2000.0}
    frame = pd.DataFrame(
        [
            {**task, "task": "ctr", "kind": "binary", "metric": "gauc", "left_out": 1200.0},
            {**task, "task": "ctr", "kind": "binary", "metric": "ndcg@10", "left_out": 1200.0},
            {**task, "task": "watch", "kind": "amount", "metric": "ndcg@10", "left_out": 3.0},
            {**task, "task": "spent", "kind": "amount", "metric": "ndcg@10", "left_out": 0.0},
        ]
    )
    assert metric_notes(frame) == [
        "ctr: 1,200 of 2,000 groups have one class alone and are left out of grouped metrics",
        "watch: 3 of 2,000 groups have equal labels and are left out of grouped metrics",
    ]
