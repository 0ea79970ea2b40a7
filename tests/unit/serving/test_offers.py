"""Plans that are offered, and requests that wait for their credits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collab.core.token import Priority
from collab.errors import DeadlineExceeded, NotLoaded, PeerUnreachable, StageFailed, UsageError
from collab.serving import offers as module
from collab.serving.batch import Axis, Layout
from collab.serving.inference import Call, answer
from collab.serving.offers import Listed, Offers
from collab.serving.wishes import Wishes
from collab.transport.aio import timeout
from tests.unit.serving.stand_in import Double, ones, opener, plan

WISHES = Wishes(5.0, Priority.HIGH, "primary")
TEN = Layout(Axis.OWN, 10)


async def test_a_batch_is_asked_within_the_credits_and_joined():
    client = Double(granted=3)
    told = await answer(client.offer, Call({"x": ones(10, 2)}, WISHES, TEN, ("y",), "7"))
    assert told.outputs["y"].tolist() == [[2, 2]] * 10
    assert (told.model, told.version, told.id) == ("m", "3", "7")
    assert told.parameters == {"path": "primary", "epoch": 3, "nodes": "a,b"}
    assert client.most == 3
    assert {(priority, path) for _, priority, path in client.asked} == {(Priority.HIGH, "primary")}


async def test_a_request_of_a_batch_that_fails_ends_the_others():
    client = Double(granted=1)
    client.error = StageFailed("stage 's' on node 'a'")
    with pytest.raises(StageFailed):
        await answer(client.offer, Call({"x": ones(10, 2)}, WISHES, TEN, ("y",)))
    assert len(client.asked) < 10


async def test_who_waits_longer_than_its_deadline_is_told_so_and_frees_its_place():
    client = Double(granted=1)
    client.hold = asyncio.Event()
    offer = client.offer
    first = asyncio.ensure_future(offer.run({"x": ones(1, 2)}, 5.0, Priority.NORMAL, ""))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="no credit of plan 'm' was free within 10 ms"):
        await offer.run({"x": ones(1, 2)}, 0.01, Priority.NORMAL, "")
    client.hold.set()
    await first
    assert (await offer.run({"x": ones(1, 2)}, 5.0, Priority.NORMAL, "")).outputs["y"].tolist() == [[2, 2]]


async def test_plans_are_loaded_and_unloaded_by_name():
    clients = {"m": Double(), "n": Double(plan("n"))}
    offers = Offers([Path("m"), Path("n")], *opener(clients))
    await offers.start()
    assert offers.ready
    assert offers.index() == [Listed("m", "3", "READY", ""), Listed("n", "3", "READY", "")]
    await offers.unload("m")
    assert clients["m"].closed
    assert offers.index(only_ready=True) == [Listed("n", "3", "READY", "")]
    assert offers.ready, "what nobody wants need not be ready"
    with pytest.raises(NotLoaded, match="unloaded"):
        offers.get("m")
    await offers.load("m")
    assert offers.get("m", "3").plan.name == "m"
    with pytest.raises(NotLoaded, match="version '4' is not served; it is at 3"):
        offers.get("m", "4")
    with pytest.raises(NotLoaded, match="'x' is not served here; there is 'm', 'n'"):
        await offers.load("x")
    await offers.close()
    assert clients["n"].closed


async def test_what_is_unloaded_is_closed_even_if_nobody_stays_to_hear_of_it():
    client = Double()
    client.hold = asyncio.Event()
    offers = Offers([Path("m")], *opener({"m": client}))
    await offers.start()
    asked = asyncio.ensure_future(offers.get("m").run({"x": ones(1, 2)}, 5.0, Priority.NORMAL, ""))
    await client.was_asked.wait()
    unloading = asyncio.ensure_future(offers.unload("m"))
    await asyncio.sleep(0)
    unloading.cancel()
    await asyncio.gather(unloading, return_exceptions=True)
    assert not client.closed
    client.hold.set()
    await asked
    await offers.close()
    assert client.closed


async def test_a_plan_whose_nodes_are_away_is_opened_when_they_are_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    client = Double()
    client.error = PeerUnreachable("node 'a'")
    offers = Offers([Path("m")], *opener({"m": client}))
    await offers.start()
    assert not offers.ready
    assert not offers.is_ready("m")
    assert offers.index() == [Listed("m", "", "UNAVAILABLE", "node 'a'")]
    client.error = None
    async with timeout(5):
        await client.opened.wait()
        await asyncio.sleep(0)
    assert offers.is_ready("m")
    await offers.close()


async def test_a_plan_that_does_not_load_again_stays_as_it_was():
    client = Double()
    offers = Offers([Path("m")], *opener({"m": client}))
    await offers.start()
    client.error = NotLoaded("plan 'm' is not deployed")
    with pytest.raises(NotLoaded):
        await offers.load("m")
    assert offers.ready
    assert not client.closed
    await offers.close()


async def test_a_name_is_offered_once():
    with pytest.raises(UsageError, match="given twice"):
        await Offers([Path("m"), Path("m")], *opener({"m": Double()})).start()
