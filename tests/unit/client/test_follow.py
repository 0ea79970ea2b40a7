"""A client that follows its plan: what moves to the new epoch, what stays, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from collab.client.follow import Follower, takes_the_place
from collab.client.runner import Result
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.core.validate import convert_plan
from collab.errors import NodeLost, NotLoaded, Overloaded, PeerUnreachable, StageFailed
from tests.unit.core.trees import chain

OLD = convert_plan(chain())
NEW = OLD.replace(credits=7)
TRAINED = convert_plan(
    {**chain(), "models": [{**chain()["models"][0], "sha256": "e" * 64, "origin": OLD.models[0].sha256}]}
)
FOREIGN = convert_plan({**chain(), "models": [{"sha256": "f" * 64, "ops": 5}]})


class Client:
    """One epoch as a follower sees it."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self.plan, self.epoch, self.granted = plan, epoch, 4
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.asked: list[float] = []

    async def run(
        self, inputs, deadline_s: float, priority: Priority = Priority.NORMAL, *, trace=None, only: str = ""
    ) -> Result:
        self.asked.append(deadline_s)
        error = self.error
        if self.hold is not None:
            await self.hold.wait()
        if error is not None:
            raise error
        return Result({}, 1.0, (), (), epoch=self.epoch)


class Nodes:
    """What is deployed: opens clients by digest, and remembers what was released."""

    def __init__(self, *plans: Plan) -> None:
        self.clients = {plan.digest: Client(plan, i + 1) for i, plan in enumerate(plans)}
        self.refuse: dict[str, list[Exception]] = {}
        self.opened: list[int] = []
        self.released: list[int] = []
        self.known: Plan | None = None
        self.fetches = 0
        self.fetch: Callable[[], None] = lambda: None

    async def open(self, plan: Plan) -> Client:
        await asyncio.sleep(0)
        for error in self.refuse.get(plan.digest, []):
            self.refuse[plan.digest].remove(error)
            raise error
        self.opened.append(self.clients[plan.digest].epoch)
        return self.clients[plan.digest]

    async def release(self, client: Client) -> None:
        self.released.append(client.epoch)

    async def successor(self, plan: Plan) -> Plan | None:
        self.fetches += 1
        self.fetch()
        return self.known

    async def follower(self) -> Follower:
        return await Follower(self.open, self.release, self.successor).start(OLD)

    def retire(self, error: Exception | None = None) -> None:
        """The first epoch admits nothing more, and what came after is known."""
        self.clients[OLD.digest].error = error or NotLoaded("retired")
        self.known = NEW


async def test_requests_that_a_retired_epoch_refuses_run_on_the_next():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    assert (await follower.run({})).epoch == 1
    nodes.retire()
    results = await asyncio.gather(*(follower.run({}, 5.0) for _ in range(8)))
    assert {result.epoch for result in results} == {2}
    assert (nodes.fetches, nodes.opened) == (1, [1, 2]), "one of them goes, the others follow"
    assert (follower.plan, follower.epoch, follower.granted) == (NEW, 2, 4)
    await follower.close()
    assert sorted(nodes.released) == [1, 2]


@pytest.mark.parametrize("same_model", [False, True])
async def test_weights_that_were_trained_since_are_followed_unless_only_the_same_ones_will_do(same_model):
    nodes = Nodes(OLD, TRAINED)
    follower = await Follower(nodes.open, nodes.release, nodes.successor, same_model=same_model).start(OLD)
    nodes.retire()
    nodes.known = TRAINED
    if same_model:
        with pytest.raises(NotLoaded, match="another model"):
            await follower.run({})
    else:
        assert (await follower.run({})).epoch == 2
    await follower.close()


def test_a_chain_of_trained_models_has_one_lineage_and_other_tensors_end_it():
    (model,) = TRAINED.models
    later = TRAINED.replace(models=(msgspec.structs.replace(model, sha256="d" * 64),))
    assert takes_the_place(later, TRAINED, same_model=False)
    assert takes_the_place(OLD, later, same_model=False), "a rollback is followed too"
    assert not takes_the_place(later, TRAINED, same_model=True)
    assert not takes_the_place(FOREIGN, OLD, same_model=False)
    assert not takes_the_place(later.replace(outputs=()), TRAINED, same_model=False)


