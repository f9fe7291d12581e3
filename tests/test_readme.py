"""What the README says works."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from torch import nn

import recmtl
from recmtl.cli.catalogue import load_catalogue
from recmtl.cli.main import main
from recmtl.data.synthetic.generate import synthesize

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader would be, after the demo: generated rows take the place of AliExpress_NL."""
    card = recmtl.card("aliexpress")
    recmtl.prepare(card, csv / "train.csv", csv / "valid.csv", csv / "test.csv", out=tmp_path / "demo" / "prepared")
    (tmp_path / "AliExpress_NL").mkdir()
    for name in ("train.csv", "test.csv"):
        shutil.copy(csv / name, tmp_path / "AliExpress_NL" / name)
    synthesize(tmp_path / "raw", 1000, layout="raw")
    shutil.make_archive(str(tmp_path / "AliExpress_NL"), "zip", tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    lines = [line for language, block in BLOCKS if language == "console" for line in block.splitlines()]
    return [line for line in lines if line.startswith("recmtl ")]


@pytest.mark.slow
def test_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands()) >= 4
    for command in commands():
        quick = command.replace("--seeds 5", "--seeds 1")
        assert main(shlex.split(quick)[1:]) == 0, (command, capsys.readouterr().err)
    again = ["train", "--config", "runs/nl/recipe.yaml", "--run", "runs/again"]
    assert main(again) == 0
    for run in ("runs/nl", "runs/again"):
        for name in re.findall(
            r"^\| `([\w./-]+)`(?:, `([\w./-]+)`)? \|",
            README.split("run folder holds")[1].split("\n## ")[0],
            re.MULTILINE,
        ):
            for path in filter(None, name):
                assert (folder / run / path).exists(), path
    assert (folder / "predictions.parquet").exists()
    assert len(recmtl.Comparison.open("comparisons/demo").table("auc")) == 5 * 3
    assert "<h1>" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_torchrun(folder: Path) -> None:
    (line,) = (line for _, block in BLOCKS for line in block.splitlines() if line.startswith("torchrun "))
    launcher, _, options = line.partition(" recmtl ")
    assert launcher == "torchrun --nproc-per-node 4 -m"
    assert main([*shlex.split(options), "--trainer.epochs", "1"]) == 0  # as one process
    assert (folder / "runs/nl/metrics.json").exists()


@pytest.mark.parametrize("number", range(sum(language == "python" for language, _ in BLOCKS)))
def test_python_block(number: int, folder: Path) -> None:
    block = [block for language, block in BLOCKS if language == "python"][number]
    names: dict[str, object] = {}
    exec(compile(block, f"README block {number}", "exec"), names)
    modules = [value for value in names.values() if isinstance(value, nn.Module)]
    assert modules
    assert all(parameter.isfinite().all() for module in modules for parameter in module.parameters())


def test_every_command_and_make_target_that_the_readme_names_exists() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)`", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in set(re.findall(r"`recmtl (\w+)", README)):
        assert command in load_catalogue(), command


RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_speed_is_quoted_as_measured() -> None:
    """Every figure of the section comes, in this order, from the record that the benchmark wrote."""
    content = json.loads((RESULTS / "peers.json").read_text())
    record, rates = content["results"], [int(line.split()[0]) for line in content["machine"] if "GFLOP" in line]
    ours = ["recmtl fp32", "recmtl fp32, batch normalisation", "recmtl bf16", "recmtl bf16, batch normalisation"]
    speed = README.split("## Speed")[1].split("## For developers")[0]
    for title, row in (("one epoch, end to end", "one epoch, end to end"), ("evaluation", "evaluation, AUC included")):
        figures = " | ".join(f"{record[title][name]['ratio']:.1f}" for name in ours)
        assert f"| {row} | {figures} |" in speed
    quoted = [record["one step"][name]["ratio"] for name in ("recmtl fp32", "recmtl bf16")]
    two, larger = "4 M in two columns", "recmtl, 4 M in all columns"
    peers = {"Sum": "torch-rechub", "MetaBalance": "torch-rechub", "PCGrad": "TorchJD"}
    for names in (dict.fromkeys(peers, f"recmtl, {two}"), dict.fromkeys(peers, larger)):
        quoted += [record[f"one step, {method}"][name]["ratio"] for method, name in names.items()]
    quoted += [record[f"one step, {method}"][f"{peer}, {two}"]["ratio"] for method, peer in peers.items()]
    assert re.findall(r"\b0\.\d\d\b", speed) == [f"{ratio:.2f}" for ratio in quoted]
    assert f"{record['one step, RotoGrad on SharedBottom']['recmtl']['ratio']:.1f} times as fast" in speed
    assert [int(rate) for rate in re.findall(r"(\d+) GFLOP/s by MKL, at\s+(\d+) by oneDNN", speed)[0]] == rates[:2]


def test_memory_is_quoted_as_measured() -> None:
    beyond = [row["beyond"] for row in json.loads((RESULTS / "memory.json").read_text())["results"].values()]
    assert f"{min(beyond):.0f} to {max(beyond):.0f} MiB" in README


def test_preparing_is_quoted_as_measured() -> None:
    results = json.loads((RESULTS / "data.json").read_text())["results"]
    (limited,) = (figures for name, figures in results.items() if "cgroup" in name)
    share = 100 * limited["rows_per_second"] / results["train, in memory"]["rows_per_second"]
    everything, few = results["prepare, all rows"], results["prepare, a million rows"]
    raw = results["prepare, the raw layout"]["megabytes_per_second"]
    text = " ".join(README.split())
    assert f"`prepare` takes {everything['megabytes_per_second']:.0f} MB of CSV a second" in text
    assert f"at most {everything['peak_megabytes']:.0f} MB, {few['peak_megabytes']:.0f} MB for a million rows" in text
    assert f"of the raw layout {raw:.0f} MB a second" in text
    assert f"train at {share:.0f} % of the speed of rows in memory" in text


def test_differences_are_quoted_as_measured() -> None:
    record = (RESULTS / "comparison_census.md").read_text()
    section = README.split("## Which differences are real")[1].split("\n## ")[0]
    quoted = re.findall(r"^\| (?:SingleTask|SharedBottom|MMOE) \| \w+ \| .*\|$", section, re.MULTILINE)
    assert len(quoted) == 13
    assert all(f"\n{row}" in record for row in quoted)
    said = re.findall(r"On \*(\w+)\*, (\d+) of 12 rows cannot be told apart from the best, on \*(\w+)\* (\d+)", section)
    for task, rows in (said[0][:2], said[0][2:]):
        assert f"On {task}, {rows} rows cannot be told apart from the best" in record
    assert "On income, no row can be told apart from single-task training" in record
    assert "On never_married, transfer is negative for SharedBottom with GradNorm, MMOE with GradNorm; 10" in record


def test_several_processes_are_quoted_as_measured() -> None:
    results = json.loads((RESULTS / "processes.json").read_text())["results"]
    two, one, plain = (
        results[kind]["Sum, 200 rows"]
        for kind in ("2 processes, 1 thread each", "1 process, 1 thread each", "1 process, 2 threads each")
    )
    text = " ".join(README.split())
    assert f"under `Sum` in {two['milliseconds']:.0f} ms, {two['messages']:.0f} of them for messages of" in text
    assert f"messages of {two['bytes'] / 1e6:.2f} MB each" in text
    assert f"takes {one['milliseconds']:.0f} ms with one thread and {plain['milliseconds']:.0f} ms with two" in text
