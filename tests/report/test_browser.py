"""A report in a real browser."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.image
import pytest

from tests.browser import script, show, start_chromium

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    """A browser with its own profile."""
    driver = start_chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: "Chrome", page: Path) -> "Chrome":
    """The report, just opened, in the light colour scheme."""
    show(chromium)
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)  # discards earlier entries
    chromium.get(page.as_uri())
    return chromium


# The sort keys in the first table that can be sorted, and the sort order of its columns.
ORDER = """
const table = document.querySelector("table:not([data-ordered])");
const cells = [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.dataset.key ?? null));
return [cells, [...table.tHead.rows[0].cells].map(cell => cell.getAttribute("aria-sort"))];
"""


def test_no_console_message_and_no_request(browser: "Chrome", page: Path) -> None:
    assert browser.get_log("browser") == []
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {event["params"]["request"]["url"] for event in log if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in sent if not url.startswith("data:image/svg+xml;base64,")} == {page.as_uri()}
    resources = script(browser, "return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith("data:") for name in resources)


def test_the_policy_blocks_requests(browser: "Chrome") -> None:
    script(browser, "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image)")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_every_figure_is_visible(browser: "Chrome") -> None:
    sizes = script(
        browser,
        "return [...document.querySelectorAll('figure img')].map(i => [i.getBoundingClientRect().width,"
        " i.getBoundingClientRect().height, i.complete && i.naturalWidth])",
    )
    assert len(sizes) > 15
    assert all(width > 250 and height > 180 and natural > 250 for width, height, natural in sizes)


def test_tables_sort_by_click_and_by_key(browser: "Chrome") -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    table = browser.find_element(By.CSS_SELECTOR, "table:not([data-ordered])")
    buttons = table.find_elements(By.CSS_SELECTOR, "thead button")
    names = [button.text for button in buttons]
    auc, rows = names.index("difference"), names.index("p")
    buttons[auc].click()
    cells, sorts = script(browser, ORDER)
    values = [float(row[auc]) for row in cells]
    assert values == sorted(values)
    assert [sorts.index("ascending"), sorts.count("none")] == [auc, len(sorts) - 1]
    buttons[auc].send_keys(Keys.ENTER)
    cells, sorts = script(browser, ORDER)
    assert [float(row[auc]) for row in cells] == values[::-1]
    assert sorts[auc] == "descending"
    buttons[rows].send_keys(Keys.SPACE)
    cells, sorts = script(browser, ORDER)
    assert [float(row[rows]) for row in cells] == sorted(float(row[rows]) for row in cells)
    assert (sorts[auc], sorts[rows]) == ("none", "ascending")


def test_missing_values_are_sorted_last(browser: "Chrome") -> None:
    """In the drift table categories have no shift."""
    found = script(
        browser,
        """
        const table = [...document.querySelectorAll("table")].find(
          t => document.getElementById(t.getAttribute("aria-labelledby")).textContent.startsWith("Drift"));
        const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === "shift");
        const button = table.tHead.rows[0].cells[at].querySelector("button");
        const keys = () => [...table.tBodies[0].rows].map(row => row.cells[at].dataset.key);
        return [0, 1].map(() => { button.click(); return keys(); });
        """,
    )
    for order in found:
        known = [float(key) for key in order if key is not None]
        assert 0 < len(known) < len(order)
        assert all(key is None for key in order[len(known) :])
        assert known in (sorted(known), sorted(known, reverse=True))
    assert found[0] != found[1]


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_the_page_and_its_tables_never_scroll_sideways(browser: "Chrome", width: int) -> None:
    show(browser, width)
    script(browser, "document.querySelectorAll('details').forEach(details => details.open = true)")
    assert script(browser, "return document.documentElement.scrollWidth") <= width
    if width == 768:
        return  # where wide tables scroll
    hidden = """return [...document.querySelectorAll('.table .scroll')].filter(
        box => box.scrollWidth > box.clientWidth).map(
            box => [box.previousElementSibling.textContent, box.scrollWidth, box.clientWidth])"""
    assert script(browser, hidden) == []


def test_dark_and_light_differ_in_page_and_figures(browser: "Chrome") -> None:
    """Lines and text of the figures have the contrast of the page's text."""
    papers, darkest, lightest = [], [], []
    for scheme in ("light", "dark"):
        show(browser, scheme=scheme)
        papers.append(script(browser, "return getComputedStyle(document.body).backgroundColor"))
        screenshot = browser.find_element("css selector", "figure img").screenshot_as_png
        pixels = matplotlib.image.imread(io.BytesIO(screenshot))[..., :3]
        darkest.append(float(pixels.mean(2).min()))
        lightest.append(float(pixels.mean(2).max()))
        corner = ", ".join(str(round(255 * float(part))) for part in pixels[0, 0])
        assert papers[-1] == f"rgb({corner})"  # a transparent background
    assert papers[0] == "rgb(255, 255, 255)"
    assert darkest[0] < 0.3
    assert lightest[1] > 0.7
    assert darkest[1] < 0.15


def test_the_keyboard_reaches_the_content_first(browser: "Chrome") -> None:
    from selenium.webdriver.common.keys import Keys

    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB)
    link = browser.switch_to.active_element
    assert link.text == "Skip to the content"
    assert link.is_displayed()
    assert link.location["x"] >= 0
    link.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.tag_name == "main"


def test_figures_and_tables_have_names_for_a_screen_reader(browser: "Chrome") -> None:
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    by_role: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            role = node.get("role", {}).get("value", "")
            by_role.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert len(by_role["image"]) > 15
    assert all(len(name) > 40 for name in by_role["image"])
    assert all(by_role["table"])
    assert {"main", "navigation", "banner", "contentinfo"} <= set(by_role)
    assert "difference" in by_role["button"]


def test_prints_to_pages(browser: "Chrome") -> None:
    import base64

    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 3
