"""The phases of a secure sum over links that break and clients that do not answer."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest

from collab.coordinator.federated_secure import SecureSums
from collab.core.ids import Digest
from collab.errors import LinkLost, NotLoaded, ProtocolError, Refused
from collab.federated.events import Arrived
from collab.federated.events import Refused as Unfit
from collab.federated.orders import OrderId
from collab.federated.privacy.identities import name_signer, name_verifier
from collab.federated.privacy.masking import Masking, encode_invitation, invite
from collab.federated.privacy.sessions import ClientSession

NAMES = ("ann", "ben", "cyd", "dee")
ORDER = OrderId("run", 1)
MASKING, SHAPES = Masking(), {"w": (3,)}
INVITATION = invite("run/1/0", NAMES, 3, MASKING.length(SHAPES), bytes(32), MASKING)


def delta(name):
    return {"w": np.full(3, len(name) + ord(name[0]) / 100, np.float32)}


class Clients:
    """Answer as clients do, but for what goes wrong by name and number of the call."""

    def __init__(self, wrong=()):
        self.wrong = dict(wrong)
        self.calls = dict.fromkeys(NAMES, 0)
        self.said = []
        self.sessions = {}
        data = encode_invitation(INVITATION)
        for name in NAMES:
            ends = name_signer(name), name_verifier()
            self.sessions[name] = ClientSession(name, data, lambda _: bytes(32), *ends)
        # A quarter of it is what a phase may take.
        self.sums = SecureSums(self.ask, asyncio.to_thread, name_verifier(), self.tell, 1.2)

    def tell(self, name, why):
        self.said.append((name, why))

    async def ask(self, name, order, message):
        assert order == ORDER
        self.calls[name] += 1
        if (wrong := self.wrong.get((name, self.calls[name]))) is not None:
            await wrong()
        session = self.sessions[name]
        again = session.again(message)
        return again if again is not None else session.take(message)

    async def run(self, counted=NAMES):
        """All phases; the sum of those who are counted."""
        ready = await self.sums.agree(INVITATION, dict.fromkeys(NAMES, ORDER))
        there = [name for name in ready if name in counted]
        for name in there:
            data = self.sessions[name].masked(delta(name), 2)
            digest = Digest(hashlib.sha256(data).hexdigest())
            found = self.sums.judge(name, ORDER, digest, data, samples=2)
            assert isinstance(found, Arrived), found
            self.sums.settled(name, ORDER, True)
        return await self.sums.open(tuple(there))


def total_of(names):
    return np.add.reduce([MASKING.vector(delta(name), 2) for name in names])


async def never():
    await asyncio.Event().wait()


async def lost():
    raise LinkLost("the link is gone")


async def unknown():
    raise NotLoaded("order 1 is not known here")


async def test_a_link_that_is_lost_costs_a_repeat_and_nobody():
    clients = Clients({("ben", 2): lost, ("ann", 4): lost})
    outcome = await clients.run()
    assert outcome.survivors == NAMES
    assert (outcome.total == total_of(NAMES)).all()
    assert clients.said == []


@pytest.mark.parametrize("wrong", [never, unknown])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
async def test_who_does_not_answer_is_out_and_named(wrong, call):
    clients = Clients({("dee", call): wrong})
    outcome = await clients.run()
    there = NAMES if call > 3 else NAMES[:3]
    assert outcome.survivors == there
    assert (outcome.total == total_of(there)).all()
    assert [name for name, _ in clients.said] == ["dee"]


async def test_too_few_open_nothing_and_the_next_attempt_begins_from_nothing():
    clients = Clients({("ann", 4): unknown, ("ben", 4): unknown})
    with pytest.raises(Refused, match="2 clients sent agreement, fewer than the threshold 3"):
        await clients.run()
    with pytest.raises(ProtocolError, match="no sum to be opened"):
        await clients.sums.open(NAMES)


async def test_a_vector_that_is_not_counted_is_not_in_the_sum_and_others_are_refused():
    clients = Clients()
    ready = await clients.sums.agree(INVITATION, dict.fromkeys(NAMES, ORDER))
    for name in ready:
        data = clients.sessions[name].masked(delta(name), 2)
        clients.sums.judge(name, ORDER, Digest("a" * 64), data, samples=2)
        assert isinstance(clients.sums.judge(name, OrderId("run", 2), Digest("a"), data, samples=2), Unfit)
        assert isinstance(clients.sums.judge(name, ORDER, Digest("a"), data[:-1], samples=2), Unfit)
        clients.sums.settled(name, ORDER, name != "cyd")
    with pytest.raises(ProtocolError, match="not of the updates that were counted"):
        await clients.sums.open(NAMES)
