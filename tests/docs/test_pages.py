"""Every code block of the documentation and the README works."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from docs.generators import balancers
from tests.docs.blocks import ROOT, Page, blocks_of, lines_missing, needs_of

DOCS = ROOT / "docs"
WRITTEN = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}

pytestmark = pytest.mark.slow

Reader = Callable[[Sequence[str]], Path]


@pytest.mark.parametrize("name", WRITTEN)
def test_page(name: str, reader: Reader) -> None:
    markdown = WRITTEN[name].read_text()
    reader(needs_of(markdown))
    Page(quick(markdown)).run()


@pytest.mark.parametrize("name", balancers.names())
def test_page_of_a_balancer(name: str, reader: Reader) -> None:
    reader(["rows"])
    page = Page(quick(balancers.page(name)))
    assert len(page.blocks) == 2
    page.run()


def quick(markdown: str) -> str:
    """Return a page whose commands take fewer rows and smaller layers, in which nothing else changes."""
    smaller = {
        "recmtl synth --rows 20000": "recmtl synth --rows 4000 --click_rate 0.2 --conversion_rate 0.3",
        "rows=20_000": "rows=4_000, click_rate=0.2, conversion_rate=0.3",
        "--seeds 2": "--seeds 1",
        "--seeds 5": "--seeds 1",
        "recmtl reproduce aliexpress-nl mmoe ": "recmtl reproduce aliexpress-nl mmoe --epochs 1 ",
        "--config demo ": "--config demo --model.layers '[32,16]' --trainer.epochs 1 ",
        "--config aliexpress_mmoe ": "--config aliexpress_mmoe --model.layers '[32,16]' --trainer.epochs 2 ",
    }
    for written, run in smaller.items():
        markdown = markdown.replace(written, run)
    return markdown


def test_blocks_are_found_with_what_they_print() -> None:
    page = '```python\nprint(1)\n```\n\nprints:\n\n```text\n1\n```\n\n```yaml title="a.yaml"\na: 1\n```\n'
    first, second, third = blocks_of(page)
    assert (first.language, first.code, first.printed) == ("python", "print(1)\n", "1\n")
    assert (second.language, second.printed) == ("text", None)
    assert (third.file, third.code) == ("a.yaml", "a: 1\n")


def test_a_block_that_fails_or_prints_something_else_is_an_error(reader: Reader) -> None:
    reader([])
    with pytest.raises(AssertionError, match="line 1: ZeroDivisionError"):
        Page("```python\n1 / 0\n```\n").run()
    with pytest.raises(AssertionError, match="not printed"):
        Page("```python\nprint('one')\n```\n\n```text\ntwo\n```\n").run()
    with pytest.raises(AssertionError, match="ends with 2"):
        Page("```console\n$ recmtl nothing\n```\n").run()


def test_printed_lines_may_differ_in_their_numbers_alone() -> None:
    assert lines_missing("auc 0.79\n...\nrows 20,000\n", "auc 0.801\nlogloss 1\nrows 7\n") == []
    assert lines_missing("auc 0.79\n", "pr_auc 0.79\n") == ["auc 0.79"]
    assert lines_missing("a\nb\n", "b\na\n") == ["b"]


def test_the_run_folder_holds_what_its_page_lists(places: Path) -> None:
    listed = re.findall(
        r"^\| ((?:`[\w./-]+`(?:, )?)+) \|", (DOCS / "reference/run_folder.md").read_text(), re.MULTILINE
    )
    names = re.findall(r"`([^`]+)`", " ".join(listed))
    assert len(names) > 8
    assert [name for name in names if not (places / "run" / "runs" / "first" / name).exists()] == []
