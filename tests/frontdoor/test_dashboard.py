"""The page in a browser, over a real cluster of real nodes."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from rich.console import Console

from collab.assembly import build_cluster
from collab.cli.files import write_plan, write_profile
from collab.cli.replanning import plan_versions, successor_path
from collab.cli.top import Screen, layout
from collab.coordinator.deploy import Blobs
from collab.coordinator.plan_versions import Noted, PlanState, PlanVersion
from collab.coordinator.planning import allowed_cuts
from collab.coordinator.watching import View, Watch, compare
from collab.core.ids import NodeName
from collab.core.plan import Plan, Predicted, PredictedEdge, PredictedStage, ReleaseRef
from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, Profile
from collab.dashboard.access import Sessions
from collab.dashboard.app import dashboard_app
from collab.dashboard.looks import LinkLook, NodeLook
from collab.dashboard.source import Changes
from collab.dashboard.state import Board
from collab.federated.records import LeftOut, RoundRecord, TookPart
from collab.federated.task import Task, task_bytes
from collab.security.api_keys import add_api_key
from collab.serving.http_server import HttpServer
from collab.serving.limits import ServeLimits
from tests.frontdoor.browsing import PAGES, Dashboard, chromium, findings, page_of, sign_in
from tests.integration.conftest import digits, no_settings_of_the_user, references
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, environment, peers, running
from tests.integration.serving import ServeProcess, bring_up

__all__ = ["digits", "no_settings_of_the_user", "references"]

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(120)]

log = logging.getLogger(__name__)

LOST_S = 2.0
SEEN_MS = 15_000
PICTURE_MS = int(os.environ.get("PICTURE_MS", "0"))
"""How long charts run on before their picture is taken; for those of the docs."""


def expected(plan: Plan) -> Plan:
    """With a prediction, as a plan's file has one."""
    predicted = Predicted(
        latency_ms=5.6,
        bottleneck_ms=1.2,
        stages=tuple(PredictedStage(stage=s.id, nodes=s.nodes, ms=1.2) for s in plan.stages),
        edges=tuple(
            PredictedEdge(source=e.source, target=e.target, ms=0.5, occupied_ms=0.1) for e in plan.edges
        ),
    )
    return plan.replace(predicted=predicted)


def run_folder(folder: Path) -> Path:
    """A federated run of twelve rounds, with somebody left out."""
    folder.mkdir(parents=True)
    task = Task(name="digits at home", model="digits.collab", rounds=20)
    (folder / "task.json").write_bytes(task_bytes(task))
    with open(folder / "rounds.jsonl", "wb") as file:
        for number in range(1, 13):
            late = (LeftOut(client="pi-4", kind="late", reason="no update within 30 s"),)
            broken = (LeftOut(client="pi-2", kind="refused", reason="not finite", field="dense/kernel"),)
            record = RoundRecord(
                round=number,
                outcome="made",
                model=f"{number:064x}",
                seconds=2.0 + number % 3,
                loss=2.3 * 0.8**number,
                samples=4000,
                down_bytes=1_200_000,
                up_bytes=900_000,
                took_part=tuple(TookPart(client=f"pi-{i}", samples=1000) for i in (1, 3, 5)),
                left_out=broken if number == 4 else late if number % 5 == 0 else (),
                quarantined=("pi-2",) if number == 5 else (),
                evaluation={
                    "accuracy": 1 - 0.85 * 0.78**number,
                    "loss": 2.1 * 0.82**number,
                    "samples": 500.0,
                },
            )
            file.write(msgspec.json.encode(record) + b"\n")
    return folder


def rollout_folder(folder: Path) -> Path:
    """A rollout in its second wave."""
    folder.mkdir(parents=True)
    (folder / "rollout.json").write_text("{}")
    targets = [
        {"name": "canary-1", "wave": 0, "status": "healthy", "version": "digits:7"},
        {"name": "shop-1", "wave": 1, "status": "healthy", "version": "digits:7"},
        {"name": "shop-2", "wave": 1, "status": "dropped", "reason": "4 of 60 answers differ from the old's"},
        {"name": "shop-3", "wave": 2, "status": "waiting"},
    ]
    state = {"wave": 1, "reason": "", "targets": targets}
    (folder / "state.json").write_bytes(msgspec.json.encode(state))
    return folder


