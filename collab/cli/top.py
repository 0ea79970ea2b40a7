"""``collab top``: what the nodes do, live."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed, with_cluster
from collab.cli.output import console, emit, show, table
from collab.errors import UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from collab.coordinator.cluster import Cluster
    from collab.coordinator.watching import NodeRow, View, Watch

EXAMPLE = """
Examples:

    collab top --peers 10.0.0.7:7070,10.0.0.8:7070

    collab top --peers 10.0.0.7:7070 --once

    collab top --peers 10.0.0.7:7070 --json --count 60
"""

MAX_EVENTS: Final = 8
"""That are shown, the newest."""
SORTS: Final = ("name", "cpu", "memory", "in flight")
"""What the nodes are in the order of; the key s goes to the next."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top", epilog=EXAMPLE)(top)


def top(
    peers: Peers = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60.0, help="Seconds between two looks.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many looks; 1 without a terminal.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Show one look as it is, and end.", show_default=False)
    ] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """What nodes, plans and links do now: q ends it, s sorts; with --json one line for each look."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.watching import Watch

    if once and count is not None:
        raise UsageError("--once --count: give one of them")
    live = not json_ and not once and sys.stderr.isatty()
    looks = 1 if once else count if count is not None or json_ or live else 1

    async def watch(cluster: Cluster) -> None:
        given = read_peers(peers)
        names = await cluster.reach(given)
        watched = Watch(cluster, dict(zip(names, given, strict=True)))
        if live:
            await _live(watched, interval, looks)
        else:
            await _lines(watched, interval, looks, json_)

    with_cluster(watch, trust=confirmed(insecure, insecure_network))


async def _lines(watch: Watch, interval_s: float, looks: int | None, as_json: bool) -> None:
    from collab.coordinator.watching import compare

    before, done = await watch.look(interval_s), 0
    while looks is None or done < looks:
        await asyncio.sleep(interval_s)
        after = await watch.look(interval_s)
        view = compare(before, after)
        before, done = after, done + 1
        if as_json:
            emit(asdict(view))
        else:
            show(*layout(view))


async def _live(watch: Watch, interval_s: float, looks: int | None) -> None:
    from rich.console import Group
    from rich.live import Live

    from collab.coordinator.watching import View, compare

    screen, stirred, before, done = Screen(), asyncio.Event(), None, 0
    loop = asyncio.get_running_loop()
    with _keys() as descriptor, Live(console=console(), screen=True, auto_refresh=False) as shown:

        def pressed() -> None:
            # Not through the buffer of standard input: what it holds back would wake nobody.
            for key in os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace"):
                screen.press(key)
            stirred.set()

        if descriptor is not None:
            loop.add_reader(descriptor, pressed)
        try:
            due_s, view = loop.time(), View()
            while not screen.over and (looks is None or done <= looks):
                if loop.time() >= due_s:
                    due_s = loop.time() + interval_s
                    after = await watch.look(interval_s)
                    view, before, done = compare(before, after), after, done + 1
                    screen.events.extend(view.events)
                drawn = layout(view, screen.sort, tuple(screen.events))
                shown.update(Group(*drawn, screen.footer), refresh=True)
                stirred.clear()
                try:
                    await asyncio.wait_for(stirred.wait(), max(0.0, due_s - loop.time()))
                except (TimeoutError, asyncio.TimeoutError):
                    continue
        finally:
            if descriptor is not None:
                loop.remove_reader(descriptor)


@contextmanager
def _keys() -> Iterator[int | None]:
    """The terminal gives keys one by one and does not show them; None where the input is none."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


# --- what is shown -------------------------------------------------------------------


@dataclass
class Screen:
    """What keys have changed, and what has happened."""

    sort: str = SORTS[0]
    over: bool = False
    events: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    def press(self, key: str) -> None:
        """A key was pressed; one that says nothing is ignored."""
        if key in ("q", "Q", "\x03"):
            self.over = True
        elif key in ("s", "S"):
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]

    @property
    def footer(self) -> str:
        """What the keys do."""
        return f"q ends, s sorts (by {self.sort})"


def layout(view: View, sort: str = SORTS[0], events: tuple[str, ...] = ()) -> list[RenderableType]:
    """Tables of a view."""
    nodes = [
        (n.name, n.state, n.cpu, size(n.resident_bytes), n.in_flight, n.queued, n.links, n.uptime_s)
        for n in ordered(view.nodes, sort)
    ]
    plans = [
        (
            p.plan,
            ", ".join(map(str, p.epochs)) or "-",
            p.digest[:8] or "-",
            "  ".join(f"{stage}: {'+'.join(at)}" for stage, at in p.stages.items()),
            p.in_flight,
            p.answers_s,
            p.failures_s,
            "-" if p.p50_ms is None else f"{p.p50_ms:.3g}",
            "-" if p.p95_ms is None else f"{p.p95_ms:.3g}",
            f"{p.release or '-'} ({p.trial})" if p.trial else p.release or "-",
            "; ".join(p.notes) or "-",
        )
        for p in view.plans
    ]
    links = [
        (r.node, r.peer, r.transport, r.rtt_ms, f"{size(int(r.sent_s))}/s", f"{size(int(r.received_s))}/s")
        for r in view.links
    ]
    shown = [
        table("nodes", ("node", "state", "cores", "memory", "in flight", "queued", "links", "up s"), nodes),
        table("plans", _PLAN_COLUMNS, plans),
        table("links", ("node", "peer", "transport", "rtt ms", "sent", "received"), links),
    ]
    return [*shown, *events]


_PLAN_COLUMNS: Final = (
    *("plan", "epoch", "digest", "stages", "in flight", "answers/s", "failures/s"),
    *("p50 ms in nodes", "p95", "release", "notes"),
)


def ordered(nodes: tuple[NodeRow, ...], sort: str) -> list[NodeRow]:
    """The nodes by name, or those with the most first."""
    by_name = sorted(nodes, key=lambda node: node.name)
    if sort == "cpu":
        return sorted(by_name, key=lambda node: -node.cpu)
    if sort == "memory":
        return sorted(by_name, key=lambda node: -node.resident_bytes)
    if sort == "in flight":
        return sorted(by_name, key=lambda node: -node.in_flight)
    return by_name
