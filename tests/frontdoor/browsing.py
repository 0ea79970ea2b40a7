"""A headless Chromium, and ``collab dashboard`` as a child process."""

from __future__ import annotations

import json
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.processes import START_S, STOP_S, environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(__file__).parent / "axe" / "axe.min.js"
SERIOUS = {"serious", "critical"}
PAGES = ("topology", "plans", "traffic", "learning", "releases", "log")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The distribution's browser; skips where that or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is in the extra frontdoor")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        # Tests may run as root, where Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(
    browser: Browser, url: str, *, expected: tuple[str, ...] = (), before: str = "", **options: Any
) -> Iterator[Page]:
    """A page that must neither complain on its console, but of what is expected, nor fail to load."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    if before:
        page.add_init_script(before)
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert [error for error in errors if not any(part in error for part in expected)] == []


def sign_in(page: Page, key: str) -> None:
    """With a key, on the page's own form."""
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def findings(page: Page) -> list[str]:
    """What axe finds serious or worse on a page."""
    # By the debugger, which the page's policy on scripts does not bind.
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    return [
        f"{entry['id']}: {entry['help']}: {[node['html'][:200] for node in entry['nodes'][:3]]}"
        for entry in found["violations"]
        if entry["impact"] in SERIOUS
    ]


class Dashboard:
    """``collab dashboard`` until it is left."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.log = folder / "dashboard.log"
        self._arguments = [*map(str, arguments), "--listen", "127.0.0.1:0", "--json"]
        self.url = ""

    def __enter__(self) -> Dashboard:
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collab", "dashboard", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
            )
        stdout = self._process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], START_S)
        line = stdout.readline() if readable else b""
        if not line:
            self.__exit__()
        self.url = json.loads(line)["url"]
        return self

    def stop(self) -> None:
        """Tell it to end."""
        self._process.send_signal(signal.SIGTERM)

    def __exit__(self, *failure: object) -> None:
        process = self._process
        self.stop()
        try:
            code = process.wait(STOP_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert code == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
