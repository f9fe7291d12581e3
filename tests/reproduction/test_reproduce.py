"""A published setting on generated rows, from raw files to the verdict."""

import json
import math

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.cli.reproduce import print_reproduction
from recmtl.data.synthetic.generate import synthesize
from recmtl.errors import DataError, RunError
from recmtl.reproduction import Reproduction, reproduce
from recmtl.reproduction.result import SplitDigest
from recmtl.reproduction.verdict import find_task
from recmtl.runs.folder import RunFolder

SMALL = {"trainer.epochs": 2, "model.layers": [16], "model.tower_layers": [8], "model.experts": 2}


@pytest.mark.slow
def test_raw_and_processed_layout(csv, tmp_path, warm_jobs, capsys):
    """From end to end; the epochs are chosen without the labels of the test rows, which are turned around in one."""
    synthesize(tmp_path / "raw", 3000, seed=1, click_rate=0.2, conversion_rate=0.3, layout="raw")
    raw = reproduce("aliexpress-nl", "mmoe", tmp_path / "raw", tmp_path / "a", 2, options=SMALL)
    assert raw.verdict == "cannot say"
    said, trained, _ = " ".join(capsys.readouterr().err.split()).partition("seed 0")
    assert trained
    assert "the verdict will be that nothing can be said: 300 test rows are not" in said
    assert raw.doubts[0] == "300 test rows are not those of the figure, which has more than 1,000,000"
    assert raw.doubts[1].startswith("the setting was changed by trainer.epochs=2")
    assert [*raw.tasks] == ["ctr", "ctcvr"]
    assert all(len(found.values) == 2 and np.isfinite(found.difference_low) for found in raw.tasks.values())
    saved = Reproduction.open(tmp_path / "a" / "aliexpress-nl" / "mmoe-mtreclib.json")
    pd.testing.assert_frame_equal(saved.table(), raw.table())
    assert saved.split == raw.split

    processed = tmp_path / "processed" / "AliExpress_NL"
    processed.mkdir(parents=True)
    valid = (csv / "valid.csv").read_text().partition("\n")[2]
    (processed / "train.csv").write_text((csv / "train.csv").read_text() + valid)
    test = pd.read_csv(csv / "test.csv")
    test.assign(click=1 - test["click"], conversion=0).to_csv(processed / "test.csv", index=False)
    other = reproduce("aliexpress-nl", "mmoe", processed.parent, tmp_path / "b", [0], options=SMALL, progress=False)
    assert "finished runs: 1, where a spread over seeds needs at least 2" in other.doubts
    for split in ("train", "valid"):
        assert other.split[split] == raw.split[split]
    assert other.split["test"].sha256 != raw.split["test"].sha256
    best = [
        RunFolder(next((tmp_path / place / "aliexpress-nl" / "mmoe" / "cells").glob("*-0"))).result()["best"]
        for place in ("a", "b")
    ]
    assert best[0] == best[1]
    assert other.tasks["ctr"].values[0] != raw.tasks["ctr"].values[0]

    command = ["reproduce", "aliexpress-nl", "mmoe", "--out", f"{tmp_path}/a", "--seeds", "2"]
    assert main(command) == 2
    assert "was run with `model.init_args.experts` 2, which is 8 now" in capsys.readouterr().err


def test_missing_data_is_one_sentence(tmp_path, capsys):
    command = ["reproduce", "aliexpress-nl", "mmoe", "--out", f"{tmp_path}/out"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("recmtl: give `--data`, the files of aliexpress-nl: get AliExpress from https://tianchi")
    assert main([*command, "--data", f"{tmp_path}/gone"]) == 2
    said = capsys.readouterr().err
    assert "there is no folder or zip" in said
    assert "with its user and item files of train and test, or train.csv and test.csv" in said
    assert said.count("\n") == 1
    assert main(["reproduce", "aliexpress-nl", "mmo", "--out", "x"]) == 2
    assert "did you mean" in capsys.readouterr().err
    with pytest.raises(DataError):
        reproduce("aliexpress-nl", "mmoe", tmp_path, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "aliexpress-nl" / "data").exists()


def test_digest_tells_rows_apart(csv, aliexpress):
    digest = SplitDigest.of(aliexpress.test)
    assert digest.rows == 300
    card = recmtl.card("aliexpress")
    numbers = recmtl.Schema([recmtl.Numeric("numerical_*")], card.tasks, card.funnel, card.group, card.keys)
    again = recmtl.prepare(numbers, csv / "train.csv", csv / "valid.csv", csv / "test.csv")
    assert SplitDigest.of(again.test) == digest  # however the features are encoded
    frame = pd.read_csv(csv / "test.csv")
    for column, value in (("click", 1 - frame["click"][5]), ("search_id", -1)):
        frame = pd.read_csv(csv / "test.csv")
        frame.loc[5, ["conversion", column]] = [0, value]
        changed = recmtl.prepare(numbers, csv / "train.csv", csv / "valid.csv", frame)
        assert SplitDigest.of(changed.test) != digest


def test_damaged_result(tmp_path):
    with pytest.raises(RunError, match="there is no reproduction"):
        Reproduction.open(tmp_path / "r.json")
    (tmp_path / "r.json").write_text(json.dumps({"tasks": {}}))
    with pytest.raises(RunError, match="is no reproduction, or a damaged one"):
        Reproduction.open(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.55, 0.85), ["0.7000 [–]", "+0.1000 [–]"]),  # ± 1.9
        ((0.96, 0.98), ["0.9700 [0.8429, 1.0000]", "+0.3700 [+0.1"]),
    ],
)
def test_intervals_are_shown_as_far_as_an_auc_can_be(values, shown, capsys):
    source = {"title": "a paper", "url": "u", "known": "", "differences": ""}
    digest = {"test": SplitDigest(1, "0")}
    print_reproduction(Reproduction("d", "m", source, {"ctr": find_task(0.6, values, 1)}, (), digest, (0, 1)))
    said = capsys.readouterr().out
    assert all(text in said for text in shown)


def test_a_task_without_an_auc_is_null_in_the_file(capsys, tmp_path):
    tasks = {"ctr": find_task(0.7, [0.6], 5, 2), "ctcvr": find_task(0.7, [], 5, 2)}
    source = {"title": "t", "url": "u", "known": "k", "differences": "d"}
    split = {"test": SplitDigest(200, "0" * 64)}
    result = Reproduction("aliexpress-nl", "MMOE", source, tasks, [], split, [0])
    result.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert (content["tasks"]["ctr"]["mean"], content["tasks"]["ctr"]["sd"]) == (0.6, None)
    assert content["tasks"]["ctcvr"]["mean"] is None
    assert math.isnan(Reproduction.open(tmp_path / "r.json").tasks["ctcvr"].mean)
    print_reproduction(result)
    assert "nan" not in capsys.readouterr().out
