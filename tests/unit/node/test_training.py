"""A node's side of rounds: what it takes, does, tells, and remembers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest, NodeName
from collab.errors import (
    CollabError,
    Conflict,
    LimitExceeded,
    NotLoaded,
    ProtocolError,
    Refused,
    StoreError,
)
from collab.federated.base import Trained
from collab.federated.compression.models import encode_model
from collab.federated.compression.settings import Compression
from collab.federated.compression.updates import decode_update
from collab.federated.exchange import plain_weights
from collab.federated.orders import OrderId
from collab.federated.privacy.identities import name_signer, name_verifier
from collab.federated.privacy.masking import (
    Masking,
    basis_of,
    decode_invitation,
    encode_invitation,
    invite,
)
from collab.federated.privacy.messages import decode_from_client
from collab.federated.privacy.sessions import ClientSession, ServerSession
from collab.federated.update import LocalTraining, Update
from collab.node.store import Store
from collab.node.training import NodeTraining
from collab.node.training_config import TrainingConfig
from collab.node.training_offer import read_offer
from collab.node.training_policy import Surroundings
from collab.node.training_work import Enrolled, Part
from collab.node.verbs import Caller

START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
WEIGHTS = plain_weights(START)
ALWAYS = Surroundings(load=0.0, charging=True, device="eth0", minute=0)


class Toy:
    """Adds the seed to every weight; can be held in the middle of a step."""

    def __init__(self) -> None:
        self.initial = START
        self.trained: list[int] = []
        self.change: np.ndarray | None = None
        """In place of the seed."""
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def train(self, start, task, *, correction=None, cancelled=lambda: False) -> Trained:
        self.begun.set()
        assert self.go_on.wait(10)
        cancelled()
        self.trained.append(task.seed)
        if self.error is not None:
            raise self.error
        change = np.float32(task.seed) if self.change is None else self.change
        if correction is not None:
            change = correction["w"]
        return Trained({"w": start["w"] + change}, 5, 2, 0.5, {"loss": 1.5}, correction or {})

    def evaluate(self, parameters):
        return {"loss": float(parameters["w"].sum()), "samples": 3.0}


class Site:
    """A node's training over a store that outlives it."""

    def __init__(self, folder: Path, **settings) -> None:
        self.folder, self.toy = folder, Toy()
        self.config = TrainingConfig(data="d", trainer="toy", **settings)
        self.surroundings = ALWAYS

    async def __aenter__(self) -> Site:
        self.store = await asyncio.to_thread(Store, self.folder)
        self.training = NodeTraining(
            "n",
            self.config,
            self.store,
            asyncio.to_thread,
            {"toy": lambda path, config: Enrolled(self.toy, 5)},
            lambda: self.surroundings,
        )
        await self.training.start()
        self.model, self.weights = await self.put(b"trainable"), await self.put(WEIGHTS)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.toy.go_on.set()
        await self.training.close()
        self.store.close()

    async def put(self, data: bytes) -> Digest:
        return await asyncio.to_thread(self.store.add, data, ())

    async def update(self, state: pb.TrainingState) -> Update:
        """The update that a state names."""
        path = await asyncio.to_thread(self.store.path, state.update)
        return decode_update(await asyncio.to_thread(path.read_bytes))

    def request(self, round_=1, attempt=0, seed=1, run="run", **fields) -> pb.OfferTrainingRequest:
        order = pb.TrainingOrder(
            run=run, round=round_, attempt=attempt, evaluate=fields.pop("evaluate", False)
        )
        return pb.OfferTrainingRequest(
            **{
                "order": order,
                "trainable": self.model,
                "weights": self.weights,
                "training": msgspec.json.encode(LocalTraining(seed=seed)),
                "deadline_s": 60.0,
                **fields,
            }
        )

    async def offer(self, **fields) -> pb.OfferTrainingReply:
        return await self.training.offer(read_offer(self.request(**fields)))

    async def train(self, round_=1, **fields) -> pb.TrainingState:
        """Offer, begin, wait."""
        order = OrderId(fields.get("run", "run"), round_, fields.get("attempt", 0))
        assert (await self.offer(round_=round_, **fields)).state.state == "accepted"
        await self.training.begin(order, False, ())
        return await self.training.status(order, False, 10)


