"""Federated runs over links within one process: what a task can ask for, and what a lost link costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from collab import assembly, backends
from collab.assembly import build_cluster, build_node
from collab.cli.fed_running import run_federated
from collab.client.training import TrainingControl
from collab.coordinator.federated import Watcher
from collab.coordinator.federated_folder import RunFolder, RunSettings
from collab.errors import NotLoaded, UsageError
from collab.federated import server_work
from collab.federated.actions import Finish, Notify
from collab.federated.exchange import read_weights
from collab.federated.privacy.fixed_point import decode_sum
from collab.federated.privacy.masking import Masking
from collab.federated.privacy.sessions import ClientSession
from collab.federated.records import RoundRecord
from collab.federated.task import convert_task
from collab.federated.update import Parameters
from collab.node.config import NodeConfig
from collab.node.service import NodeService
from collab.node.store import Store
from collab.node.training_config import TrainingConfig
from collab.transport.inproc import InprocTransport
from tests.integration import federated_trainers

SAMPLES = 40
TRAINERS = {name: getattr(federated_trainers, name) for name in ("softmax", "poisoned", "misshapen")}


class Told(Watcher):
    """Keeps what it is told, and can act on it."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []
        self.notices: list[Notify] = []
        self.on_record: Any = lambda record: None

    def notice(self, notice: Notify) -> None:
        self.notices.append(notice)

    def record(self, record: RoundRecord) -> None:
        self.records.append(record)
        self.on_record(record)


