"""A CSV and a label: every command that takes rows infers the columns, and what it makes can be opened again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

import recmtl
from recmtl.cli.main import main
from recmtl.data.profiling.raw import RawTally, leak_warnings
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.short_options import funnel_of, write_out

ROWS = 240
SMALL = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.device", "cpu"]
SMALL += ["--model", "SharedBottom", "--model.layers", "[4]"]


def rows(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "search": np.arange(ROWS) // 3,
            "zip": rng.integers(0, 90, ROWS) + 10_000,
            "price": rng.normal(size=ROWS).round(3),
            "city": rng.choice(list("abc"), ROWS),
            "at": pd.date_range("2024-01-01", periods=ROWS, freq="7h"),
            "same": 1,
            "how_sure": rng.uniform(0.5, 2, ROWS).round(2),
            "click": rng.integers(0, 2, ROWS) == 1,
            "buy": rng.integers(0, 2, ROWS),
            "stars": rng.integers(1, 6, ROWS),
        }
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows(0).to_csv(tmp_path / "my.csv", index=False)
    rows(1).to_csv(tmp_path / "my_test.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = ["--data.train", "my.csv", "--data.test", "my_test.csv"]
SAID = ["--label", "click", "--label=buy", "--group", "search", "--weight", "how_sure", "--drop", "stars"]
SAID += ["--kind", "zip=categorical"]


def refused_last(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The last line that a command says; it must refuse."""
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err.rstrip("\n").splitlines()[-1]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a command says; it must refuse."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("recmtl: ").rstrip("\n")


def test_train_needs_no_card_and_no_recipe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--trainer.epochs", "1", "--model.layers", "[4]", "--model.tower_layers", "[4]"]
    assert main(["train", *DATA, "--label", "click", "--run", "run", *small]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[:3] == [
        "note: read 8 columns of my.csv by 240 of its rows: 4 categorical, 3 numeric, 1 timestamp",
        "note: left out: row (numbers the rows: from 0 to 239, each once), same ('1' in every row)",
        "note: `recmtl describe my.csv --label click` shows how each column is read",
    ]
    assert [line for line in out.splitlines() if line.startswith("│ auc")]
    assert json.loads((place / "run" / "metrics.json").read_text())["test"]["click"]["auc"] > 0


def test_a_run_resumes_loads_and_is_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, *DATA, *SAID, "--run", "run"]) == 0
    data = yaml.safe_load((place / "run" / "recipe.yaml").read_text())["data"]
    assert (data["card"], data["labels"], data["group"], data["weight"]) == (
        None,
        ["click", "buy"],
        "search",
        "how_sure",
    )
    assert (data["drop"], data["kinds"]) == (["stars"], {"zip": "categorical"})
    trainer = recmtl.load_run("run")
    schema = trainer.model.schema.schema
    assert [task.name for task in schema.tasks] == ["click", "buy"]
    assert {f.name: type(f).__name__ for f in schema.features} == {
        "zip": "Categorical",
        "price": "Numeric",
        "city": "Categorical",
        "at": "Timestamp",
    }
    assert list(trainer.predict("my_test.csv").columns) == ["search", "click", "buy"]
    (place / "run" / "metrics.json").unlink()
    other = ["--run", "run", "--resume", "--label", "buy"]
    assert "was begun with `data.labels` ['click', 'buy'], got ['buy']" in refused(capsys, ["train", *other])
    assert main(["train", "--run", "run", "--resume", *SAID]) == 0  # the same options may be given again
    assert main(["report", "run", "--out", "report.html"]) == 0
    assert "the data that the recipe names" not in (place / "report.html").read_text()


def test_a_regression_is_noted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, *DATA, "--label", "stars", "--run", "run"]) == 0
    out, err = capsys.readouterr()
    assert "note: label 'stars' has more than two values: a regression" in err
    assert [line for line in out.splitlines() if line.startswith("│ rmse")]


