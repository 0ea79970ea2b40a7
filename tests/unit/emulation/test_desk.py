"""What asks on an emulated host, without a network."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from collab.assets import path as asset
from collab.core.plan import to_json
from collab.core.token import Hop
from collab.emulation.desk import Desk
from collab.emulation.orders import Answer, Ask, Asked, Close, DeskSettings, Done, Failed, Open
from collab.emulation.turns import Turns
from collab.errors import Overloaded, PeerUnreachable
from tests.integration.models import Reference


class FakeClient:
    """Answers at once; every third request is refused."""

    def __init__(self, plan):
        self.plan = plan
        self.given = []
        self.now = self.most = 0

    async def run(self, inputs, deadline_s):
        self.given.append((inputs, deadline_s))
        number = len(self.given)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if number % 3 == 0:
            raise Overloaded("no credits")
        hop = Hop(0, "a", 1000, 2000, 3000, 4000)
        return SimpleNamespace(absent=None, attempts=2, hedged=False, path=("a",), hops=(hop,))


class FakeCluster:
    def __init__(self):
        self.opened = []
        self.fails = None

    async def open(self, plan, credits, retry):
        if self.fails:
            raise self.fails
        self.opened.append((plan.name, credits, retry))
        self.client = FakeClient(plan)
        return self.client

    async def release(self, client):
        assert client is self.client
        self.opened.clear()


@pytest.fixture
def desk(tmp_path):
    plan, _ = Reference.of("digits").chain([10], ["a", "b"], {"a": "grpc://h:1", "b": "grpc://h:2"})
    (tmp_path / "plan.json").write_bytes(to_json(plan))
    settings = DeskSettings(
        host="me", endpoints={}, model=str(asset("digits.tflite")), attempts=4, hedge=True, deadline_ms=700
    )
    said: list[Answer] = []
    cluster = FakeCluster()
    return SimpleNamespace(
        desk=Desk(settings, cluster, said.append),
        cluster=cluster,
        said=said,
        opening=Open(str(tmp_path / "plan.json"), 5),
    )


async def test_slots_ask_one_after_another_and_say_what_came_of_it(desk):
    assert await desk.desk.obey(desk.opening) == Done()
    ((name, credits, retry),) = desk.cluster.opened
    assert (name, credits, retry.max_attempts, retry.hedge) == ("digits", 5, 4, True)
    begin_s = asyncio.get_running_loop().time()
    turns = Turns(slots=2, first=1, step=2, requests=12)
    assert await desk.desk.obey(Ask(turns, begin_s, 3)) == Done()
    askings = [answer.asking for answer in desk.said if isinstance(answer, Asked)]
    assert sorted(asking.request for asking in askings) == [1, 3, 5, 7, 9, 11]
    assert {asking.repetition for asking in askings} == {3}
    assert sorted(asking.outcome for asking in askings) == ["ok"] * 4 + ["overloaded"] * 2
    good = next(asking for asking in askings if asking.outcome == "ok")
    assert (good.plan, good.requester, good.attempts, good.path) == ("digits", "me", 2, ("a",))
    assert (good.hops[0].stage, good.hops[0].total_ms) == ("stage-0", 10.0)
    client = desk.cluster.client
    assert client.most == 2
    assert {deadline_s for _, deadline_s in client.given} == {0.7}
    assert set(client.given[0][0]) == {spec.name for spec in client.plan.inputs}
    assert await desk.desk.obey(Close()) == Done()
    assert not desk.cluster.opened


async def test_arrivals_do_not_wait_for_answers(desk):
    await desk.desk.obey(desk.opening)
    begin_s = asyncio.get_running_loop().time()
    await desk.desk.obey(Ask(Turns(at=((0, 0), (1, 0), (2, 20_000))), begin_s, 0))
    assert desk.cluster.client.most == 2
    starts = {answer.asking.request: answer.asking.start_ms for answer in desk.said}
    assert starts[2] >= 20 > starts[0]


async def test_what_fails_is_reported_by_its_code(desk):
    desk.cluster.fails = PeerUnreachable("node 'a': gone")
    assert await desk.desk.obey(desk.opening) == Failed("unreachable", "node 'a': gone")