class Site:
    """Three nodes that train, a gateway of two of them, and a folder for runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transport = InprocTransport()
        self.nodes: dict[str, NodeService] = {}
        self.told = Told()

    async def start(self, name: str, **training: Any) -> NodeService:
        config = NodeConfig(
            name=name,
            listen=(f"inproc://{name}",),
            discovery=(),
            store=self.folder / "stores" / name,
            training=TrainingConfig(**{"trainer": "softmax", **training}),
        )
        # A node opens its store before its loop has work.
        store = await asyncio.to_thread(Store, self.folder / "stores" / name)
        with (
            patch.object(assembly, "Store", lambda *_: store),
            patch.object(assembly, "entry_points", lambda group: ()),
            patch.object(backends, "entry_points", lambda group: ()),
            patch.dict(assembly.TRAINERS, TRAINERS),
        ):
            self.nodes[name] = await build_node(config, self.transport).__aenter__()
        return self.nodes[name]

    async def stop(self, name: str) -> None:
        if name in self.nodes:
            await self.nodes.pop(name).__aexit__(None, None, None)

    async def run(self, label: str, peers: str = "ann ben", **task: Any) -> Finish:
        """Begin a run, or go on with the one of that label."""
        names = peers.split()
        rules = {"clients": {"minimum": len(names)}, "round": {"deadline_s": 20}, "rounds": 3, **task}
        made = convert_task({"name": label, "model": "m.npz", **rules})
        self.told.records.clear()
        folder = RunFolder(self.folder / label)

        def enter() -> None:
            folder.__enter__()
            if not folder.begun:
                folder.begin(made, (self.folder / "m.npz").read_bytes(), RunSettings(tuple(names)))

        await asyncio.to_thread(enter)
        try:
            async with build_cluster(inproc=self.transport) as cluster:
                addresses = [f"inproc://{name}" for name in names]
                running = run_federated(cluster, folder, made, addresses, self.told)
                return await asyncio.wait_for(running, 40)
        finally:
            folder.__exit__(None, None, None)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    np.savez(tmp_path / "m.npz", w=np.zeros((8, 4), np.float32), b=np.zeros(4, np.float32))
    made = Site(tmp_path)
    for number, name in enumerate(("ann", "ben", "cyd")):
        rng = np.random.default_rng(number)
        y = rng.integers(0, 4, SAMPLES * 5 // 4)
        x = (np.eye(8)[y] + rng.normal(size=(len(y), 8)) / 4).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    async with AsyncExitStack() as stack:
        for name in ("ann", "ben", "cyd"):
            await made.start(name, data=str(tmp_path / f"{name}.npz"), gateways=("hub",))
        await made.start("hub", children=("inproc://ann", "inproc://ben"))
        for name in list(made.nodes):
            stack.push_async_callback(made.stop, name)
        yield made


async def test_a_run_over_a_gateway_makes_the_bits_of_one_without(site):
    flat = await site.run("flat", "ann ben cyd")
    first = {one.client: one.loss for one in site.told.records[0].took_part}
    over = await site.run("over", "hub cyd")
    assert (flat.outcome, over.outcome, over.model) == ("done", "done", flat.model)
    took = {one.client: (one.samples, one.loss) for one in site.told.records[0].took_part}
    assert took["cyd"] == (SAMPLES, first["cyd"])
    assert took["hub"] == (2 * SAMPLES, pytest.approx((first["ann"] + first["ben"]) / 2))


async def test_the_record_names_a_gateways_children_and_why_one_is_left_out(site):
    await site.stop("ben")
    await site.start("ben", data=str(site.folder / "ben.npz"), gateways=("hub",), trainer="poisoned")
    finish = await site.run("bad", "hub cyd", rounds=2)
    assert finish.outcome == "done"
    for record in site.told.records:
        cyd, hub = record.took_part
        ann, ben = hub.children
        assert cyd.children == ()
        assert (ann.client, ann.kind, ann.samples, hub.samples) == ("ann", "counted", SAMPLES, SAMPLES)
        assert ann.loss == hub.loss
        assert (ben.client, ben.kind, ben.samples, ben.field) == ("ben", "refused", 0, "delta['b']")
        assert "not finite" in ben.reason
    await site.stop("ben")
    await site.run("gone", "hub cyd", rounds=1, round={"deadline_s": 2.0})
    (late,) = [child for one in site.told.records[0].took_part for child in one.children if not child.samples]
    assert (late.kind, late.client) == ("late", "inproc://ben")


async def test_what_children_hold_out_is_evaluated_on_through_their_gateway(site):
    await site.run("flat", "ann ben cyd", rounds=1)
    flat = dict(site.told.records[0].evaluation)
    await site.run("over", "hub cyd", rounds=1)
    assert dict(site.told.records[0].evaluation) == pytest.approx(flat)
    assert flat["samples"] == 3 * SAMPLES // 4


async def test_children_add_their_own_noise_where_privacy_is_local(site, monkeypatch):
    monkeypatch.setattr(server_work, "epsilon", lambda *_: 1.0)  # the account takes seconds to load
    private = {"clip": 1e3, "noise_multiplier": 1e-9, "place": "local"}
    await site.run("plain", "hub cyd", rounds=1)
    plain = dict(site.told.records[0].evaluation)
    await site.run("noisy", "hub cyd", rounds=1, privacy=private)
    (record,) = site.told.records
    assert dict(record.evaluation) == pytest.approx(plain, abs=1e-3)
    told = [(child.kind, child.loss) for one in record.took_part for child in one.children]
    assert told == [("counted", None)] * 2  # what a noisy update says of its data is left out


async def test_a_client_without_an_endpoint_that_the_task_allows_is_named(site):
    with pytest.raises(UsageError, match=r"'ann' .* no endpoint of mqtt, grpc; it has inproc://ann"):
        await site.run("refused", "ann", transports=("mqtt", "grpc"))
    finish = await site.run("allowed", "ann", transports=("grpc", "inproc"), rounds=1)
    assert finish.outcome == "done"


async def test_a_rule_that_needs_single_updates_does_without_a_gateway(site):
    finish = await site.run(
        "median",
        "hub cyd",
        rounds=1,
        aggregation={"combine": "median"},
    )
    assert finish.outcome == "done"
    (left,) = site.told.records[0].left_out
    assert (left.client, left.kind) == ("hub", "declined")
    assert left.reason.startswith("aggregation.combine: median")
    assert "gateways send sums" in left.reason


@pytest.mark.parametrize(
    "task",
    [
        {"compression": {"up": {"elements": "int8"}, "down": {"elements": "int8"}}},
        {"compression": {"up": {"top": 0.2, "elements": "fp16"}}},
        {"aggregation": {"rule": "scaffold"}},
        {"aggregation": {"rule": "fedadam"}, "training": {"optimizer": "sgd", "learning_rate": 0.2}},
        {"aggregation": {"combine": "median"}},
        {"mode": "async", "buffered": {"buffer": 2, "concurrency": 2}},
        {"cohort": {"select": "random", "count": 1}},
        {"round": {"deadline_s": 2.5e6}},
    ],
    ids=["int8", "top", "scaffold", "fedadam", "median", "async", "random", "a month"],
)
async def test_what_a_task_asks_for_is_done_and_every_update_counts(site, task):
    finish = await site.run("task", **task, evaluation={"every": 3})
    assert (finish.outcome, finish.rounds) == ("done", 3)
    assert [record.left_out for record in site.told.records] == [()] * 3
    assert site.told.records[-1].evaluation["samples"] == 2 * SAMPLES // 4
    assert site.told.records[-1].loss < site.told.records[0].loss


@pytest.mark.parametrize("answers", [0, 1, 2, 3, 4])
async def test_who_leaves_in_any_phase_of_a_secure_sum_costs_no_bit_of_it(site, monkeypatch, answers):
    mask, asked, masked = TrainingControl.mask, [], {}

    async def leaves(self: TrainingControl, order: Any, message: bytes) -> bytes:
        if self._control.name == "cyd":
            asked.append(order.round)
            if len(asked) > answers:
                raise NotLoaded("cyd is gone")
        return await mask(self, order, message)

    def spy(self: ClientSession, delta: Parameters, samples: int) -> bytes:
        masked[self._client.name] = delta, samples
        return original(self, delta, samples)

    original = ClientSession.masked
    monkeypatch.setattr(ClientSession, "masked", spy)
    monkeypatch.setattr(TrainingControl, "mask", leaves)
    finish = await site.run("secure", "ann ben cyd", rounds=1, secure_aggregation={"threshold": 2})
    assert finish.outcome == "done", finish
    (record,) = site.told.records
    there = ["ann", "ben", "cyd"] if answers >= 3 else ["ann", "ben"]
    assert [one.client for one in record.took_part] == there
    vectors = [Masking().vector(*masked[name]) for name in there]
    shapes = {"w": (8, 4), "b": (4,)}
    mean = decode_sum(Masking().encoding, shapes, np.add.reduce(vectors), len(vectors)).mean()
    data = await asyncio.to_thread((site.folder / "secure/checkpoint/blobs" / finish.model).read_bytes)
    weights = read_weights(data)
    assert all((weights[name] == mean[name].astype(np.float32)).all() for name in shapes)
    assert [out.client for out in record.left_out] == [name for name in ("cyd",) if name not in there]
    assert any("nobody signs keys" in notice.text for notice in site.told.notices)


async def test_a_secure_round_below_its_threshold_fails_with_the_reason_and_the_run_goes_on(
    site, monkeypatch
):
    mask = TrainingControl.mask
    gone: list[str] = []

    async def leaves(self: TrainingControl, order: Any, message: bytes) -> bytes:
        if order.attempt == 0 and self._control.name in ("ben", "cyd") and len(gone) < 2:
            gone.append(self._control.name)
            raise NotLoaded("not now")
        return await mask(self, order, message)

    monkeypatch.setattr(TrainingControl, "mask", leaves)
    finish = await site.run("secure", "ann ben cyd", rounds=2, secure_aggregation=True)
    assert (finish.outcome, finish.rounds) == ("done", 2)
    assert [record.extensions for record in site.told.records] == [1, 0]
    said = next(notice.text for notice in site.told.notices if notice.kind == "lack")
    assert said.startswith("round 1 begins anew: secure aggregation: 1 clients sent keys, fewer than")


async def test_a_gateway_has_no_part_in_a_secure_round(site):
    finish = await site.run("secure", "ann ben cyd hub", rounds=1, secure_aggregation=True)
    assert finish.outcome == "done"
    assert [(out.client, out.kind) for out in site.told.records[0].left_out] == [("hub", "declined")]


async def test_a_node_that_is_started_again_between_rounds_keeps_what_it_remembers(site):
    encodings = {"compression": {"up": {"elements": "int8"}}}
    whole = await site.run("whole", **encodings, rounds=4)
    loop, done = asyncio.get_running_loop(), []

    async def again() -> None:
        await site.stop("ann")
        await site.start("ann", data=str(site.folder / "ann.npz"))

    def restart(record: RoundRecord) -> None:
        if record.round == 2:
            loop.call_soon_threadsafe(lambda: done.append(loop.create_task(again())))

    site.told.on_record = restart
    broken = await site.run("broken", **encodings, rounds=4)
    await asyncio.gather(*done)
    assert done
    assert (broken.outcome, broken.model) == ("done", whole.model)
