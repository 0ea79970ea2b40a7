"""A trial as the nodes of a plan have it: announced to all, its counts read from all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from collab.client.control import Control
from collab.coordinator.cluster import Cluster
from collab.core.plan import Plan
from collab.errors import CollabError, Conflict, PeerUnreachable
from collab.transport.aio import timeout
from collab.updates.health.trial import Counts, Trial, merge

_CALL_S: Final = 3.0
"""A node that does not answer in time is left out this time."""

T = TypeVar("T")


class TrialBoard:
    """The nodes that a plan runs on, which hand a trial on to its requesters."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._name = plan.name
        self._nodes = plan.placed
        self._standing: Trial | None = None

    async def find(self) -> Trial | None:
        """The latest trial that a node knows of, also one that is over."""
        told = await self._from_all(lambda control: control.get_trial(self._name))
        found = [trial for trial, _ in told if trial is not None]
        return max(found, key=lambda trial: trial.rank, default=None)

    async def announce(self, trial: Trial) -> None:
        """Tell every node that can be reached.

        Raises `Conflict` where somebody has announced a later one, `PeerUnreachable` where nobody is told.
        """
        self._standing = trial
        if not await self._from_all(lambda control: control.put_trial(trial)):
            raise PeerUnreachable(f"plan {self._name!r}: no node takes the trial; are they up?")

    async def counts(self) -> Counts:
        """What requesters have seen in the phase that stands; tells nodes again that have forgotten it.

        Raises `Conflict` where somebody has announced a later one.
        """
        trial = self._standing
        assert trial is not None, "announce it first"

        async def look(control: Control) -> dict[str, Counts]:
            known, told = await control.get_trial(self._name)
            if known is None or known.rank < trial.rank:
                await control.put_trial(trial)
            elif known.rank > trial.rank:
                raise Conflict(
                    f"plan {self._name!r}: somebody else has begun trial {known.number}; wait for its end"
                )
            return told

        return merge(trial.number, trial.phase, await self._from_all(look))

    async def end(self, number: int = 0) -> None:
        """A trial is over, the one that stands if no number is given; nodes that are away forget it."""
        if self._standing is not None:
            number, self._standing = self._standing.number, None
        if number:
            over = Trial(plan=self._name, number=number, phase="")
            await self._from_all(lambda control: control.put_trial(over))

    async def _from_all(self, ask: Callable[[Control], Awaitable[T]]) -> list[T]:
        """What the nodes say that can be asked; `Conflict` is everybody's."""

        async def one(control: Control) -> T:
            async with timeout(_CALL_S):
                return await ask(control)

        linked = [self._cluster.control(name) for name in self._nodes if self._cluster.links.get(name)]
        answers = await asyncio.gather(*map(one, linked), return_exceptions=True)
        said: list[T] = []
        for answer in answers:
            if not isinstance(answer, BaseException):
                said.append(answer)
            elif isinstance(answer, Conflict) or not isinstance(
                answer, (CollabError, TimeoutError, asyncio.TimeoutError)
            ):
                raise answer
        return said