def test_compare(place: Path, warm_jobs: None, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--models", "SharedBottom", "--seeds", "1", "--out", "grid"]
    assert main(["compare", *SMALL, *DATA, *SAID, *grid]) == 0
    assert main(["compare", *SMALL, *DATA, *SAID, *grid]) == 0  # nothing is trained again
    out, err = capsys.readouterr()
    assert "note: read 4 columns of my.csv" in err
    assert "SharedBottom" in out


def test_prepare(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--train", "my.csv", "--test", "my_test.csv"]
    assert main(["prepare", *files, *SAID, "--out", "data"]) == 0
    assert "note: read 4 columns of my.csv" in capsys.readouterr().err
    inferred = recmtl.Schema.infer(
        "my.csv", ["click", "buy"], kinds={"zip": "categorical"}, drop=["stars"], group="search", weight="how_sure"
    )
    data = recmtl.prepare(inferred, "my.csv", test="my_test.csv")
    assert recmtl.PreparedData.open("data").schema.schema == data.schema.schema
    assert "`--card`" in refused(capsys, ["prepare", *files, "--out", "other"])
    said = refused(capsys, ["train", *SMALL, "--data.train", "data", "--label", "click"])
    assert said == "'data' is a prepared dataset: its labels and columns are those of its card"


def test_describe_shows_reasons_and_writes_a_card(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "my.csv", *SAID, "--out", "card.yaml", "--json"]) == 0
    described = {row["column"]: row for row in json.loads(capsys.readouterr().out)["columns"]}
    shown = {name: (row["kind"], row["reason"]) for name, row in described.items()}
    assert shown == {
        "search": ("group", ""),
        "how_sure": ("weight", ""),
        "row": ("left out", "numbers the rows: from 0 to 239, each once"),
        "zip": ("categorical", "as you say"),
        "price": ("numeric", described["price"]["reason"]),
        "city": ("categorical", "3 distinct values"),
        "at": ("timestamp", "dates with times"),
        "same": ("left out", "'1' in every row"),
        "stars": ("left out", "as you say"),
    }
    assert "# row: left out, numbers the rows: from 0 to 239, each once\n" in (place / "card.yaml").read_text()
    inferred = recmtl.Schema.infer(
        "my.csv", ["click", "buy"], kinds={"zip": "categorical"}, drop=["stars"], group="search", weight="how_sure"
    )
    assert recmtl.card("card.yaml") == inferred
    assert "'card.yaml' exists already" in refused(capsys, ["describe", "my.csv", *SAID, "--out", "card.yaml"])
    assert "give `--label`, and no `--card`" in refused(capsys, ["describe", "my.csv", "--out", "b.yaml"])
    assert main(["train", *SMALL, *DATA, "--data.card", "card.yaml", "--run", "run"]) == 0


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "nothing says what to predict: name the label columns, `--label COLUMN`, or give a dataset card"),
            (["--label", "clik"], "column 'clik' is not in my.csv; did you mean 'click'?"),
            (["--label", "city", "--kind", "city=binary"], "column 'city': '"),
            (["--label", "click", "--group", "serch"], "column 'serch' is not in my.csv; did you mean 'search'?"),
            (["--label", "click", "--drop", "nope"], "column 'nope' is not in my.csv"),
            (["--label", "click", "--kind", "zip=category"], "there is no kind of columns 'category'; did you mean"),
            (["--label", "click", "--kind", "zip"], "`--kind` must be COLUMN=KIND, such as `--kind zip=categorical`"),
            (["--label"], "`--label` needs the name of a column"),
            (["--label", "--drop"], "`--label` needs the name of a column"),
            (["--config", "demo", "--label", "click"], "the card 'aliexpress' says what the columns are: leave out"),
            (["--labels", "click"], "has no option `--labels`; did you mean `--"),
        ],
    )  # fmt: skip
    def test_in_one_line(
        self, place: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
    ) -> None:
        assert message in refused(capsys, ["train", *SMALL, *DATA, *options, "--run", "run"])
        assert not (place / "run").exists()