async def test_an_order_is_trained_once_however_often_it_is_offered(tmp_path):
    async with Site(tmp_path) as site:
        state = await site.train(seed=4)
        assert (state.state, state.samples, state.steps) == ("done", 5, 2)
        assert {m.name: m.value for m in state.metrics} == {"loss": 1.5}
        update = await site.update(state)
        assert (update.client, update.round, update.samples) == ("n", 1, 5)
        assert (update.delta["w"] == 4).all()
        again = await site.offer(seed=4)
        assert (again.state.state, again.state.update) == ("done", state.update)
        assert site.toy.trained == [4]
    async with Site(tmp_path) as site:
        after = await site.offer(seed=4)
        assert (after.state.state, after.state.update, after.state.samples) == ("done", state.update, 5)
        assert site.toy.trained == []


async def test_what_a_lossy_update_left_out_is_sent_later_only_if_it_counted(tmp_path):
    encoding = msgspec.json.encode(Compression(top=0.34))
    feedback = {}
    for counted in (True, False):
        async with Site(tmp_path / str(counted)) as site:
            site.toy.change = np.arange(6, dtype=np.float32).reshape(2, 3)
            await site.train(1, encoding=encoding)
            await site.training.end(OrderId("run", 1), False, counted=counted, leave=False)
            state = await site.train(2, encoding=encoding)
            feedback[counted] = (await site.update(state)).delta["w"]
    assert feedback[False].reshape(-1).tolist() == [0, 0, 0, 0, 4, 5]
    assert feedback[True].reshape(-1).tolist() == [0, 0, 0, 6, 0, 5]


async def test_an_acknowledgement_that_was_lost_comes_with_the_next_offer(tmp_path):
    async with Site(tmp_path) as site:
        control = await site.put(plain_weights({"w": np.ones((2, 3), np.float32)}))
        await site.train(1, control=control)
        counted = pb.TrainingOrder(run="run", round=1)
        state = await site.train(2, control=control, counted=counted)
        # The client's own variate is 1 by now, so nothing is left of the server's.
        assert not (await site.update(state)).delta["w"].any()


async def test_weights_come_whole_or_as_a_difference_and_are_checked(tmp_path):
    async with Site(tmp_path) as site:
        await site.train(1)
        following = {"w": START["w"] + np.float32(1)}
        site.weights = Digest(_sha(plain_weights(following)))
        reply = await site.offer(round_=2)
        assert (list(reply.lacks), list(reply.holds)) == ([site.weights], [_sha(WEIGHTS)])
        change = encode_model(following, Compression(), START).data
        order, base = OrderId("run", 2), Digest(_sha(WEIGHTS))
        with pytest.raises(StoreError, match="not in the store"):
            await site.training.begin(order, False, ())
        with pytest.raises(NotLoaded, match="not what the order names"):
            await site.training.begin(order, False, [Part(base, await site.put(change), base)])
        other = encode_model({"w": START["w"] - np.float32(1)}, Compression(), START).data
        with pytest.raises(StoreError, match="stands for others"):
            await site.training.begin(order, False, [Part(site.weights, await site.put(other), base)])
        await site.training.begin(order, False, [Part(site.weights, await site.put(change), base)])
        assert (await site.training.status(order, False, 10)).state == "done"


async def test_weights_are_evaluated_beside_and_not_in_place_of_training(tmp_path):
    async with Site(tmp_path) as site:
        await site.train(1)
        order = OrderId("run", 1)
        assert (await site.offer(evaluate=True)).state.state == "accepted"
        await site.training.begin(order, True, ())
        state = await site.training.status(order, True, 10)
        assert (state.state, state.samples) == ("done", 3)
        assert {m.name: m.value for m in state.metrics} == {"loss": 15.0}
        assert (await site.training.status(order, False, 0)).state == "done"


