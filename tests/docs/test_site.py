"""The documentation site in a real browser."""

import contextlib
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docs.generators import balancers
from tests.browser import script, show, start_chromium
from tests.docs.blocks import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]  # one build and one browser

WIDTHS = (1280, 390)
# The width that the page takes, and what sticks out of it to the right and lies in nothing that scrolls by itself.
OVERFLOWING = """
const width = document.documentElement.clientWidth;
const scrolls = e => { for (; e; e = e.parentElement) {
    const x = getComputedStyle(e).overflowX; if (x === "auto" || x === "scroll" || x === "hidden") return true; }
    return false; };
return [document.documentElement.scrollWidth, [...document.querySelectorAll(".md-content *")]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
    .map(e => e.tagName + " " + e.textContent.slice(0, 60))];
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly, or the one that `RECMTL_SITE` names, which `make docs` has built."""
    if built := os.environ.get("RECMTL_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files over connections that stay open, and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class ShortIndex(Silent):
    """Serves a search index of one section: browsers read it with each page, and take longer for a whole one."""

    def __init__(self, *arguments: Any, index: Path, **options: Any) -> None:
        self.index = index
        super().__init__(*arguments, **options)

    def translate_path(self, path: str) -> str:
        return str(self.index) if path.endswith("search_index.json") else super().translate_path(path)


@contextlib.contextmanager
def served(handler: Callable[..., Silent]) -> Iterator[str]:
    """The address of a site, served on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(functools.partial(Silent, directory=str(site))) as address:
        yield address


@pytest.fixture
def quick_address(site: Path, tmp_path: Path) -> Iterator[str]:
    """The same site, where nothing but one section can be searched."""
    index = json.loads((site / "search/search_index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "docs": index["docs"][:1]}))
    with served(functools.partial(ShortIndex, directory=str(site), index=tmp_path / "index.json")) as address:
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    driver = start_chromium(tmp_path_factory.mktemp("profile"))
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)  # of the page that the browser starts with
    yield driver
    driver.quit()


def pages(site: Path) -> list[str]:
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


def has_width(width: int, browser: "Chrome") -> bool:
    taken, overflowing = script(browser, OVERFLOWING)
    return taken <= width and not overflowing


def test_no_page_overflows_complains_or_fetches_from_elsewhere(
    site: Path, quick_address: str, chromium: "Chrome"
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    found = pages(site)
    assert len(found) > 50
    for number, page in enumerate(found):  # half of them are loaded in the one width, half in the other
        for loaded, scheme in enumerate(("light", "dark")):
            width = WIDTHS[(number + loaded) % 2]
            show(chromium, width, scheme)
            if not loaded:
                chromium.get(f"{quick_address}/{page}")
            fits = functools.partial(has_width, width)
            WebDriverWait(chromium, 10).until(fits, f"{page} in {width} px, {scheme}")  # the layout takes a moment
    assert chromium.get_log("browser") == []
    log = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    sent = {event["params"]["request"]["url"] for event in log if event["method"] == "Network.requestWillBeSent"}
    assert len(sent) > len(found)
    assert [url for url in sent if not url.startswith((quick_address, "data:", "blob:", "about:"))] == []


@pytest.mark.parametrize(("place", "width"), [*zip(("served", "opened from its folder"), WIDTHS, strict=True)])
def test_search_finds_a_section(width: int, place: str, site: Path, address: str, chromium: "Chrome") -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(chromium, width)
    chromium.get(f"{address}/index.html" if place == "served" else (site / "index.html").as_uri())
    if width < 600:
        chromium.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__search]").click()
    field = chromium.find_element(By.CSS_SELECTOR, "input.md-search__input")
    WebDriverWait(chromium, 20).until(lambda _: field.is_displayed() and field.is_enabled())
    field.click()
    field.send_keys("AUC interval")
    results = ".md-search-result__item"
    WebDriverWait(chromium, 20).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, results))
    first = chromium.find_element(By.CSS_SELECTOR, results)
    text = " ".join((first.get_attribute("textContent") or "").split())
    assert text.startswith("Metrics and tests")
    assert "AUC interval" in text
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("name", balancers.names())
def test_a_balancer_shows_its_formula(name: str, address: str, chromium: "Chrome") -> None:
    show(chromium, 1280)
    chromium.get(f"{address}/{balancers.file_of(name).replace('.md', '.html')}")
    size = "const r = document.querySelector('.formula math').getBoundingClientRect(); return [r.width, r.height]"
    width, height = script(chromium, size)
    assert width > 60
    assert height > 20
    assert "$$" not in script(chromium, "return document.querySelector('.md-content').innerText")


def test_light_and_dark_differ_in_page_and_figures(address: str, chromium: "Chrome") -> None:
    seen = []
    for scheme in ("light", "dark"):
        show(chromium, 1280, scheme)
        chromium.get(f"{address}/gallery.html")
        seen.append(
            script(
                chromium,
                "const shown = [...document.querySelectorAll('figure img')].filter(i => i.offsetWidth > 0);"
                "return [getComputedStyle(document.body).backgroundColor, shown.map(image => image.src),"
                " shown.every(image => image.complete && image.naturalWidth > 100)]",
            )
        )
    (light, of_light, drawn), (dark, of_dark, also_drawn) = seen
    assert light != dark
    assert drawn
    assert also_drawn
    assert len(of_light) == len(of_dark) > 6
    assert not set(of_light) & set(of_dark)
