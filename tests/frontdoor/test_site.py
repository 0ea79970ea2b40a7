"""The site as readers get it: built without a warning, whole, and at home without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.html import Links, is_elsewhere, read, split
from tests.frontdoor.browsing import chromium, findings, page_of

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
LOOKED_AT = (
    "index.html",
    "tutorial.html",
    "comparison.html",
    "reference/commands.html",
    "reference/python.html",
)
SCREENS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    pytest.importorskip("mkdocs", reason="MkDocs is in the extra frontdoor")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Every page with its links."""
    return {file: read(file.read_text("utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_link_and_its_anchor_lead_somewhere(pages: dict[Path, Links]):
    wrong = []
    for file, links in pages.items():
        for target in filter(lambda each: not is_elsewhere(each), [*links.leads, *links.loads]):
            path, anchor = split(target)
            goal = (file.parent / path).resolve() if path else file
            if not goal.is_file():
                wrong.append(f"{file.name}: {target}")
            elif (
                anchor and not anchor.startswith("__") and goal in pages and anchor not in pages[goal].anchors
            ):
                wrong.append(f"{file.name}: {target}, no such anchor")
    assert not wrong
    assert sum(len(links.leads) for links in pages.values()) > 1000


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Links]):
    links = pages[site / "index.html"].navigation
    reached = {(site / split(target)[0]).resolve() for target in links if not is_elsewhere(target)}
    assert {str(page.relative_to(site)) for page in pages.keys() - reached} <= {"index.html"}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Links]):
    assert not [(f.name, t) for f, links in pages.items() for t in links.loads if is_elsewhere(t)]
    sheets = [file.read_text("utf-8") for file in site.rglob("*.css")]
    assert sheets
    assert not [
        u for text in sheets for u in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", text)
    ]


@pytest.mark.parametrize("screen", SCREENS)
def test_pages_open_from_a_folder_without_errors_or_findings(site: Path, screen: str):
    with chromium() as browser:
        for name in LOOKED_AT:
            with page_of(browser, (site / name).as_uri(), **SCREENS[screen]) as page:
                page.wait_for_selector("h1")
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
                assert findings(page) == [], name


def test_search_finds_pages_without_a_server(site: Path):
    with chromium() as browser, page_of(browser, (site / "index.html").as_uri()) as page:
        page.wait_for_selector("h1")
        page.keyboard.press("s")
        page.keyboard.type("quarantine")
        page.wait_for_selector(".md-search__output a[href*='h=quarantine']", timeout=20_000)