async def test_a_later_order_ends_the_one_under_way_and_another_run_is_told_to_wait(tmp_path):
    async with Site(tmp_path) as site:
        site.toy.go_on.clear()
        await site.offer(seed=1)
        await site.training.begin(OrderId("run", 1), False, ())
        await asyncio.to_thread(site.toy.begun.wait, 10)
        assert (await site.training.status(OrderId("run", 1), False, 0)).state == "training"
        busy = await site.offer(run="other")
        assert (busy.state.state, busy.state.reason) == ("declined", "busy with run run")
        assert site.training.declined["busy"] == 1
        assert (await site.offer(round_=2, seed=2)).state.state == "accepted"
        assert (await site.training.status(OrderId("run", 1), False, 0)).state == "unknown"
        await site.training.begin(OrderId("run", 2), False, ())
        site.toy.go_on.set()
        state = await site.training.status(OrderId("run", 2), False, 10)
        assert ((await site.update(state)).delta["w"] == 2).all()


async def test_a_policy_declines_before_and_ends_training(tmp_path, monkeypatch):
    monkeypatch.setattr("collab.node.training._WATCH_S", 0.01)
    async with Site(tmp_path, charging=True) as site:
        site.surroundings = Surroundings(load=0, charging=False, device="", minute=0)
        assert (await site.training.describe("run", site.model)).refusal.startswith("on battery")
        assert (await site.offer()).state.reason.startswith("on battery")
        site.surroundings = ALWAYS
        site.toy.go_on.clear()
        await site.offer()
        await site.training.begin(OrderId("run", 1), False, ())
        site.surroundings = Surroundings(load=0, charging=False, device="", minute=0)
        state = await site.training.status(OrderId("run", 1), False, 10)
        assert (state.state, state.reason[:10]) == ("failed", "on battery")
        told = {cause: count for cause, count in site.training.declined.items() if count}
        assert told == {"on_battery": 2}, "an order that was declined, and one that was given up"


async def test_a_trainer_that_raises_fails_its_order_and_not_the_node(tmp_path, caplog):
    async with Site(tmp_path) as site:
        site.toy.error = ZeroDivisionError()
        state = await site.train(1)
        assert (state.state, state.reason) == (
            "failed",
            "trainer 'toy' fails with ZeroDivisionError; see the node's log",
        )
        site.toy.error = None
        assert (await site.train(1)).state == "done"


async def test_only_gateways_that_are_named_may_have_a_node_train(tmp_path):
    operator, gateway = Caller(NodeName("op~1"), "operator"), Caller(NodeName("g"), "node")
    async with Site(tmp_path / "a") as site:
        site.training.check(operator, "OfferTraining")
        with pytest.raises(Refused, match=r"OfferTraining: 'g' may not have 'n' train; name it in training"):
            site.training.check(gateway, "OfferTraining")
    async with Site(tmp_path / "b", gateways=("g",)) as site:
        site.training.check(gateway, "OfferTraining")
        site.training.check(operator, "OfferTraining")


async def test_a_node_without_data_and_one_that_drains_decline(tmp_path):
    async with Site(tmp_path) as site:
        site.training.draining = True
        assert (await site.offer()).state.reason == "'n' drains"
        site.training.draining, site.training.config = False, TrainingConfig()
        assert "set training.data" in (await site.offer()).state.reason
        assert (site.training.declined["draining"], site.training.declined["not_set_up"]) == (1, 1)
        assert (await site.training.describe("run", site.model)).trainer == ""


async def test_a_run_that_is_over_leaves_nothing_in_the_store(tmp_path):
    async with Site(tmp_path) as site:
        await site.train(1)
        used = set(site.training.used_digests())
        assert {site.model, site.weights} < used
        await site.training.end(OrderId("run", 1), False, counted=True, leave=True)
        assert site.training.used_digests() == []
        assert await asyncio.to_thread(site.store.digests) == [site.model]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"training": b"{"}, ProtocolError),
        ({"training": b'{"epochs":0}'}, ProtocolError),
        ({"training": b'{"learning_rate":-1.0}'}, ProtocolError),
        ({"training": b'{"max_steps":0}'}, ProtocolError),
        ({"training": b" " * 100_000}, LimitExceeded),
        ({"encoding": b'{"top":2.0}'}, ProtocolError),
        ({"deadline_s": 0.0}, ProtocolError),
        ({"deadline_s": float("nan")}, ProtocolError),
        ({"clip": float("inf")}, ProtocolError),
    ],
)
async def test_offers_that_make_no_sense_are_refused(tmp_path, fields, error):
    async with Site(tmp_path) as site:
        with pytest.raises(error):
            read_offer(site.request(**fields))


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