def history(path: Path, plan: Plan) -> None:
    """A plan's file that had two updates."""
    journal = plan_versions(path)
    (first, second) = (
        PlanVersion(
            number=number,
            plan=plan.digest,
            model=plan.models[0].sha256,
            release=ReleaseRef(family="digits", version=number + 5, sha256=plan.models[0].sha256),
            epoch=number,
            proven=True,
        )
        for number in (1, 2)
    )
    noted = [
        Noted(result="healthy", model=first.model, release=first.release, epoch=1),
        Noted(result="dropped", model=first.model, release=second.release, reason="slower by 2.1 ms"),
        Noted(result="healthy", model=second.model, release=second.release, epoch=2),
    ]
    for version in (first, second):
        journal.files.put(version.name, plan, b"")
    journal._write(PlanState(), versions=(first, second), outcomes=tuple(noted))


@contextmanager
def asked(server: ServeProcess, body: dict[str, Any], plan: str) -> Iterator[None]:
    """Requests of a server without an end."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.rest, timeout=20) as client:
            while not over.wait(0.02):
                assert client.post(f"/v2/models/{plan}/infer", json=body).status_code == 200

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            over.set()
            asking.result()


@contextmanager
def traffic(folder: Path, plan: Path, digits: Reference) -> Iterator[None]:
    """Requests without an end, by a client of its own."""
    inputs, log = folder / "inputs.npz", folder / "run.log"
    np.savez(inputs, **{name: np.stack([r[name] for r in digits.requests]) for name in digits.requests[0]})
    command = [sys.executable, "-m", "collab", "run", str(plan), "--input", str(inputs)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, "--repeat", "100000", "--concurrency", "2", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(),
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    with running([NodeProcess(name, tmp_path) for name in "abcd"]) as started:
        yield started


def deployed(digits: Reference, nodes: Sequence[NodeProcess], folder: Path) -> tuple[Plan, Blobs, Path]:
    """The model over a, b and c, with alternatives, and its file."""
    plan, blobs = with_alternatives(digits, endpoints(nodes))
    asyncio.run(bring_up(plan, blobs))
    path = folder / "plan.yaml"
    write_plan(path, expected(plan))
    return plan, blobs, path


def test_a_cluster_is_seen_a_killed_node_turns_red_and_a_failover_and_a_new_plan_are_told(
    nodes: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    plan, _, path = deployed(digits, nodes, tmp_path)
    with Dashboard(tmp_path, path, "--peers", peers(nodes)) as dashboard, chromium() as browser:
        with traffic(tmp_path, path, digits), page_of(browser, dashboard.url) as page:
            for name in "abcd":
                page.locator(f'g.node.serving[data-node="{name}"]').wait_for(timeout=SEEN_MS)
            page.locator("svg path.wire.grpc").first.wait_for(state="attached", timeout=SEEN_MS)
            page.goto(f"{dashboard.url}#plans")
            page.get_by_role("img", name="Time of one request").wait_for(timeout=SEEN_MS)
            page.locator("rect.bar-measured").first.wait_for(timeout=SEEN_MS)
            assert page.locator("rect.bar-predicted").count() > 3
            page.goto(f"{dashboard.url}#traffic")
            page.locator("canvas").nth(1).wait_for(timeout=SEEN_MS)
            page.goto(f"{dashboard.url}#topology")
            page.locator('g.node.serving[data-node="b"]').wait_for(timeout=SEEN_MS)
            start = time.monotonic()
            nodes[1].kill()
            page.locator('g.node.lost[data-node="b"]').wait_for(timeout=SEEN_MS)
            took_s = time.monotonic() - start
            log.info("a killed node is shown as lost after %.2f s", took_s)
            assert took_s < LOST_S
            page.screenshot(path=tmp_path / "topology-lost.png")
            said = page.locator("#said")
            page.goto(f"{dashboard.url}#log")
            page.get_by_role("cell", name="failover, its alternative").first.wait_for(timeout=SEEN_MS)
            assert "b: serving → lost" in page.locator("main").inner_text()
            assert said.inner_text()
        assert plan.name == "digits"
        left = [nodes[0], nodes[2], nodes[3]]
        moved, blobs = digits.chain([10, 20], ["a", "d", "c"], endpoints(left))
        with ThreadPoolExecutor(1) as pool:  # Playwright has this thread's event loop
            pool.submit(asyncio.run, bring_up(moved, blobs)).result()
        with page_of(browser, f"{dashboard.url}#log") as page:
            page.get_by_role("cell", name="planned anew, epoch 1 → 2 on a, d, c").wait_for(timeout=SEEN_MS)


def profile_of(digits: Reference) -> Profile:
    """Four devices that are alike but b, which is slow, and links between all."""
    graph = digits.graph
    names = ("a", "b", "c", "d")
    op_ms = {name: (9.0 if name == "b" else 3.0,) * graph.op_count for name in names}
    return Profile(
        model_sha256=graph.sha256,
        requester=None,
        input_bytes=sum(t.nbytes for t in graph.inputs),
        output_bytes=sum(t.nbytes for t in graph.outputs),
        cuts=tuple(CutProfile(at=at, bytes=size) for at, size in allowed_cuts(graph).items()),
        devices=tuple(
            DeviceProfile(name=n, memory_bytes=1 << 30, op_ms=op_ms[n], op_bytes=(1000,) * len(op_ms[n]))
            for n in names
        ),
        links=tuple(
            LinkEntry(source=a, target=b, latency_ms=0.1, mbit_s=1000.0)
            for a in names
            for b in names
            if a != b
        ),
    )


def test_actions_ask_first_and_then_work_and_a_viewer_has_none(
    nodes: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    places = endpoints(nodes)
    plan, blobs = digits.chain([10], ["a", "c"], places)
    asyncio.run(bring_up(plan, blobs))
    path, profile, keys = tmp_path / "plan.yaml", tmp_path / "P.json", tmp_path / "keys.txt"
    write_plan(path, plan)
    write_profile(profile, profile_of(digits))
    operator, viewer = add_api_key(keys, "ann", "operator"), add_api_key(keys, "vic", "viewer")
    given = (path, "--peers", peers(nodes), "--api-keys", keys, "--profile", profile)
    with Dashboard(tmp_path, *given) as dashboard, chromium() as browser:
        with page_of(browser, dashboard.url) as page:
            sign_in(page, viewer)
            page.get_by_role("cell", name="serving").first.wait_for(timeout=SEEN_MS)
            assert page.get_by_role("button", name="Drain a").count() == 0
            token = page.request.get(f"{dashboard.url}session").json()["token"]
            headers = {"Origin": dashboard.url.rstrip("/"), "X-Collab-Token": token}
            made = page.request.post(f"{dashboard.url}actions/drain", headers=headers, data={"target": "a"})
            assert made.status == 403
            assert "needs the role operator" in made.text()
        with page_of(browser, dashboard.url) as page:
            sign_in(page, operator)
            drain = page.get_by_role("button", name="Drain a")
            drain.click(timeout=SEEN_MS)
            dialog = page.get_by_role("dialog")
            assert "Drain node a?" in dialog.inner_text()
            dialog.get_by_role("button", name="Cancel").click()
            page.locator('g.node.serving[data-node="a"]').wait_for(timeout=SEEN_MS)
            drain.press("Enter")
            dialog.get_by_role("button", name="Drain").click()
            page.locator('g.node.draining[data-node="a"]').wait_for(timeout=SEEN_MS)
            page.goto(f"{dashboard.url}#plans")
            page.get_by_role("button", name="Plan anew").click(timeout=SEEN_MS)
            dialog.get_by_role("button", name="Plan anew").click()
            page.locator("#toast").get_by_text("switched").wait_for(timeout=SEEN_MS)
            page.goto(f"{dashboard.url}#log")
            page.get_by_role("cell", name="planned anew, epoch 1 → 2").wait_for(timeout=SEEN_MS)
            text = page.locator("main").inner_text()
            assert "ann asks: drain a" in text
            assert "vic asks" not in text


def test_a_plan_that_lost_a_node_is_made_anew_without_it(
    nodes: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    plan, blobs = digits.chain([10], ["a", "c"], endpoints(nodes))
    asyncio.run(bring_up(plan, blobs))
    path, profile = tmp_path / "plan.yaml", tmp_path / "P.json"
    write_plan(path, plan)
    write_profile(profile, profile_of(digits))
    given = (path, "--peers", peers(nodes), "--profile", profile)
    with (
        Dashboard(tmp_path, *given) as dashboard,
        chromium() as browser,
        page_of(browser, dashboard.url) as page,
    ):
        page.locator('g.node.serving[data-node="a"]').wait_for(timeout=SEEN_MS)
        nodes[0].kill()
        page.locator('g.node.lost[data-node="a"]').wait_for(timeout=SEEN_MS)
        page.goto(f"{dashboard.url}#plans")
        page.get_by_role("button", name="Plan anew").click(timeout=SEEN_MS)
        page.get_by_role("dialog").get_by_role("button", name="Plan anew").click()
        page.locator("#toast").get_by_text("switched").wait_for(timeout=SEEN_MS)
        assert successor_path(path).exists()


def test_no_page_has_serious_findings_in_either_theme_or_is_wider_than_a_phone(
    nodes: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    """The pictures that it takes are those of the docs: with ``--basetemp`` they are found."""
    plan, _, path = deployed(digits, nodes, tmp_path)
    history(path, plan)
    runs, rollouts = tmp_path / "runs" / "digits-at-home", tmp_path / "rollouts" / "digits-7"
    folders = ("--runs", str(run_folder(runs)), "--rollouts", str(rollout_folder(rollouts)))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with (
        ServeProcess(tmp_path, [path], "--dashboard", "--peers", peers(nodes), *folders) as server,
        chromium() as browser,
        asked(server, {"inputs": [call_of(digits)]}, plan.name),
    ):
        for theme in ("light", "dark"):
            with page_of(browser, f"{server.rest}/", color_scheme=theme) as page:
                for name in PAGES:
                    page.goto(f"{server.rest}/#{name}")
                    page.get_by_role("heading", level=1, name=name.capitalize()).wait_for(timeout=SEEN_MS)
                    page.wait_for_function("document.querySelector('main table, main canvas, main svg')")
                    assert not findings(page), (theme, name)
                    if name == "traffic":
                        page.locator("canvas").nth(4).wait_for(timeout=SEEN_MS)
                        page.wait_for_timeout(PICTURE_MS)
                        assert not findings(page), (theme, "charts")
                    if name == "plans":
                        page.get_by_role("img", name="The last requests").wait_for(timeout=SEEN_MS)
                        assert not findings(page), (theme, "requests")
                    page.screenshot(path=pictures / f"{name}-{theme}.png", full_page=name != "log")
        phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
        with page_of(browser, f"{server.rest}/", **phone) as page:
            for name in PAGES:
                page.goto(f"{server.rest}/#{name}")
                page.wait_for_function("document.querySelector('main table, main canvas, main svg')")
                if name == "topology":
                    page.locator("g.node").nth(3).wait_for(timeout=SEEN_MS)
                    page.locator("main td").first.wait_for(timeout=SEEN_MS)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= 390, name
                page.screenshot(path=pictures / f"{name}-phone.png")


def test_the_page_of_a_server_is_its_dashboard_and_requests_go_on(
    nodes: list[NodeProcess], digits: Reference, tmp_path: Path
) -> None:
    plan, _, path = deployed(digits, nodes, tmp_path)
    keys = tmp_path / "keys.txt"
    operator, asks = add_api_key(keys, "ann", "operator"), add_api_key(keys, "cam", "inference")
    body = {"inputs": [call_of(digits)]}
    with (
        ServeProcess(tmp_path, [path], "--dashboard", "--api-keys", str(keys)) as server,
        chromium() as browser,
        page_of(browser, f"{server.rest}/#traffic", expected=("401",)) as page,
    ):
        sign_in(page, operator)
        for _ in range(20):
            made = page.request.post(
                f"{server.rest}/v2/models/{plan.name}/infer",
                data=body,
                headers={"Authorization": f"Bearer {asks}"},
            )
            assert made.status == 200, made.text()
        page.get_by_role("img", name="From the request to its answer").wait_for(timeout=SEEN_MS)
        page.get_by_role("link", name="Plans").click()
        page.get_by_role("img", name="The last requests of plan digits").wait_for(timeout=SEEN_MS)
        page.get_by_role("link", name="Topology").click()
        page.get_by_role("button", name="Drain c").click(timeout=SEEN_MS)
        page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        page.locator('g.node.draining[data-node="c"]').wait_for(timeout=SEEN_MS)
        assert page.evaluate("fetch('/v2').then((answer) => answer.status)") == 401


def call_of(digits: Reference) -> dict[str, Any]:
    """One input as the protocol has it."""
    (spec,) = digits.graph.inputs
    array = digits.requests[0][spec.name]
    return {
        "name": spec.name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }


def test_top_is_drawn_as_it_looks(nodes: list[NodeProcess], digits: Reference, tmp_path: Path) -> None:
    """The picture is the one of the docs."""
    _, _, path = deployed(digits, nodes, tmp_path)
    addresses = {NodeName(node.name): node.place for node in nodes}

    async def looks() -> View:
        async with build_cluster() as cluster:
            watch = Watch(cluster, addresses)
            await cluster.reach(list(addresses.values()))
            before = await watch.look(2.0)
            await asyncio.sleep(1.5)
            return compare(before, await watch.look(2.0))

    with traffic(tmp_path, path, digits):
        until = time.monotonic() + 20
        while not (view := asyncio.run(looks())).plans or not any(plan.answers_s for plan in view.plans):
            assert time.monotonic() < until
    console = Console(record=True, width=150, file=io.StringIO())
    for part in [*layout(view, events=view.events), Screen().footer]:
        console.print(part)
    # Without the fonts of another site: what the reader has will do.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="collab top"), flags=re.DOTALL)
    assert "cdnjs" not in picture
    (tmp_path / "top.svg").write_text(picture)
    assert all(name in picture for name in ("digits", "answers/s", "grpc", "serving"))


FOCUSED = "(({ariaLabel, textContent}) => ariaLabel ?? textContent)(document.activeElement)"


def test_the_keyboard_reaches_everything(digits: Reference, tmp_path: Path) -> None:
    with (
        running([NodeProcess("a", tmp_path)]) as started,
        Dashboard(tmp_path, "--peers", peers(started)) as dashboard,
        chromium() as browser,
        page_of(browser, dashboard.url) as page,
    ):
        page.get_by_role("button", name="Drain a").wait_for(timeout=SEEN_MS)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(25):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
        assert {"Topology", "Log", "Use dark colours", "Drain a"} <= reached
        page.get_by_role("button", name="Use dark colours").press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.get_by_role("link", name="Log", exact=True).press("Enter")
        assert page.get_by_role("link", name="Log", exact=True).get_attribute("aria-current") == "page"


class Storm:
    """A source of fifty nodes that change a thousand times a second."""

    def __init__(self) -> None:
        self.board = Board()
        self.actions: dict[str, Any] = {}
        self.changes = Changes(self.board)
        self.updates = 0

    async def act(self, action: str, target: str, by: str) -> str:
        raise AssertionError("nobody acts")

    async def changed(self, version: int) -> bool:
        return await self.changes.wait(version)

    async def blow(self, stop: asyncio.Event) -> None:
        names = [f"node-{i:02}" for i in range(50)]
        start = time.monotonic()
        while not stop.is_set():
            for _ in range(max(0, int((time.monotonic() - start) * 1000) - self.updates)):
                self.updates += 1
                at, name = self.updates / 1000, names[self.updates % 50]
                near = (names[(self.updates + step) % 50] for step in (1, 2, 7))
                links = tuple(LinkLook(n, "grpc", 1 + at % 5, self.updates**2, self.updates) for n in near)
                state = "serving" if (self.updates // 50) % 7 else "draining"
                self.board.see(NodeLook(name, state, resident_bytes=self.updates * 10_000, links=links), at)
            self.board.tick(self.updates / 1000)
            self.changes.tell()
            await asyncio.sleep(0.02)


@contextmanager
def storm() -> Iterator[tuple[Storm, str]]:
    """Serve one from a thread of its own."""
    source, ready, url = Storm(), threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        halts.append(lambda: loop.call_soon_threadsafe(stop.set))
        loop = asyncio.get_running_loop()
        app = dashboard_app(source, Sessions(None, secrets.token_urlsafe))
        async with HttpServer(app, "127.0.0.1:0", ServeLimits()) as server:
            url.append(f"{server.address}/")
            ready.set()
            await source.blow(stop)
            source.changes.end()

    halts: list[Callable[[], object]] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield source, url[0]
    finally:
        halts[0]()
        thread.join()


FRAMES = """
window.seen = {gaps: [], long: 0};
let last = performance.now();
const frame = (now) => {
    window.seen.gaps.push(now - last);
    last = now;
    requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
const longest = (list) => {
    for (const one of list.getEntries()) window.seen.long = Math.max(window.seen.long, one.duration);
};
new PerformanceObserver(longest).observe({type: "longtask"});
"""


def test_fifty_nodes_and_a_thousand_updates_a_second_leave_the_page_responsive() -> None:
    """From its first drawing on."""
    with storm() as (source, url), chromium() as browser, page_of(browser, url, before=FRAMES) as page:
        page.locator("g.node").nth(49).wait_for(timeout=SEEN_MS)
        before, start = source.updates, time.monotonic()
        page.wait_for_timeout(6_000)
        rate = (source.updates - before) / (time.monotonic() - start)
        seen = page.evaluate("window.seen")
        gaps = sorted(seen["gaps"])
        middle = gaps[len(gaps) // 2]
        figures = (rate, middle, gaps[len(gaps) * 99 // 100], seen["long"])
        log.info("%.0f updates/s; a frame takes %.0f ms, p99 %.0f ms; longest task %.0f ms", *figures)
        assert rate > 900
        # Of a page that does too much a frame takes seconds; a busy machine does not do that.
        assert middle < 100
        assert page.get_by_role("row").count() > 150
        page.get_by_role("button", name="Use dark colours").click(timeout=SEEN_MS)
