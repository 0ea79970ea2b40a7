"""Looks at the nodes of a cluster, and acts on them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from collab.client.control import Control
from collab.client.metrics import RequesterMetrics
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName, PlanName
from collab.core.plan import Plan
from collab.dashboard.looks import NodeLook, about_of, look_of
from collab.dashboard.source import Action, Changes
from collab.dashboard.state import MAX_NODES, Board
from collab.dashboard.steering import STEER
from collab.errors import CollabError, PeerUnreachable, UsageError
from collab.transport.aio import TaskGroup

log = logging.getLogger("collab.dashboard")

LOOK_S: Final = 0.5
"""Between two looks at a node."""
_ANSWER_S: Final = 1.2
"""A node that is silent for longer is shown as lost: together with `LOOK_S` under two seconds."""
_DESCRIBE_S: Final = 30.0
_RETRY_S: Final = 2.0
_FILES_S: Final = 2.0

ReadPlans = Callable[[], Sequence[Plan]]
ReadFolders = Callable[[], Mapping[str, list[dict[str, Any]]]]
"""Documents by their kind: ``run``, ``rollout``, ``history``."""
Replan = Callable[[PlanName, str], Awaitable[str]]
Undo = Callable[[PlanName], Awaitable[str]]
Steer = Callable[[str, str, str], str]
"""Action, name of the rollout and who asks; blocks."""

DRAIN: Final = Action(
    "Drain", "Drain node {}? It finishes what it has and takes nothing more until it starts again.", "node"
)
REPLAN: Final = Action(
    "Plan anew",
    "Plan {} anew among the nodes that answer, and deploy the better plan, if there is one?",
    "plan",
)
UNDO: Final = Action(
    "Go back", "Put the model that plan {} ran before back, as a new epoch on all its nodes?", "history"
)


@dataclass(frozen=True)
class Hands:
    """What an operator can ask for beside draining nodes; None is not offered."""

    replan: Replan | None = None
    undo: Undo | None = None
    steer: Steer | None = None

    def actions(self) -> dict[str, Action]:
        """By name."""
        found = {"drain": DRAIN}
        if self.replan is not None:
            found["replan"] = REPLAN
        if self.undo is not None:
            found["undo"] = UNDO
        if self.steer is not None:
            found |= {name: one.action for name, one in STEER.items()}
        return found


class ClusterSource:
    """Watches nodes until `run` is cancelled.  ``read_plans`` and ``read_folders`` may block.

    ``requests`` are those of this process, if it serves any.
    """

    def __init__(
        self,
        cluster: Cluster,
        peers: Sequence[str],
        read_plans: ReadPlans = tuple,
        read_folders: ReadFolders = dict,
        hands: Hands = Hands(),
        requests: RequesterMetrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.board = Board()
        self._cluster = cluster
        self._peers = peers
        self._read_plans = read_plans
        self._read_folders = read_folders
        self._hands = hands
        self._requests = requests
        self._clock = clock
        self._changes = Changes(self.board)
        self._tasks = TaskGroup()
        self._watched: set[NodeName] = set()

    # --- looking -----------------------------------------------------------------------

    async def run(self) -> None:
        """Look and tell until cancelled."""
        async with self._tasks as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._follow_files())
            for peer in self._peers:
                tasks.create_task(self._reach(peer))

    async def _tick(self) -> None:
        while True:
            if self._requests is not None:
                told = self._requests
                self.board.hear("this server", told.values(), told.recent, self._clock())
            self.board.tick(self._clock())
            self._changes.tell()
            await asyncio.sleep(LOOK_S)

    async def _follow_files(self) -> None:
        while True:
            with suppress(CollabError):  # a file that is just being written is read the next time
                plans = await asyncio.to_thread(self._read_plans)
                self.board.predict([one for plan in plans for one in plan.family])
                for plan in plans:
                    for ref in plan.nodes:
                        self._watch(ref.name, ref.endpoints)
            await self._follow_folders()
            await asyncio.sleep(_FILES_S)

    async def _follow_folders(self) -> None:
        for kind, documents in (await asyncio.to_thread(self._read_folders)).items():
            self.board.documents(kind, documents, self._clock())

    async def _reach(self, peer: str) -> None:
        """Find out who is at an address, and watch it."""
        while True:
            try:
                link = await self._cluster.links.connect(peer)
            except CollabError as error:
                self.board.lost(peer, str(error), self._clock())
                self._changes.tell()
                await asyncio.sleep(_RETRY_S)
            else:
                self.board.forget(peer)
                self._watch(link.peer.name, (peer,))
                return

    def _watch(self, name: NodeName, addresses: Sequence[str]) -> None:
        if name in self._watched or len(self._watched) >= MAX_NODES:
            return
        self._cluster.links.keep_peer(name, addresses)
        self._watched.add(name)
        self._tasks.create_task(self._look_after(name))

    async def _look_after(self, name: NodeName) -> None:
        described_s = float("-inf")
        with suppress(TimeoutError, asyncio.TimeoutError):  # it is being dialled: that is not lost yet
            await asyncio.wait_for(self._cluster.links.wait_for(name), _ANSWER_S)
        while True:
            try:
                control = self._cluster.control(name)
                if self._clock() - described_s > _DESCRIBE_S:
                    reply = await control.call("Describe", pb.DescribeRequest(), timeout_s=_ANSWER_S)
                    self.board.about(name, about_of(reply, control.link.connection.address))
                    described_s = self._clock()
                status = await control.call("Status", pb.StatusRequest(), timeout_s=_ANSWER_S)
                look = look_of(name, status)
                await self._fetch_plans(control, look)
                self.board.see(look, self._clock())
            except CollabError as error:
                described_s = float("-inf")
                self.board.lost(name, str(error), self._clock())
                self._changes.tell()
            await asyncio.sleep(LOOK_S)

    async def _fetch_plans(self, control: Control, look: NodeLook) -> None:
        for held in look.plans:
            if held.state == "serving" and not held.primary and not self.board.knows(held.digest):
                with suppress(CollabError):  # it was replaced meanwhile
                    _, plan = await control.current_plan(PlanName(held.plan))
                    self.board.plan(plan)

    async def changed(self, version: int) -> bool:
        """Wait until the board has another version than this; False once there will be none."""
        return await self._changes.wait(version)

    def end(self) -> None:
        """Let the pages go."""
        self._changes.end()

    # --- acting ------------------------------------------------------------------------

    @property
    def actions(self) -> Mapping[str, Action]:
        """What can be asked for here."""
        return self._hands.actions()

    async def act(self, action: str, target: str, by: str) -> str:
        """Do it, and say so in the log; raises `CollabError`."""
        if action not in self.actions:
            raise UsageError(f"action {action[:40]!r}: use one of {', '.join(self.actions)}")
        self._note("warning", f"{by} asks: {action} {target[:80]}")
        try:
            done = await self._do(action, target, by)
        except CollabError as error:
            self._note("error", f"{action} {target[:80]}: {error}")
            raise
        self._note("info", done)
        await self._follow_folders()
        self._changes.tell()
        return done

    async def _do(self, action: str, target: str, by: str) -> str:
        hands = self._hands
        if action == "replan" and hands.replan is not None:
            return await hands.replan(PlanName(target), "an operator asked for it")
        if action == "undo" and hands.undo is not None:
            return await hands.undo(PlanName(target))
        if action in STEER and hands.steer is not None:
            return await asyncio.to_thread(hands.steer, action, target, by)
        if target not in self._watched:
            raise PeerUnreachable(f"node {target[:80]!r}: it is not watched here")
        reply = await self._cluster.control(NodeName(target)).call("Drain", pb.DrainRequest(), timeout_s=5.0)
        return f"node {target}: it drains, {reply.in_flight} requests under way"

    def _note(self, level: str, text: str) -> None:
        log.info("%s", text)
        self.board.note(self._clock(), level, "action", text)
        self._changes.tell()
