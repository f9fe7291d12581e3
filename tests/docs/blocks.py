"""The code blocks of Markdown pages, and how each kind is run."""

import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from recmtl.cli.main import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
TITLE = re.compile(r'title="([^"]+)"')
NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, the file that it is written to, and what it must print."""

    line: int
    language: str
    code: str
    file: str | None
    printed: str | None


def blocks_of(markdown: str) -> list[Block]:
    """Return the blocks of a page; a `text` block right behind another one is what that one prints."""
    found: list[Block] = []
    matches = list(FENCE.finditer(markdown))
    for number, match in enumerate(matches):
        following = matches[number + 1] if number + 1 < len(matches) else None
        title = TITLE.search(match["options"])
        between = markdown[match.end() : following.start()] if following else "x"
        printed = following["code"] if following and following["language"] == "text" and _leads_on(between) else None
        line = markdown.count("\n", 0, match.start()) + 1
        found.append(Block(line, match["language"], match["code"], title[1] if title else None, printed))
    return found


def _leads_on(between: str) -> bool:
    """Whether the text between two blocks is empty, or one paragraph that ends in a colon."""
    return not between.strip() or (between.strip().endswith(":") and "\n\n" not in between.strip())


def needs_of(markdown: str) -> list[str]:
    """Return what a page needs from the pages before it, as its front matter says."""
    front = re.match(r"---\n(.*?)\n---\n", markdown, re.S)
    return list(yaml.safe_load(front[1]).get("needs", [])) if front else []


class Page:
    """Runs the blocks of one page in order, in the working directory.

    Args:
        markdown: The page.
    """

    def __init__(self, markdown: str) -> None:
        self.blocks = blocks_of(markdown)
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self) -> None:
        """Run all blocks.

        Raises:
            AssertionError: If a block fails, or does not print what the page says.
        """
        for block in self.blocks:
            try:
                printed = self.run_block(block)
            except Exception as error:
                raise AssertionError(f"line {block.line}: {type(error).__name__}: {error}\n{block.code}") from error
            if block.printed and block.language in ("python", "console"):
                missing = lines_missing(block.printed, printed)
                assert not missing, f"line {block.line}: not printed: {missing}\n--- printed:\n{printed}"

    def run_block(self, block: Block) -> str:
        """Run one block and return what it prints."""
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.code)
        elif block.language == "python":
            return captured(lambda: exec(compile(block.code, f"line {block.line}", "exec"), self.names))[1]
        elif block.language == "console":
            commands = [line.removeprefix("$ ") for line in block.code.splitlines() if line.startswith("$ ")]
            assert commands, "a console block needs a line that begins with `$ `"
            return "".join(run_command(command) for command in commands)
        elif block.language == "yaml":
            yaml.safe_load(block.code)
        else:
            assert block.language == "text", f"nobody runs a block of {block.language!r}"
        return ""


def run_command(command: str) -> str:
    """Run a line of a console block, as far as that is possible within a test, and return what it prints.

    Raises:
        AssertionError: If it fails.
    """
    program, *arguments = shlex.split(command, comments=True)
    if program == "torchrun":  # as one process
        program, *arguments = arguments[arguments.index("recmtl") :]
    if program == "recmtl":
        status, printed = captured(lambda: main(arguments))
        assert status == 0, f"`{command}` ends with {status}:\n{printed}"
        return printed
    if program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"there is no module {arguments[1]!r}"
        return ""
    if program == "python":
        with patch.object(sys, "argv", arguments):
            return captured(lambda: runpy.run_path(str(example(arguments[0])), run_name="__main__"))[1]
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in arguments), f"no target of {command!r}"
        return ""
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for text in arguments for name in re.findall(r"\[([\w,]+)\]", text)]
        assert set(",".join(named).split(",")) - {""} <= set(extras), f"no extra of {command!r}"
        return ""
    if program in ("tensorboard", "git"):
        return ""
    assert shutil.which(program), f"there is no program {program!r}"
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def example(name: str) -> Path:
    """Return the path of an example that a page names."""
    return Path(name) if Path(name).exists() else ROOT / name


def captured(action: Any) -> tuple[Any, str]:
    """Return the result of a function and what it prints; modules of the working directory can be imported."""
    printed = io.StringIO()
    before = set(sys.modules)
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        patch.object(sys, "path", ["", *sys.path]),
    ):
        try:
            return action(), printed.getvalue()
        finally:
            here = Path.cwd()
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if file and Path(file).parent == here:
                    del sys.modules[name]  # the next page may have a module of that name


def lines_missing(expected: str, printed: str) -> list[str]:
    """Return the expected lines that were not printed in this order, whatever their numbers; `...` stands for any."""
    seen = iter([_form(line) for line in printed.splitlines()])
    wanted = [line for line in expected.splitlines() if line.strip() and line.strip() not in ("...", "…")]
    return [line for line in wanted if not any(_form(line) == other for other in seen)]


def _form(line: str) -> str:
    return re.sub(r"[\s─━═]+", " ", NUMBER.sub("0", line)).strip()