async def test_requests_under_way_finish_where_they_were_admitted():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    old = nodes.clients[OLD.digest]
    old.hold = asyncio.Event()
    under_way = asyncio.ensure_future(follower.run({}))
    await asyncio.sleep(0)
    hold, old.hold = old.hold, None
    nodes.retire()
    assert (await follower.run({})).epoch == 2
    assert nodes.released == [], "somebody is still waiting there"
    hold.set()
    assert (await under_way).epoch == 1
    await follower.close()
    assert nodes.released[0] == 1


async def test_a_follower_that_is_told_goes_at_once_and_what_is_under_way_finishes():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    old = nodes.clients[OLD.digest]
    old.hold = asyncio.Event()
    under_way = asyncio.ensure_future(follower.run({}))
    await asyncio.sleep(0)
    nodes.refuse[NEW.digest] = [PeerUnreachable("not there yet")]
    with pytest.raises(PeerUnreachable):
        await follower.go_to(NEW)
    assert follower.plan is OLD
    await follower.go_to(NEW)
    assert (await follower.run({})).epoch == 2
    assert nodes.released == [], "somebody is still waiting there"
    old.hold.set()
    assert (await under_way).epoch == 1
    await follower.close()
    assert sorted(nodes.released) == [1, 2]


async def test_what_is_left_of_the_deadline_holds_for_the_next_try():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    old = nodes.clients[OLD.digest]
    old.hold = asyncio.Event()
    nodes.retire()
    waiting = asyncio.ensure_future(follower.run({}, 10.0))
    asyncio.get_running_loop().call_later(0.05, old.hold.set)
    result = await waiting
    assert nodes.clients[NEW.digest].asked[0] < 9.96
    assert result.total_ms >= 40.0, "the time that the refusal took counts"
    await follower.close()


@pytest.mark.parametrize("known", [None, OLD], ids=["nothing", "the same"])
async def test_without_a_successor_the_error_stands(known):
    nodes = Nodes(OLD)
    follower = await nodes.follower()
    nodes.retire()
    nodes.known = known
    with pytest.raises(NotLoaded, match="retired"):
        await follower.run({})
    await follower.close()
    assert nodes.released == [1]


async def test_a_plan_for_another_model_is_not_followed():
    nodes = Nodes(OLD, FOREIGN)
    follower = await nodes.follower()
    nodes.retire()
    nodes.known = FOREIGN
    with pytest.raises(NotLoaded, match="another model"):
        await follower.run({})
    await follower.close()


async def test_a_lost_node_is_a_reason_to_look_for_a_successor_and_a_failed_stage_is_none():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    nodes.retire(StageFailed("no"))
    with pytest.raises(StageFailed):
        await follower.run({})
    assert nodes.fetches == 0
    nodes.retire(NodeLost("gone"))
    assert (await follower.run({})).epoch == 2
    await follower.close()


async def test_an_epoch_that_gives_no_credits_any_more_is_left_and_a_full_one_is_not():
    nodes = Nodes(OLD, NEW)
    follower = await nodes.follower()
    nodes.retire(Overloaded("full"))
    with pytest.raises(Overloaded):
        await follower.run({})
    nodes.clients[OLD.digest].granted = 0
    assert (await follower.run({})).epoch == 2
    await follower.close()


async def test_an_epoch_that_is_not_everywhere_yet_is_tried_again():
    nodes = Nodes(OLD, NEW)
    nodes.refuse[NEW.digest] = [NotLoaded("b has epoch 1"), PeerUnreachable("c")]
    follower = await nodes.follower()
    nodes.retire()
    assert (await follower.run({}, 5.0)).epoch == 2
    await follower.close()


async def test_trying_again_ends_with_the_deadline():
    nodes = Nodes(OLD, NEW)
    nodes.refuse[NEW.digest] = [NotLoaded(str(i)) for i in range(100)]
    follower = await nodes.follower()
    nodes.retire()
    with pytest.raises(NotLoaded, match="retired"):
        await follower.run({}, 0.2)
    await follower.close()


async def test_a_plan_that_is_not_current_is_refused_and_not_replaced():
    nodes = Nodes(OLD, NEW)
    nodes.refuse[OLD.digest] = [NotLoaded("another version")]
    nodes.known = NEW
    with pytest.raises(NotLoaded, match="another version"):
        await nodes.follower()
    assert nodes.released == []
