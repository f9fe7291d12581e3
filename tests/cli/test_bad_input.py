"""Bad input ends in exit status 2 and one line; nothing is left that a later run takes for complete."""

import json

import pandas as pd
import pytest
import yaml

from recmtl.cli.main import main

ROWS = 40
FRAME = pd.DataFrame(
    {"g": range(ROWS), "c": list("abcd") * 10, "x": range(ROWS), "y": [0, 1, 1, 0] * 10, "z": [0, 0, 1, 0] * 10}
)
CARD = {
    "features": [{"categorical": "c"}, {"numeric": "x"}],
    "tasks": [{"name": "t", "label": "y"}, {"name": "u", "label": "z"}],
    "group": "g",
    "keys": ["g"],
}
SMALL = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.device", "cpu"]
SMALL += ["--model", "SharedBottom", "--model.layers", "[4]"]


@pytest.fixture
def place(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    return tmp_path


def train(place, *options, train="a.csv", card="card.yaml", run="run"):
    known = ["--data.card", f"{place}/{card}", "--data.train", f"{place}/{train}", "--data.cache", f"{place}/cache"]
    return ["train", *SMALL, *known, "--run", f"{place}/{run}", *options]


def refused(capsys, arguments):
    """The one line that the command says; it must refuse."""
    status = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert status == 2, err
    assert err.startswith("recmtl: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    return err.removeprefix("recmtl: ").rstrip("\n")


def nothing_left(place):
    """Neither a run nor a dataset that would open, and the good input still trains."""
    cache = place / "cache"
    return not (place / "run").exists() and not (cache.exists() and any(cache.iterdir()))


class TestData:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "there is no file '{path}'"),
            ("", "{path} is empty: expected a header and rows"),
            ("g,c,x,y,z\n", "there are no rows in {path}"),
            ("g,c,xx,y,z\n1,a,1,0,0\n", "column 'x' is not in {path}; did you mean 'xx'?"),
            ("g c x y z\n1 a 1 0 0\n", "column 'c' is not in {path}; its columns begin with 'g c x y z'"),
            ("g,c,x,y,z\n1,a,1,0,0\n2,b,q,1,0\n", "{path}, line 3, column 'x': 'q' is not a number"),
            (
                "g,c,x,y,z\n1,a,1,0,0\n2,b,inf,1,0\n",
                "{path}, line 3, column 'x': inf is not a finite number: at least 1 row has an infinite one; leave "
                "out such rows (`--bad_rows skip`, or `bad_rows` of the command or function), drop the column, or "
                "leave the cells empty",
            ),
            (
                "g,c,x,y,z\n1,a,1,0,0\n\n2,b,2,3,0\n",
                "{path}, line 4, column 'y': '3' is not a binary label: expected a number from 0 to 1, or nothing",
            ),
            ("g,c,x,y,z\n1,a,1,0,0\n2,b,1\n", "{path}, line 3: 3 columns, expected 5"),
            ("g,c,x,y,z,c\n1,a,1,0,0,b\n", "{path} has the column 'c' twice"),
            (b"\x89PNG\r\n\x1a\n\0\0\0", "{path} is not a CSV file: expected a header in UTF-8 text"),
            (b"g,c,x,y,z\n1,\xff,1,0,0\n", "{path}, line 2, column 'c': '\ufffd' is not text in UTF-8"),
        ],
    )
    def test_bad_file(self, place, capsys, content, message):
        path = place / "bad.csv"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        expected = message.format(path=path)
        assert refused(capsys, train(place, train="bad.csv")) == expected
        prepare = ["prepare", "--card", place / "card.yaml", "--train", path, "--out", place / "out"]
        assert refused(capsys, prepare) == expected
        assert nothing_left(place)
        assert not (place / "out").exists()

    @pytest.mark.parametrize("name", ["bad.csv.gz", "bad.parquet", "bad.arrow"])
    def test_file_of_another_kind(self, place, capsys, name):
        (place / name).write_bytes(b"g,c,x,y,z\n1,a,1,0,0\n")
        assert refused(capsys, train(place, train=name)).startswith(f"{place / name} cannot be read: ")
        assert nothing_left(place)

    def test_folder_that_exists(self, place, capsys):
        (place / "out").mkdir()
        (place / "out" / "mine").touch()
        command = ["prepare", "--card", place / "card.yaml", "--train", place / "a.csv", "--out", place / "out"]
        assert "exists already: choose another folder" in refused(capsys, command)

    def test_damaged_prepared_dataset(self, place, capsys):
        command = ["prepare", "--card", place / "card.yaml", "--train", place / "a.csv", "--out", place / "out"]
        assert main([str(a) for a in command]) == 0
        capsys.readouterr()
        (place / "out" / "train-00000.arrow").write_bytes(b"x")
        assert "train-00000.arrow is damaged, prepare the data again: it has 1 bytes of" in refused(
            capsys, train(place, train="out")
        )
        assert nothing_left(place)

    def test_no_data(self, place, capsys):
        command = ["train", *SMALL, "--run", place / "run"]
        assert refused(capsys, command) == "there are no training rows: give `--data.train`"
        message = refused(capsys, [*command, "--data.train", place / "a.csv"])
        assert message == (
            "nothing says what to predict: name the label columns, `--label COLUMN`, or give a dataset card, "
            "`--data.card`, a YAML file or a shipped name"
        )