# --- under masks ---------------------------------------------------------------------


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with Site(tmp_path, **getattr(request, "param", {})) as made:
        yield made


def invited(site: Site, names=("m", "n", "o"), **training) -> bytes:
    masking = Masking()
    basis = basis_of(site.model, site.weights, LocalTraining(**training), masking)
    return encode_invitation(invite("run/1/0", names, 2, masking.length({"w": (2, 3)}), basis, masking))


async def with_keys(site: Site, order: OrderId) -> None:
    """Two others, and this node, agree on keys."""
    data = invited(site)
    server = ServerSession(decode_invitation(data), name_verifier())
    others = {
        name: ClientSession(
            name, data, lambda m: basis_of(site.model, site.weights, LocalTraining(), m), *ends
        )
        for name, ends in ((one, (name_signer(one), name_verifier())) for one in ("m", "o"))
    }
    said = {name: other.again(data) for name, other in others.items()} | {
        "n": await site.training.mask(order, data)
    }
    for _ in range(2):
        for name, message in said.items():
            server.take(name, message)
        replies = server.close()
        said = {name: other.take(replies[name]) for name, other in others.items()}
        said["n"] = await site.training.mask(order, replies["n"])
    assert said["n"] == b""


async def test_a_masked_update_leaves_the_node_under_masks_alone(site):
    await site.offer(masked=True)
    await with_keys(site, OrderId("run", 1))
    await site.training.begin(OrderId("run", 1), False, ())
    state = await site.training.status(OrderId("run", 1), False, 10.0)
    assert (state.state, state.samples, list(state.metrics)) == ("done", 5, [])
    path = await asyncio.to_thread(site.store.path, state.update)
    data = await asyncio.to_thread(path.read_bytes)
    vector = Masking().vector({"w": np.full((2, 3), 1, np.float32)}, 5)
    masked = decode_from_client(data, decode_invitation(invited(site)).terms).vector
    assert len(masked) == vector.nbytes
    assert vector[:2].tobytes() not in data


async def test_without_keys_a_masked_order_fails_and_nothing_leaves(site):
    state = await site.train(masked=True)
    assert (state.state, state.update) == ("failed", "")
    assert "holds no keys" in state.reason


async def test_messages_of_a_sum_that_fit_no_masked_order_are_refused(site):
    order = OrderId("run", 1)
    with pytest.raises(NotLoaded, match="offer it"):
        await site.training.mask(order, invited(site))
    await site.offer()
    with pytest.raises(Conflict, match="not offered as a masked one"):
        await site.training.mask(order, invited(site))
    await site.offer(round_=2, masked=True)
    order = OrderId("run", 2)
    with pytest.raises(Refused, match="other weights or orders"):
        await site.training.mask(order, invited(site, epochs=7))
    for junk in (b"", b"\x93", bytes(100_000)):
        with pytest.raises(CollabError):
            await site.training.mask(order, junk)
    keys = await site.training.mask(order, invited(site))
    assert await site.training.mask(order, invited(site)) == keys
    with pytest.raises(ProtocolError):
        await site.training.mask(order, b"junk")


@pytest.mark.parametrize("site", [{"masked": True}], indirect=True)
async def test_a_node_may_take_part_in_masked_sums_alone(site):
    reply = await site.offer()
    assert (reply.state.state, "training.masked" in reply.state.reason) == ("declined", True)
    assert (await site.offer(masked=True)).state.state == "accepted"
    assert (await site.offer(evaluate=True)).state.state == "accepted"
