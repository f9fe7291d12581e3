"""Damaged recipes and CSV files: accepted, or refused in one line, without hanging or using much memory."""

import copy
import random as std
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Tally
from forker import Forker, Job, is_line

LIMITS = {"RLIMIT_AS": 12 << 30}  # address space that is only reserved counts as well
WRONG: list[Any] = [
    None,
    [],
    {},
    "",
    "x",
    -1,
    0,
    True,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    10**9,
    10**30,
    -(10**30),
]
WRONG += ["\0", "ü\u202e\U0001f600", "x" * 100_000, [1, "a", None], {"class_path": "os.system"}, {"class_path": 3}]
WRONG += [
    {"class_path": "recmtl.MMOE", "init_args": []},
    [[[[[[]]]]]],
    "1e3",
    "2026-01-01",
    "..",
    {"a": {"b": {"c": 1}}},
]
BOMB = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9)).replace("*a0", "1")
OPTIONS = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.tensorboard", "false"]


def refused(job: Job) -> str | None:
    """Return what is wrong with the end of a command; ``None`` if it accepted or refused its input properly."""
    if job.status == 0 and "Traceback" not in job.said:
        return None
    return None if job.status == 2 and is_line(job.said) else f"status {job.status}: {job.said[-600:]}"


def paths(recipe: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each key of a recipe."""
    items = recipe.items() if isinstance(recipe, dict) else enumerate(recipe) if isinstance(recipe, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from paths(value, (*above, key))


def changed(recipe: Any, draw: std.Random) -> Any:
    """Change, remove or add a key."""
    recipe = copy.deepcopy(recipe)
    *above, key = draw.choice(list(paths(recipe)))
    place = recipe
    for step in above:
        place = place[step]
    how = draw.randrange(8)
    if how == 0:
        del place[key]
    elif how == 1 and isinstance(place, dict):
        place[f"{key}_"] = place[key]
    else:
        place[key] = draw.choice(WRONG)
    return recipe


def damaged_text(text: str, draw: std.Random) -> bytes:
    """Damage text: cut it, flip bits, or insert characters."""
    content = bytearray(text.encode())
    place, lines = draw.randrange(len(content)), text.splitlines()
    line = draw.choice(lines)
    return draw.choice(
        [
            lambda: bytes(content[:place]),
            lambda: bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]),
            lambda: bytes(
                content[:place] + draw.choice([b"\0", b"\t", b"\xff", b"{", b"[", b"&", b"*", b":"]) + content[place:]
            ),
            lambda: (text + line + "\n").encode(),  # a key twice
            lambda: f"{text}\n{BOMB}\n".encode(),
            lambda: f"{text}deep: {'[' * 20_000}\n".encode(),
            lambda: text.encode("utf-16"),
            lambda: b"",
            lambda: (text + "--- {}\n").encode(),
        ]
    )()


@pytest.fixture(scope="module")
def recipe(forker: Forker, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Train a run; return its folder and its complete recipe."""
    run = tmp_path_factory.mktemp("recipe") / "run"
    model = ["--model", "MMOE", "--model.layers", "[4]", "--model.experts", "2", "--balancer", "PCGrad"]
    job = forker.run("train", "--data.card", "aliexpress", "--data.train", few, *model, *OPTIONS, "--run", run)
    assert job.status == 0, job.said
    return run, yaml.safe_load((run / "recipe.yaml").read_text())


@pytest.fixture(scope="module")
def few(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a CSV file of 200 rows."""
    path = tmp_path_factory.mktemp("few") / "few.csv"
    path.write_text("".join((rows / "train.csv").read_text().splitlines(keepends=True)[:201]))
    return path


@pytest.mark.fault("fuzzed recipes")
@pytest.mark.parametrize("part", range(4))
def test_recipes(part: int, recipe: tuple[Path, Any], forker: Forker, tmp_path: Path, tally: Tally) -> None:
    draw, wrong = std.Random(part), []
    for number in range(15):
        text = yaml.safe_dump(recipe[1], allow_unicode=True, sort_keys=False)
        if number % 4:
            content = yaml.safe_dump(changed(recipe[1], draw), allow_unicode=True, sort_keys=False).encode()
        else:
            content = damaged_text(text, draw)
        (tmp_path / "recipe.yaml").write_bytes(content)
        tally.tried()
        command = ["train", "--config", tmp_path / "recipe.yaml", *OPTIONS, "--run", tmp_path / str(number)]
        said = refused(forker.run(*command, limits=LIMITS, place=str(tmp_path)))
        tally.survived(said is None)
        wrong += [] if said is None else [f"{number}: {said}"]
        (tmp_path / f"{number}.yaml").write_bytes(content)
    assert wrong == []


def lines_of(text: str, draw: std.Random, change: Callable[[str], str]) -> bytes:
    lines = text.splitlines()
    number = draw.randrange(len(lines))
    lines[number] = change(lines[number])
    return "\n".join(lines).encode()


def damaged_csv(text: str, draw: std.Random) -> bytes:
    """Damage a CSV file in one of many ways."""
    place = draw.randrange(len(text))
    piece = draw.choice(["\0", '"', '""', ",", "\r", "\n", "\r\n", ";", "é", "1e999", "-", " ", "nan", "9" * 400])
    return draw.choice(
        [
            lambda: text[:place].encode(),
            lambda: (text[:place] + piece + text[place:]).encode(),
            lambda: lines_of(text, draw, lambda line: line.rpartition(",")[0]),
            lambda: lines_of(text, draw, lambda line: line + "," + piece),
            lambda: lines_of(text, draw, lambda line: line.replace(",", f',"{"x" * 2_000_000}",', 1)),
            lambda: lines_of(text, draw, lambda line: line.replace("1", piece)),
            lambda: text.replace("\n", "\r\n", draw.randrange(20)).encode(),
            lambda: text.replace("\n", "\r", draw.randrange(20)).encode(),
            lambda: text.replace(",", ";").encode(),
            lambda: text.encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"])),
            lambda: draw.choice([b"", b"\n", b"\0" * 4096, b",\n" * 50]),
            lambda: bytes(b ^ (1 << draw.randrange(8)) if draw.random() < 0.001 else b for b in text.encode()),
            lambda: b"\xef\xbb\xbf" * 2 + text.encode(),
            lambda: draw.randbytes(5000),
            lambda: text.encode()[:place] + draw.randbytes(20) + text.encode()[place:],
        ]
    )()


@pytest.mark.fault("fuzzed CSV files")
@pytest.mark.parametrize("part", range(3))
def test_csv(part: int, few: Path, forker: Forker, tmp_path: Path, tally: Tally) -> None:
    draw, wrong, text, out = std.Random(part), [], few.read_text(), tmp_path / "out"
    for number in range(25):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(damaged_csv(text, draw))
        commands = [
            ["prepare", "--card", "aliexpress", "--train", path, "--out", out / str(number)],
            ["prepare", "--card", "aliexpress", "--train", path, "--out", out / str(number), "--bad_rows", "skip"],
            ["describe", path, "--card", "aliexpress"],
            ["describe", path, "--label", "click"],
        ]
        tally.tried()
        said = refused(forker.run(*commands[number % 4], limits=LIMITS))
        tally.survived(said is None)
        wrong += [] if said is None else [f"{number}: {said}"]
        assert not (out.exists() and list(out.glob(".*")))
    assert wrong == []