class TestCard:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features": [{"numeric": "y"}]}, "column 'y' is the label of task 't' and cannot be a feature as well"),
            ({"features": [{"numeric": "*"}]}, "and cannot be a feature as well"),
            ({"features": [{"numeric": "x", "transfrom": "log1p"}]}, "did you mean 'transform'?"),
            ({"features": [{"categorical": "c", "min_count": 0}]}, "`min_count` must be an integer of at least 1"),
            ({"features": 5}, "`features` must be a list, got 5"),
            ({"keys": "g"}, "`keys` must be a list, got 'g'"),
            ({"group": "gg"}, "column 'gg' is not in"),
            ({"tsks": []}, "unknown key 'tsks'; did you mean 'tasks'?"),
            ({"tasks": []}, "a schema needs at least one task"),
        ],
    )
    def test_bad_card(self, place, capsys, change, message):
        (place / "card.yaml").write_text(yaml.safe_dump(CARD | change))
        assert message in refused(capsys, train(place))
        assert nothing_left(place)

    @pytest.mark.parametrize("content", ["a: [", "- 1", "", "\x00"])
    def test_no_card(self, place, capsys, content):
        (place / "card.yaml").write_text(content)
        assert str(place / "card.yaml") in refused(capsys, train(place))

    def test_unknown_names(self, place, capsys):
        message = refused(capsys, ["prepare", "--card", "nope", "--train", place / "a.csv", "--out", place / "out"])
        assert message.startswith("there is no dataset card 'nope': give a file or one of aliccp, aliexpress, ")
        message = refused(capsys, train(place, "--config", "nope"))
        assert message.startswith("there is no recipe 'nope': give a file or one of ")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--nope", "1"], ["--nope"]),
            (["--trainer.nope", "1"], ["nope"]),
            (["--model", "MMOEE"], ["MMOEE"]),
            (["--balancer", "MetaBalanceX"], ["MetaBalanceX"]),
            (["--model", "nowhere.Model"], ["nowhere.Model"]),
            (["--model.nope", "3"], ["nope"]),
            (["--trainer.epochs", "0"], ["`epochs`", "at least 1", "got 0"]),
            (["--trainer.epochs", "many"], ["epochs", "many"]),
            (["--trainer.optimization.batch_size", "0"], ["`batch_size`", "got 0"]),
            (["--trainer.optimization.schedule", "up"], ["schedule", "up", "cosine"]),
            (["--trainer.stopping.monitor", "nope.auc"], ["nope.auc"]),
            (["--trainer.run.seed", "-1"], ["seed", "-1"]),
            (["--data.holdout", "2"], ["`holdout`", "[0, 1)", "2"]),
            (["--balancer", "MetaBalance", "--balancer.relax_factor", "7"], ["relax_factor", "7"]),
        ],
    )
    def test_refused(self, place, capsys, options, words):
        message = refused(capsys, train(place, *options))
        assert all(word in message for word in words), message
        assert not (place / "run").exists()
        for left in (place / "cache").glob("*"):  # what was prepared before the refusal is whole
            assert (left / "manifest.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["nope"], "there is no command 'nope': the commands are "),
            (["synth"], "out"),
            (["synth", "--out", "x", "--rows", "many"], "many"),
            (["synth", "--out", "x", "--plant", "bias"], "bias"),
            (["synth", "--out", "x", "--plant", "domains", "--strength", "-1"], "`strength` must be from 0 to 10"),
            (["synth", "--out", "x", "--plant", "domains", "--hidden", "1"], "`hidden` belongs to `selection`"),
            (["synth", "--out", "x", "--plant", "domains", "--layout", "raw"], "leave it out with `--plant`"),
            (["synth", "--out", "x", "--plant", "domains", "--thinned", "test"], "`--thinned` belongs to rows in"),
            (["synth", "--out", "x", "--strength", "2"], "`--strength` belongs to a planted problem: name one with"),
            (["prepare", "--card", "aliexpress"], "out"),
            (["prepare", "--card", "aliexpress", "--out", "x"], "give either `--train`"),
            (["prepare", "--card", "aliexpress", "--out", "x", "--raw", "y"], "`--part`: NL, ES, FR, US, RU"),
            (["prepare", "--card", "aliexpress", "--out", "x", "--part", "NL"], "`--raw`"),
            (["prepare", "--card", "x.yaml", "--out", "x", "--train", "y", "--part", "NL"], "`--part` is for `--raw`"),
            (["prepare", "--out", "x", "--raw", "y"], "raw files need their card"),
            (["prepare", "--card", "mine.yaml", "--out", "x", "--raw", "y"], "no layout of raw files 'mine'"),
            (["prepare", "--card", "kuairec", "--out", "x", "--raw", ".", "--part", "NL"], "must be left out"),
            (
                ["prepare", "--card", "aliexpress", "--out", "x", "--raw", "y", "--part", "NL", "--train", "z"],
                "`--raw`",
            ),
            (
                ["prepare", "--card", "aliexpress", "--out", "x", "--raw", "y", "--part", "NL", "--test", "z"],
                "`--raw`",
            ),
            (["prepare", "--card", "aliexpress", "--out", "x", "--raw", "gone", "--part", "NL"], "'gone'"),
            (
                ["prepare", "--card", "aliexpress", "--out", "x", "--raw", "gone", "--part", "DE"],
                "NL, ES, FR, US, RU",
            ),
            (["evaluate"], "run"),
            (["predict", "somewhere"], "rows"),
            (["evaluate", "somewhere", "--rows", "x", "--nope"], "--nope"),
        ],
    )
    def test_commands(self, capsys, arguments, word):
        assert word in refused(capsys, arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, to be copied and damaged."""
    place = tmp_path_factory.mktemp("trained")
    FRAME.to_csv(place / "a.csv", index=False)
    (place / "card.yaml").write_text(yaml.safe_dump(CARD))
    assert main(train(place)) == 0
    return place


class TestRun:
    @pytest.fixture
    def place(self, trained, tmp_path):
        for path in trained.rglob("*"):
            if path.is_file():
                copy = tmp_path / path.relative_to(trained)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        return tmp_path

    def both(self, place, capsys):
        """What `evaluate` and `predict` say: the same."""
        evaluated = refused(capsys, ["evaluate", place / "run", "--rows", place / "a.csv"])
        out = place / "predictions.parquet"
        assert refused(capsys, ["predict", place / "run", "--rows", place / "a.csv", "--out", out]) == evaluated
        assert not list(place.glob("*predictions*"))
        return evaluated

    def test_the_copy_is_good(self, place, capsys):
        assert main(["evaluate", str(place / "run"), "--rows", str(place / "a.csv")]) == 0

    def test_is_not_overwritten(self, place, capsys):
        assert "holds a finished run" in refused(capsys, train(place))
        (place / "run" / "metrics.json").unlink()
        assert "holds an unfinished run" in refused(capsys, train(place))
        assert "holds an unfinished run" in self.both(place, capsys)

    @pytest.mark.parametrize("folder", ["gone", "cache", "a.csv"])
    def test_no_run(self, place, capsys, folder):
        message = refused(capsys, ["evaluate", place / folder, "--rows", place / "a.csv"])
        assert str(place / folder) in message
        assert "is not a run" in message

    @pytest.mark.parametrize("file", ["recipe.yaml", "schema/schema.json", "checkpoints/best/checkpoint.pt"])
    @pytest.mark.parametrize("damage", ["gone", "empty", "half", "binary"])
    def test_damaged(self, place, capsys, file, damage):
        path = place / "run" / file
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "binary": b"\x80\xff\0" * 9}[damage])
        assert str(place / "run") in self.both(place, capsys)

    def test_checkpoint_of_another_schema(self, place, capsys):
        (place / "card.yaml").write_text(yaml.safe_dump(CARD | {"features": [{"numeric": "x"}]}))
        assert main(train(place, run="other")) == 0
        capsys.readouterr()
        best = "checkpoints/best/checkpoint.pt"
        (place / "run" / best).write_bytes((place / "other" / best).read_bytes())
        assert "was trained on another schema" in self.both(place, capsys)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"drop": "c"}, "column 'c' is not in"),
            ({"x": "many"}, "column 'x': 'many' is not a number"),
        ],
    )
    def test_bad_rows(self, place, capsys, change, message):
        rows = FRAME.drop(columns=change.pop("drop", [])).assign(**change)
        rows.to_csv(place / "b.csv", index=False)
        out = place / "predictions.parquet"
        assert message in refused(capsys, ["evaluate", place / "run", "--rows", place / "b.csv"])
        assert message in refused(capsys, ["predict", place / "run", "--rows", place / "b.csv", "--out", out])
        assert not list(place.glob("*predictions*"))

    def test_labels_are_needed_to_evaluate_alone(self, place, capsys):
        FRAME[["x", "c"]].to_csv(place / "b.csv", index=False)
        message = refused(capsys, ["evaluate", place / "run", "--rows", place / "b.csv"])
        assert f"is not in {place / 'b.csv'}" in message
        out = place / "predictions.parquet"
        assert main(["predict", str(place / "run"), "--rows", str(place / "b.csv"), "--out", str(out)]) == 0
        assert list(pd.read_parquet(out).columns) == ["t", "u"]
        assert len(pd.read_parquet(out)) == ROWS


class TestDataWithoutInformationTrains:
    @pytest.mark.parametrize(
        ("change", "note"),
        [
            ({"x": 3.0}, "note: numeric column 'x' is constant in the training rows"),
            ({"x": None}, "note: numeric column 'x' is missing in every training row"),
            ({"c": "a"}, "note: categorical column 'c' is constant in the training rows"),
            ({"c": None}, "note: categorical column 'c' is missing in every training row"),
        ],
    )
    def test_columns_without_information(self, place, capsys, change, note):
        FRAME.assign(**change).to_csv(place / "a.csv", index=False)
        assert main(train(place, "--data.test", f"{place}/a.csv")) == 0
        assert note in capsys.readouterr().err.splitlines()
        metrics = json.loads((place / "run" / "metrics.json").read_text())
        assert metrics["test"]["t"]["auc"] is not None

    @pytest.mark.parametrize(
        ("labels", "note", "reason"),
        [
            (0, "has one class in the training rows: every label is 0", "every one of the 40 labels is 0"),
            (1, "has one class in the training rows: every label is 1", "every one of the 40 labels is 1"),
            (None, "has no training row with a label", "no row has a label"),
        ],
    )
    def test_task_of_one_class(self, place, capsys, labels, note, reason):
        FRAME.assign(z=labels).to_csv(place / "a.csv", index=False)
        assert main(train(place, "--data.test", f"{place}/a.csv")) == 0
        assert f"note: task 'u' {note}" in capsys.readouterr().err.splitlines()
        metrics = json.loads((place / "run" / "metrics.json").read_text())["test"]
        assert metrics["u"]["auc"] is None
        assert metrics["u"]["reason"] == reason
        assert metrics["t"]["auc"] is not None

    def test_too_few_rows_for_a_holdout(self, place, capsys):
        FRAME.assign(g=2)[:8].to_csv(place / "a.csv", index=False)
        assert main(train(place)) == 0
        assert "there are no validation rows" in capsys.readouterr().err
