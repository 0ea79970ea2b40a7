"""Epochs: several coordinators, several plans, new versions under load."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.cli.files import write_plan
from collab.client.runner import Result
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, Deployment, deploy, undeploy
from collab.core.ids import Digest, Epoch
from collab.core.plan import Plan, to_json
from collab.errors import Conflict, NotLoaded
from collab.transport.aio import timeout
from tests.integration.deployments import assert_equal_answers, deployed_plan, endpoints, run_all
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, running

ROUNDS = 20


async def current(cluster: Cluster, plan: Plan) -> set[tuple[Epoch, Digest] | None]:
    views = await cluster.describe(ref.name for ref in plan.nodes)
    return {view.epoch_of(plan.name) for view in views.values()}


async def test_of_two_coordinators_one_wins_everywhere(trio: list[NodeProcess], digits: Reference):
    rng = random.Random(20)
    cuts = ([10, 20], [8, 22])
    made = [digits.chain(at, ["a", "b", "c"], endpoints(trio), name="contested") for at in cuts]
    outcomes: Counter[str] = Counter()

    async def bring_up(cluster: Cluster, plan: Plan, blobs: Blobs, pause_s: float) -> Deployment | Conflict:
        await asyncio.sleep(pause_s)  # the jitter is what is tested, nobody waits for it
        try:
            return await deploy(cluster, plan, blobs)
        except Conflict as conflict:
            return conflict

    async with build_cluster() as one, build_cluster() as other:
        for plan, blobs in made:
            await deploy(one, plan, blobs)
        await other.reach_plan(made[0][0])
        for number in range(ROUNDS):
            plans = [plan.replace(credits=20 + number) for plan, _ in made]
            results = await asyncio.gather(
                *(
                    bring_up(cluster, plan, blobs, rng.uniform(0, 0.02))
                    for cluster, plan, (_, blobs) in zip((one, other), plans, made, strict=True)
                )
            )
            won = [
                (result.epoch, plan.digest)
                for result, plan in zip(results, plans, strict=True)
                if isinstance(result, Deployment)
            ]
            outcomes["conflict" if len(won) == 1 else "one after the other"] += 1
            assert won, results
            assert await current(one, plans[0]) == {max(won)}, "never a mix"
            plan = plans[[plan.digest for plan in plans].index(max(won)[1])]
            client = await one.open(plan, 1)
            result = await client.run(digits.requests[number])
            assert digits.same(number, result.outputs)
            await one.release(client)
            for view in (await one.describe("abc")).values():
                assert not [p for p in view.description.plans if p.state == "prepared"], "nothing half-done"
        await undeploy(one, made[0][0])
    assert outcomes["conflict"] >= ROUNDS // 4, outcomes


async def test_a_deployment_meanwhile_by_somebody_else_is_a_conflict(
    trio: list[NodeProcess], digits: Reference, tmp_path: Path
):
    plan, _ = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio), name="reserved")
    path = tmp_path / "plan.yaml"
    await asyncio.to_thread(write_plan, path, plan)
    async with build_cluster() as cluster:
        await cluster.reach_plan(plan)
        holder = secrets.token_hex(4)
        request = pb.ReserveRequest(plan=to_json(plan.replace(credits=9)), epoch=1, holder=holder)
        await cluster.control("b").call("Reserve", request)
        refused = await asyncio.to_thread(collab, "deploy", path, "--json", code=1)
        assert refused.json["error"]["code"] == "conflict"
        assert refused.errors == [f"error: {refused.json['error']['message']}"]
        assert f"'b': {holder!r} is deploying epoch 1" in refused.errors[0]
        for view in (await cluster.describe("abc")).values():
            assert not view.holds(plan.name)
        await cluster.control("b").epoch("Abort", plan.name, 1, plan.replace(credits=9).digest, holder)
        assert (await asyncio.to_thread(collab, "deploy", path, "--json")).json["changed"] is True
        await undeploy(cluster, plan)


async def test_two_plans_run_side_by_side_on_the_same_nodes(
    trio: list[NodeProcess], references: dict[str, Reference]
):
    left, right = references["digits"], references["digits_int8"]
    first = left.chain([10, 20], ["a", "b", "c"], endpoints(trio), name="left")
    second = right.chain([5, 25], ["c", "b", "a"], endpoints(trio), name="right")
    async with deployed_plan(*first) as (_, one), deployed_plan(*second) as (cluster, two):
        await asyncio.gather(assert_equal_answers(one, left), assert_equal_answers(two, right))
        for view in (await cluster.describe("abc")).values():
            assert view.epoch_of(first[0].name) is not None
            assert view.epoch_of(second[0].name) is not None


@pytest.fixture
def quick_to_forget(tmp_path: Path):
    """Three nodes that unload an old epoch soon."""
    settings = tmp_path / "node.toml"
    settings.write_text("[node]\nretire_s = 12\n")
    with running([NodeProcess(name, tmp_path, "--config", str(settings)) for name in "abc"]) as nodes:
        yield nodes


async def test_a_new_version_under_load_costs_no_request(
    quick_to_forget: list[NodeProcess], digits: Reference
):
    places = endpoints(quick_to_forget)
    old, old_blobs = digits.chain([10, 20], ["a", "b", "c"], places)
    new, new_blobs = digits.chain([6, 26], ["c", "a", "b"], places)
    async with build_cluster() as cluster:
        first = await deploy(cluster, old, old_blobs)
        client = await cluster.open(old, 8)
        under_way = asyncio.ensure_future(run_all(client, digits))
        async with build_cluster() as coordinator:
            second = await deploy(coordinator, new, new_blobs)
        assert (first.epoch, second.epoch) == (1, 2)
        for i, result in enumerate(await under_way):
            assert isinstance(result, Result), result
            assert digits.same(i, result.outputs)
        await assert_equal_answers(client, digits)
        newer = await cluster.open(new, 8)
        await assert_equal_answers(newer, digits)
        async with timeout(40):
            while any(1 in view.holds(old.name) for view in (await cluster.describe("abc")).values()):
                pass
        with pytest.raises(NotLoaded, match="epoch 1 is not loaded on node 'a'; epoch 2 is"):
            await client.run(digits.requests[0])
        await assert_equal_answers(newer, digits)


async def test_a_node_keeps_few_epochs_of_a_plan_in_memory(trio: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio), name="often")
    async with build_cluster() as cluster:
        for credits in range(10, 17):
            await deploy(cluster, plan.replace(credits=credits), blobs)
        for view in (await cluster.describe("abc")).values():
            assert sorted(view.holds(plan.name)) == [4, 5, 6, 7]
        await undeploy(cluster, plan)
        for view in (await cluster.describe("abc")).values():
            assert not view.holds(plan.name)


async def test_a_plan_that_moves_leaves_the_nodes_that_it_left(trio: list[NodeProcess], digits: Reference):
    everywhere, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio), name="moving")
    less, fewer = digits.chain([10], ["a", "b"], endpoints(trio), name="moving")
    async with build_cluster() as cluster:
        await deploy(cluster, everywhere, blobs)
        assert (await deploy(cluster, less, fewer)).epoch == 2
        views = await cluster.describe("abc")
        assert [sorted(views[name].holds(less.name)) for name in "abc"] == [[1, 2], [1, 2], []]
        await assert_equal_answers(await cluster.open(less, 8), digits)
        await undeploy(cluster, less)


async def test_what_was_current_serves_again_after_a_restart_of_all(tmp_path: Path, digits: Reference):
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(nodes))
        gone, more = digits.chain([], ["a"], endpoints(nodes[:1]), name="gone")
        async with build_cluster() as cluster:
            await deploy(cluster, plan.replace(credits=9), blobs)
            await deploy(cluster, plan, blobs)
            await deploy(cluster, gone, more)
            await undeploy(cluster, gone)
        for node in nodes:
            node.kill()
        for node in nodes:
            node.start()
        async with build_cluster() as cluster:
            client = await cluster.open(plan, 8)
            assert client.epoch == 2
            await assert_equal_answers(client, digits)
            (view,) = (await cluster.describe("a")).values()
            assert view.holds(gone.name) == []
            assert view.holds(plan.name) == [2], "an older epoch does not come back"
