"""Epochs that have not proven themselves yet on this node: their lives counted, and gone back from."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from collab.core.ids import Epoch, NodeName, PlanName
from collab.errors import StoreError
from collab.node.deployments import PlanInfo
from collab.node.kept import KeptPlans
from collab.node.lives import SETTLED_S, Kept, KeptPlan, Left, Trial, at_start, uncounted

log = logging.getLogger("collab.node")

OffLoop = Callable[..., Awaitable[Any]]
Key = tuple[PlanName, Epoch]


class Proving:
    """Performs what `collab.node.lives` decides.

    Args:
        node: this one.
        plans: what is on its disk.
        off_loop: runs a function in the thread that uses the disk.
        loaded: what the node says of its plans.
    """

    def __init__(
        self, node: NodeName, plans: KeptPlans, off_loop: OffLoop, loaded: Callable[[], Sequence[PlanInfo]]
    ) -> None:
        self._node, self._plans, self._off_loop, self._loaded = node, plans, off_loop, loaded
        self._trials: dict[Key, Trial] = {}
        self._faults: dict[Key, str] = {}

    def fault(self, name: PlanName, epoch: Epoch) -> str:
        """What people should know of an epoch that is, or should be, loaded here; mostly nothing."""
        return self._faults.get((name, epoch), "")

    # --- starting --------------------------------------------------------------------

    async def choose(self, kept: Kept) -> KeptPlan | None:
        """What to load of a plan now that the node starts; its life is counted.  None for nothing."""
        name, current = kept.current.plan.name, kept.current
        what, reason = at_start(kept, self._node), ""
        try:
            if what == "go back":
                assert kept.before is not None
                await self._off_loop(self._plans.go_back, name)
                left = Left(current.epoch, current.lives or 0)
                return await self.choose(Kept(kept.before, left=left))
            if what == "count":
                await self._off_loop(self._plans.begin, name, current.epoch)
        except StoreError as error:
            what, reason = (
                uncounted(kept, self._node),
                f"a life of epoch {current.epoch} cannot be counted: {error}",
            )
        if what == "leave":
            self._note(name, current.epoch, reason or str(Left(current.epoch, current.lives or 0)))
            return None
        if what == "go back":
            assert kept.before is not None
            self._note(name, kept.before.epoch, reason)
            return kept.before
        if kept.left is not None:
            self._note(name, current.epoch, f"gone back to: {kept.left}")
        return current

    def _note(self, name: PlanName, epoch: Epoch, text: str) -> None:
        log.warning("plan %r epoch %d: %s", name, epoch, text)
        self._faults[name, epoch] = text

    # --- lives -----------------------------------------------------------------------

    def begin(self, name: PlanName, epoch: Epoch) -> Awaitable[None]:
        """The life of an epoch has begun; what looks after it until it is proven or gone."""
        trial = self._trials[name, epoch] = Trial()
        return self._watch(name, epoch, trial)

    def superseded(self, name: PlanName, epoch: Epoch) -> None:
        """Another epoch was committed; those before need prove nothing any more."""
        for key in [key for key in (*self._trials, *self._faults) if key[0] == name and key[1] != epoch]:
            self.gone(*key)

    async def _watch(self, name: PlanName, epoch: Epoch, trial: Trial) -> None:
        while self._trials.get((name, epoch)) is trial:
            await asyncio.sleep(SETTLED_S)
            busy = any(one.in_flight for one in self._loaded() if (one.plan, one.epoch) == (name, epoch))
            verdict = trial.looked_at(time.monotonic(), busy)
            if verdict == "proven":
                await self._prove(name, epoch)
            elif verdict == "rest":
                trial.resting = True
                await self._write(self._plans.end, name, epoch)

    def rests(self, name: PlanName, epoch: Epoch) -> bool:
        """Whether a life has to be counted before a request may begin."""
        trial = self._trials.get((name, epoch)) if self._trials else None
        return trial is not None and trial.resting

    async def wake(self, name: PlanName, epoch: Epoch) -> None:
        """Count a life of an epoch that rested; where that cannot be done it will not be loaded again."""
        trial = self._trials.get((name, epoch))
        if trial is not None and trial.resting:
            await self._write(self._plans.begin, name, epoch)
            trial.resting = False

    def computed(self, name: PlanName, epoch: Epoch) -> Awaitable[None] | None:
        """A stage of an epoch gave a result; what is to be done where that proves it."""
        trial = self._trials.get((name, epoch)) if self._trials else None
        if trial is None or trial.computed(time.monotonic()) != "proven":
            return None
        del self._trials[name, epoch]
        return self._prove(name, epoch)

    def gone(self, name: PlanName, epoch: Epoch) -> None:
        """An epoch is not here any more, or not to come back."""
        self._trials.pop((name, epoch), None)
        self._faults.pop((name, epoch), None)

    async def close(self) -> None:
        """The process goes down in order: lives that it has begun end well."""
        for (name, epoch), trial in tuple(self._trials.items()):
            if not trial.resting:
                await self._write(self._plans.end, name, epoch)
        self._trials.clear()

    async def _prove(self, name: PlanName, epoch: Epoch) -> None:
        self._trials.pop((name, epoch), None)
        await self._write(self._plans.prove, name, epoch)

    async def _write(self, change: Callable[[PlanName, Epoch], object], name: PlanName, epoch: Epoch) -> None:
        try:
            await self._off_loop(change, name, epoch)
        except StoreError as error:
            log.warning("plan %r epoch %d: %s", name, epoch, error)