def test_a_card_beside_columns_is_refused_by_options_that_the_command_has(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, columns = "the card 'aliexpress' says what the columns are: leave out `group`, or the card", ["--group", "a"]
    key = "; to group metrics by a key of the card, train with `--trainer.stopping.group`"
    prepared = refused(capsys, ["prepare", "--train", "my.csv", "--card", "aliexpress", *columns, "--out", "out"])
    assert f"{said}{key}" in prepared
    trained = refused(capsys, ["train", *SMALL, *DATA, "--data.card", "aliexpress", *columns, "--run", "run"])
    assert f"{said} (`--data.card null` if a recipe names it){key}" in trained


def test_a_label_may_name_its_task(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = rows(0).rename(columns={"click": "items", "buy": "buy.now"})
    frame.to_csv("named.csv", index=False)
    data = ["--data.train", "named.csv", "--drop", "stars", "--drop", "row"]
    assert main(["train", *SMALL, *data, "--label", "ctr=items", "--label", "buy=buy.now", "--run", "run"]) == 0
    schema = recmtl.load_run("run").model.schema.schema
    assert [(task.name, task.label) for task in schema.tasks] == [("ctr", "items"), ("buy", "buy.now")]
    said = refused_last(capsys, ["train", *SMALL, *data, "--label", "items", "--run", "other"])
    assert said.endswith("a task cannot be named 'items', which is no name of a module: give it another one, such as "
                         "`--label NAME=items`")  # fmt: skip
    prepare = ["prepare", "--train", "named.csv", "--label", '["ctr=items"]', "--label", "b=buy.now", "--out", "data"]
    assert main(prepare) == 0
    tasks = recmtl.PreparedData.open("data").schema.schema.tasks
    assert [(task.name, task.label) for task in tasks] == [("ctr", "items"), ("b", "buy.now")]
    with pytest.raises(recmtl.SchemaError, match=r"column 'itms' is not in .*named\.csv; did you mean 'items'"):
        recmtl.Schema.infer("named.csv", ["ctr=itms"])


def test_a_funnel_needs_no_card(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its labels are what to predict; `train` notes the command that shows how columns are read, which takes it too."""
    model = ["--trainer.run.progress", "false", "--model", "ESMM", "--model.tower_layers", "[4]", "--drop", "stars"]
    tree = ["--funnel", "click", "buy:click", "same:buy"]
    assert main(["train", "--trainer.epochs", "1", *DATA, *model, *tree, "--run", "run"]) == 0
    err = capsys.readouterr().err
    assert "note: `recmtl describe my.csv --drop stars --funnel click buy:click same:buy` shows how each column" in err
    assert " training rows have a buy without a click" in err
    schema = recmtl.load_run("run").model.schema.schema
    assert schema.funnel == recmtl.Funnel("click", "buy", "same")
    assert [task.name for task in schema.tasks] == ["click", "buy", "same"]
    assert main(["describe", "my.csv", "--drop", "stars", *tree, "--out", "card.yaml"]) == 0
    assert yaml.safe_load(Path("card.yaml").read_text())["funnel"] == ["click", "buy", "same"]
    named = ["--label", "clicks=click", "--funnel", "click", "buy"]
    assert main(["prepare", "--train", "my.csv", *named, "--out", "data"]) == 0
    found = recmtl.PreparedData.open("data").schema.schema.reported_tasks
    assert [task.name for task in found] == ["clicks", "cvr", "ctcvr"]
    said = refused_last(capsys, ["train", *DATA, "--funnel", "click", "buy:clik", "--run", "other"])
    assert "the label 'buy' of a funnel follows 'clik', which is none of its labels (click, buy): name it, too" in said
    assert "`--funnel` needs labels in their order" in refused(capsys, ["train", *DATA, "--funnel"])


class TestShortOptions:
    def test_a_funnel_takes_all_words_up_to_the_next_option(self) -> None:
        given = ["--funnel", "click", "like:click", "--label", "a", "--funnel", "[share:click]"]
        written = '--data.funnel=["click", "like:click", "share:click"]'
        assert write_out(given) == [written, '--data.labels=["a"]']
        tree = recmtl.Funnel(parents={"click": None, "like": "click", "share": "click"})
        assert funnel_of(["click", "like:click", "share:click"]) == tree
        assert funnel_of(["click", "buy"]) == recmtl.Funnel("click", "buy")
        assert funnel_of(["click", "share:click", "cart:click", "pay", "follow:"]) == recmtl.Funnel(
            parents={"click": None, "share": "click", "cart": "click", "pay": "cart", "follow": None}
        )
        assert funnel_of([]) is None
        with pytest.raises(recmtl.SchemaError, match="the label 'click' stands twice in a funnel"):
            funnel_of(["click", "click:pay"])

    def test_they_are_written_out(self) -> None:
        given = ["--label", "a", "--x", "1", "--label=b,c", "--kind", "k=v=numeric", "--kind", "z=drop", "--group", "g"]
        assert write_out(given) == [
            *("--x", "1", "--data.group=g"),
            '--data.labels=["a", "b,c"]',
            '--data.kinds={"k=v": "numeric", "z": "drop"}',
        ]

    @pytest.mark.parametrize(
        "given",
        [
            ["--data.labels", "a", "--data.labels", '["b", "c"]'],
            ["--label", '["a"]', "--label=b", "--label", "[c]"],
            ["--label", "[a, b]", "--data.labels", "c"],
        ],
    )
    def test_lists_and_names_add_up(self, given: list[str]) -> None:
        assert write_out(given) == ['--data.labels=["a", "b", "c"]']

    def test_a_mapping_of_kinds_and_a_kind_add_up(self) -> None:
        kinds = '--data.kinds={"zip": "drop", "[x": "numeric"}'
        assert write_out(["--kind", '{"zip": "drop"}', "--kind", "[x=numeric"]) == [kinds]

    @pytest.mark.parametrize(
        "given",
        [
            ["--label", "a b", "--kind", "x.y=drop", "--drop", "c"],
            ["--data.labels", '["a b"]', "--data.kinds", '{"x.y": "drop"}', "--data.drop", "[c]"],
            ["--config", '{"data": {"labels": ["a b"], "kinds": {"x.y": "drop"}, "drop": ["c"]}}'],
            ["--config", '{"data": {"labels": ["z"]}}', "--label", "a b", "--kind", "x.y=drop", "--drop", "c"],
        ],
    )
    def test_every_spelling_means_the_same(self, given: list[str]) -> None:
        data: Any = parse_recipe(recipe_parser("test"), given).data
        assert (data.labels, data.kinds, data.drop) == (["a b"], {"x.y": "drop"}, ["c"])

    def test_a_recipe_is_taken_without_its_card(self, place: Path) -> None:
        assert main(["train", "--config", "demo", *SMALL, *DATA, "--data.card", "null", *SAID, "--run", "run"]) == 0


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_inferring_names_the_columns_that_give_a_label_away(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = rows(0)
    frame["paid"] = np.where(frame["buy"] == 1, 10.5, 0.25)
    frame["score"] = frame["buy"] + np.random.default_rng(0).uniform(0, 0.9, ROWS)
    frame.loc[3, "score"] = np.inf  # such rows are left out of the search
    frame.to_csv("leak.csv", index=False)
    options = {"train": ["--data.train", "leak.csv", *SMALL, "--bad_rows", "skip"]}
    options["prepare"] = ["--train", "leak.csv", "--out", "prepared", "--bad_rows", "skip"]
    main([command, *options[command], "--label", "buy", "--drop", "click"])
    said = " ".join("".join(capsys.readouterr()).split())
    assert (
        "column 'paid' is label 'buy' in other words: is it known before 'buy' is? `--drop paid` leaves it out" in said
    )
    assert "column 'score' alone separates label 'buy' with AUC 1.000" in said
    assert "column 'price'" not in said


def test_leaks_are_searched_in_few_rows_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.repeat([0, 1], 30_000)
    rows = pa.table({"x": label + 0.5, "y": label, "other": label})
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("y", "y")])
    looked: list[int] = []
    add = RawTally.add
    monkeypatch.setattr(
        RawTally, "add", lambda tally, batch, numbers: looked.append(len(batch)) or add(tally, batch, numbers)
    )
    (warning,) = leak_warnings(rows, schema)
    assert warning.startswith("column 'x' is label 'y' in other words")
    assert sum(looked) == 10_000


def test_rows_of_which_none_parses_are_not_searched() -> None:
    rows = pa.table({"x": ["oops"] * 5, "y": ["0"] * 5})
    assert leak_warnings(rows, recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("y", "y")])) == []


@pytest.mark.parametrize("model", ["ESMM", "ESCM2", "AITM", "MMOE"])
@pytest.mark.parametrize(
    ("values", "says"), [([0.0, 2.5], "'2.5' is not"), ([1, 2], "'2' is not"), (["yes", "no"], "'no' is not")]
)
def test_a_step_of_a_funnel_that_is_not_binary_is_named_with_its_line(
    model: str, values: list[object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the model: it would be a regression or multi-class if it were no step."""
    frame = pd.DataFrame({"x": np.arange(ROWS) / 7, "click": np.arange(ROWS) % 2, "step": values * (ROWS // 2)})
    frame.loc[5, "step"] = 3 if values == [0.0, 2.5] else frame.loc[5, "step"]  # more than two numbers
    frame.to_csv(tmp_path / "a.csv", index=False)
    command = ["train", "--data.train", str(tmp_path / "a.csv"), "--funnel", "click", "step", *SMALL[:-4]]
    err = refused_last(capsys, [*command, "--model", model, "--run", str(tmp_path / "run")])
    assert "a.csv, line " in err
    assert f"column 'step': {says} a binary label: expected 0" in err
    assert (
        recmtl.Schema.infer(frame, ["click", "step"], funnel=recmtl.Funnel("click", "step")).tasks[1].kind == "binary"
    )
