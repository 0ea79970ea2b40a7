"""What an operator does with releases on the page: real rollouts and updates over real nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from collab.cli.replanning import plan_versions
from collab.security.api_keys import add_api_key
from tests.frontdoor.browsing import Dashboard, chromium, page_of, sign_in
from tests.integration.conftest import no_settings_of_the_user
from tests.integration.edited_models import sharper
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, peers, running
from tests.integration.serving import ServeProcess
from tests.integration.test_rollouts import UNTRIED, Site, journal, rollout, statuses, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["no_settings_of_the_user"]

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(120)]

SEEN_MS = 20_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("steering")
    with running([NodeProcess(name, folder) for name in ("a", "b")]) as nodes:
        yield Site(folder, nodes, Reference.of("digits"))


def ask(page: Page, button: str) -> None:
    """Press it, and yes."""
    page.get_by_role("button", name=button, exact=True).click(timeout=SEEN_MS)
    page.get_by_role("dialog").locator("#ask-yes").click()


def refused(page: Page, url: str, action: str, target: str) -> str:
    """What a page that asks without its button is told."""
    token = page.request.get(f"{url}session").json()["token"]
    headers = {"Origin": url.rstrip("/"), "X-Collab-Token": token}
    made = page.request.post(f"{url}actions/{action}", headers=headers, data={"target": target})
    assert made.status in (400, 403, 409)
    return str(made.json()["error"]["message"])


def test_a_rollout_is_paused_resumed_and_taken_back_by_an_operator_alone(site: Site, tmp_path: Path) -> None:
    name, _ = site.plans("steered", site.nodes)
    file, order = site.rollout(name, sharper(), 2, soak_s=600, **UNTRIED)
    out, keys = site.folder / name / "digits-2", tmp_path / "keys.txt"
    operator, viewer = add_api_key(keys, "ann", "operator"), add_api_key(keys, "vic", "viewer")
    given = ("--peers", peers(site.nodes), "--api-keys", keys, "--rollouts", out)
    with rollout("start", file, "--out", out) as process:
        process.said(f"{order[0]}: healthy")
        with Dashboard(tmp_path, *given) as dashboard, chromium() as browser:
            with page_of(browser, f"{dashboard.url}#releases") as page:
                sign_in(page, viewer)
                page.get_by_role("heading", name="digits-2").wait_for(timeout=SEEN_MS)
                assert page.get_by_role("button", name="Pause").count() == 0
                assert "needs the role operator" in refused(page, dashboard.url, "pause", "digits-2")
                assert not journal(out)["paused_by"]
            with page_of(browser, f"{dashboard.url}#releases") as page:
                sign_in(page, operator)
                assert page.get_by_role("button", name="Resume: digits-2").is_disabled(timeout=SEEN_MS)
                ask(page, "Pause: digits-2")
                page.get_by_text("running, wave 0, paused by ann").wait_for(timeout=SEEN_MS)
                assert (journal(out)["paused_by"], journal(out)["at_it"]) == ("ann", True)
                ask(page, "Resume: digits-2")
                page.get_by_text("running, wave 0", exact=True).wait_for(timeout=SEEN_MS)
                ask(page, "Abort and take back: digits-2")
                page.get_by_text("aborted, wave 0").wait_for(timeout=SEEN_MS)
                assert page.get_by_role("button", name="Abort: digits-2").is_disabled()
                page.get_by_role("link", name="Log", exact=True).click()
                page.get_by_role("cell", name="ann asks: take-back digits-2").wait_for(timeout=SEEN_MS)
        code, _ = process.ended()
    assert code == 1
    until(lambda: statuses(journal(out))[order[0]] == "gone back")


def test_a_rollout_that_nobody_is_at_is_paused_and_aborted_and_not_resumed(
    site: Site, tmp_path: Path
) -> None:
    name, _ = site.plans("left", site.nodes[:1])
    file, order = site.rollout(name, sharper(), 2, soak_s=600, **UNTRIED)
    out = site.folder / name / "digits-3"
    with rollout("start", file, "--out", out) as process:
        process.said(f"{order[0]}: healthy")
    given = ("--peers", peers(site.nodes), "--rollouts", out)
    with (
        Dashboard(tmp_path, *given) as dashboard,
        chromium() as browser,
        page_of(browser, f"{dashboard.url}#releases", expected=("409",)) as page,
    ):
        ask(page, "Pause: digits-3")
        page.get_by_text("paused by 127.0.0.1").first.wait_for(timeout=SEEN_MS)
        ask(page, "Resume: digits-3")
        line = page.locator("#toast p.bad")
        line.wait_for(timeout=SEEN_MS)
        assert "no process is at it; run: collab release rollout resume" in line.inner_text()
        ask(page, "Abort: digits-3")
        page.get_by_text("aborted, wave 0").first.wait_for(timeout=SEEN_MS)
    assert journal(out)["phase"] == "aborted"


def test_a_plan_goes_back_to_its_former_model_and_a_refusal_is_told(site: Site, tmp_path: Path) -> None:
    name, files = site.plans("undone", site.nodes[:1])
    plan, path = next(iter(files.items()))
    model = site.folder / "sharper.tflite"
    model.write_bytes(sharper())
    words = ("release", "update", path, model, "--no-trial", "--patience", "0", "--json")
    done = command(*words)
    assert (done.code, done.json["epoch"]) == (0, 2), done
    with (
        Dashboard(tmp_path, path, "--peers", peers(site.nodes)) as dashboard,
        chromium() as browser,
        page_of(browser, f"{dashboard.url}#releases", expected=("409",)) as page,
    ):
        page.get_by_role("heading", name=f"What plan {plan} ran").wait_for(timeout=SEEN_MS)
        with plan_versions(path).files.locked():
            ask(page, f"Go back: {plan}")
            line = page.locator("#toast p.bad")
            line.wait_for(timeout=SEEN_MS)
            assert "another" in line.inner_text()
        ask(page, f"Go back: {plan}")
        page.get_by_text("runs again, epoch 3").first.wait_for(timeout=SEEN_MS)
        page.get_by_role("cell", name="was taken back by hand").wait_for(timeout=SEEN_MS)
        assert page.get_by_role("button", name=f"Go back: {plan}").is_disabled()
        assert "no version before" in refused(page, dashboard.url, "undo", plan)
    assert site.epochs(name)[plan] == {3}
    with ServeProcess(tmp_path, [path], "--metrics", "0") as server:
        (place,) = re.findall(r"http://[0-9.:]+/metrics", server.log.read_text())
        counted = f'collab_release_rollbacks_total{{cause="hand",plan="{plan}"}} 1.0'
        until(lambda: counted in httpx.get(place).text)
