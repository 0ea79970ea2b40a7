"""Secure aggregation of a federated run over links: the phases of one attempt of one round at a time.

Who does not answer in a phase has dropped out; the machine (`ServerSession`) says whether enough are left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from collab.core.ids import Digest
from collab.errors import CollabError, LinkLost, PeerUnreachable, ProtocolError
from collab.federated import events as on
from collab.federated.masked import MaskedUpdates
from collab.federated.orders import OrderId
from collab.federated.privacy.masking import Invitation, encode_invitation
from collab.federated.privacy.secure_server import Outcome
from collab.federated.privacy.sessions import ServerSession
from collab.federated.privacy.statements import Verify

MAX_PHASE_S: Final = 30.0
"""How long a phase waits for answers at most; less where a quarter of the round's deadline is less."""
GRACE_S: Final = 5.0
"""How long a client whose link is lost is waited for in such a phase."""
_AGAIN_S: Final = 0.1

Ask = Callable[[str, OrderId, bytes], Awaitable[bytes]]
"""One message to a client of an order, and its answer."""
OffLoop = Callable[..., Awaitable[Any]]
Tell = Callable[[str, str], None]
"""Says in one line why a client is left out: its name, the line."""


class SecureSums:
    """One run's.

    Args:
        ask: Reaches clients; a lost link is tried again for a while.
        off_loop: Runs what computes.
        verify: Of clients' signatures.
        tell: What is to be said to people.
        deadline_s: Of a round.
    """

    def __init__(self, ask: Ask, off_loop: OffLoop, verify: Verify, tell: Tell, deadline_s: float) -> None:
        self._ask = ask
        self._off_loop = off_loop
        self._verify = verify
        self._tell = tell
        self._phase_s = min(MAX_PHASE_S, deadline_s / 4)
        self._updates: MaskedUpdates | None = None
        self._orders: Mapping[str, OrderId] = {}
        self._settling: list[asyncio.Future[None]] = []

    async def agree(self, invitation: Invitation, orders: Mapping[str, OrderId]) -> tuple[str, ...]:
        """Have clients agree on keys and share their secrets; those who can mask an update now.

        Raises `Refused` when they are fewer than the threshold, `ConfigError` for terms that hide nothing.
        """
        self._updates, self._orders, self._settling = None, orders, []
        session = await self._off_loop(ServerSession, invitation, self._verify)
        invitations = dict.fromkeys(invitation.terms.invited, encode_invitation(invitation))
        rosters = await self._phase(session, invitations)
        inboxes = await self._phase(session, rosters)
        ready = tuple(sorted(await self._asked(inboxes)))
        self._updates = MaskedUpdates(session, orders)
        return ready

    def judge(
        self, name: str, order: OrderId, digest: Digest, data: bytes, *, samples: int
    ) -> on.Arrived | on.Refused:
        """See `MaskedUpdates.judge`; blocks."""
        if self._updates is None:
            return on.Refused(name, order, "masked", "no vector is due", len(data))
        return self._updates.judge(name, order, digest, data, samples=samples)

    def settled(self, name: str, order: OrderId, counted: bool) -> None:
        """Its vector is in the journal and belongs into the sum, or never will."""
        if self._updates is not None:
            work = self._off_loop(self._updates.settled, name, order, counted)
            self._settling.append(asyncio.ensure_future(work))

    async def open(self, clients: tuple[str, ...]) -> Outcome:
        """The sum of the vectors of these clients.

        Raises `Refused` when too few stay to the end, `ProtocolError` if others are in it; nothing of the
        sum is known then.
        """
        updates, self._updates = self._updates, None
        settling, self._settling = self._settling, []
        await asyncio.gather(*settling)
        if updates is None:
            raise ProtocolError("secure aggregation: there is no sum to be opened")
        survivors = await self._off_loop(updates.close, clients)
        await self._phase(updates.session, await self._phase(updates.session, survivors))
        return updates.outcome()

    async def _phase(self, session: ServerSession, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Send, take what comes, close; what to send next."""
        for name, said in sorted((await self._asked(messages)).items()):
            try:
                await self._off_loop(session.take, name, said)
            except CollabError as error:
                self._tell(name, str(error))
        replies: dict[str, bytes] = await self._off_loop(session.close)
        return replies

    async def _asked(self, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Answers of those who gave one in time."""
        tasks = {name: asyncio.ensure_future(self._one(name, sent)) for name, sent in messages.items()}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=self._phase_s)
        finally:
            for task in tasks.values():
                task.cancel()
            said = await asyncio.gather(*tasks.values(), return_exceptions=True)
        answers: dict[str, bytes] = {}
        for name, answer in zip(tasks, said, strict=True):
            if isinstance(answer, bytes):
                answers[name] = answer
            elif isinstance(answer, CollabError):
                self._tell(name, str(answer))
            elif isinstance(answer, asyncio.CancelledError):
                self._tell(name, f"secure aggregation: no answer within {self._phase_s:g} s")
            else:
                raise answer
        return answers

    async def _one(self, name: str, message: bytes) -> bytes:
        lost_at: float | None = None
        while True:
            try:
                return await self._ask(name, self._orders[name], message)
            except (LinkLost, PeerUnreachable):
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > GRACE_S:
                    raise
                await asyncio.sleep(_AGAIN_S)
