"""What a node's disk can do to it: corruption, no room, no writing, uploads cut short."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.deploy import deploy, undeploy
from collab.errors import CollabError, LimitExceeded, StoreError
from tests.integration.deployments import assert_equal_answers, endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, deployed, running


def flip_a_bit(path: Path) -> None:
    """As a worn-out card does."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


async def test_a_corrupted_stage_is_named_not_served_and_fetched_again(tmp_path: Path, digits: Reference):
    with running([NodeProcess(name, tmp_path) for name in "ab"]) as nodes:
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        other, other_blobs = digits.chain([], ["b"], endpoints(nodes[1:]), name="other")
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            await deploy(cluster, other, other_blobs)
        nodes[1].stop()
        victim = plan.stage("stage-1").sha256
        assert victim is not None
        flip_a_bit(nodes[1].store / "blobs" / victim)
        nodes[1].start()
        assert f"blob {victim[:12]}: corrupted" in nodes[1].text()
        async with build_cluster() as cluster:
            await cluster.reach_plan(plan)
            (view,) = (await cluster.describe(["b"])).values()
            assert [p.plan for p in view.description.plans] == ["other"]
            with pytest.raises(CollabError, match="'digits' is not deployed on node 'b'"):
                await cluster.open(plan)
            await assert_equal_answers(await cluster.open(other, 8), digits)
            again = await deploy(cluster, plan, blobs)
            assert again.changed
            assert again.sent_bytes == {"a": 0, "b": len(blobs[victim])}
            await assert_equal_answers(await cluster.open(plan, 8), digits)


async def test_a_stage_that_rots_under_a_running_plan_is_fetched_again_by_deploying(
    tmp_path: Path, digits: Reference
):
    with running([NodeProcess("a", tmp_path)]) as nodes:
        plan, blobs = digits.chain([10], ["a", "a"], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            victim = plan.stage("stage-0").sha256
            assert victim is not None
            # A new file in its place: the one that is mapped into memory stays as it is.
            path = nodes[0].store / "blobs" / victim
            shutil.copy(path, path.with_suffix(".copy"))
            flip_a_bit(path.with_suffix(".copy"))
            path.with_suffix(".copy").replace(path)
            client = await cluster.open(plan, 8)
            again = await deploy(cluster, plan, blobs)
            assert (again.changed, again.sent_bytes) == (False, {"a": len(blobs[victim])})
            await assert_equal_answers(client, digits)
        nodes[0].stop()
        nodes[0].start()
        assert "corrupted" not in nodes[0].text()


def test_a_kept_plan_that_cannot_be_read_is_named_and_left_out(tmp_path: Path):
    node = NodeProcess("a", tmp_path)
    plans = node.store / "plans"
    plans.mkdir(parents=True)
    (plans / "torn.json").write_text('{"epoch": 3, "plan": {"na')
    with node:
        assert "torn.json" in node.text()
        assert deployed([node]) == {"a": []}


async def test_an_upload_that_was_cut_short_is_resumed(tmp_path: Path, digits: Reference):
    with running([NodeProcess("a", tmp_path)]) as nodes:
        plan, blobs = digits.chain([], ["a"], endpoints(nodes))
        ((sha256, data),) = blobs.items()
        held = len(data) // 3
        async with build_cluster() as cluster:
            await cluster.reach_plan(plan)
            part = pb.PutBlobRequest(sha256=sha256, total_bytes=len(data), offset=0, data=data[:held])
            await cluster.control("a").call("PutBlob", part)
            nodes[0].kill()
            nodes[0].start()
        async with build_cluster() as cluster:
            first = await deploy(cluster, plan, blobs)
            assert first.sent_bytes == {"a": len(data) - held}
            await assert_equal_answers(await cluster.open(plan, 8), digits)


@pytest.mark.parametrize("left_over", ["other bytes", "too many bytes"])
async def test_a_part_that_is_not_the_blobs_is_replaced(tmp_path: Path, digits: Reference, left_over: str):
    node = NodeProcess("a", tmp_path)
    plan, blobs = digits.chain([], ["a"], {"a": ""})
    ((sha256, data),) = blobs.items()
    partial = node.store / "partial"
    partial.mkdir(parents=True)
    (partial / sha256).write_bytes(bytes(1000) if left_over == "other bytes" else data + b"more")
    with running([node]) as nodes:
        plan, blobs = digits.chain([], ["a"], endpoints(nodes))
        async with build_cluster() as cluster:
            first = await deploy(cluster, plan, blobs)
            assert first.sent_bytes["a"] >= len(data)
            await assert_equal_answers(await cluster.open(plan, 8), digits)


async def test_room_is_made_by_size_and_never_by_what_plans_use(tmp_path: Path, digits: Reference):
    settings = tmp_path / "node.toml"
    settings.write_text("[node]\nstore_bytes = 2_400_000\nretire_s = 0\n")
    with running([NodeProcess("a", tmp_path, "--config", str(settings))]) as nodes:
        made = {
            name: digits.chain(at, ["a"] * (len(at) + 1), endpoints(nodes), name=name)
            for name, at in (("first", []), ("second", [10]), ("third", [20]), ("fourth", [15]))
        }
        sizes = {name: sum(map(len, blobs.values())) for name, (_, blobs) in made.items()}
        assert sizes["first"] + sizes["second"] < 2_400_000 < sum(sizes.values()) - sizes["fourth"]
        async with build_cluster() as cluster:
            await deploy(cluster, *made["first"])
            await deploy(cluster, *made["second"])
            with pytest.raises(LimitExceeded, match=r"'a'.*store_bytes"):
                await deploy(cluster, *made["third"])
            for name in ("first", "second"):
                client = await cluster.open(made[name][0], 8)
                await assert_equal_answers(client, digits)
                await cluster.release(client)
            await undeploy(cluster, made["first"][0])
            await deploy(cluster, *made["third"])
            (view,) = (await cluster.describe(["a"])).values()
            assert set(made["second"][1]) | set(made["third"][1]) == set(view.description.models)
            await assert_equal_answers(await cluster.open(made["second"][0], 8), digits)


@contextmanager
def no_room(node: NodeProcess) -> Iterator[None]:
    """The node can write no byte to a file: the kernel says so to it alone."""
    pid = node.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_refuses_what_is_new_and_keeps_serving_what_is_loaded(
    tmp_path: Path, digits: Reference
):
    with running([NodeProcess(name, tmp_path) for name in "ab"]) as nodes:
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 8)
            before = {name: view.epoch_of(plan.name) for name, view in (await cluster.describe()).items()}
            with no_room(nodes[1]):
                new, new_blobs = digits.chain([20], ["a", "b"], endpoints(nodes))
                with pytest.raises(StoreError, match=r"'b'.*cannot write blob"):
                    await deploy(cluster, new, new_blobs)
                # Stages that are there already, but a plan that cannot be remembered.
                with pytest.raises(StoreError, match=r"'b'.*cannot keep plan 'digits'"):
                    await deploy(cluster, plan.replace(credits=32), blobs)
                await assert_equal_answers(client, digits)
            views = await cluster.describe()
            assert {name: view.epoch_of(plan.name) for name, view in views.items()} == before
            assert all(view.holds(plan.name) == [1] for view in views.values())
            assert (await deploy(cluster, new, new_blobs)).changed
        for node in nodes:
            node.stop()
            node.start()
        async with build_cluster() as cluster:
            await assert_equal_answers(await cluster.open(new, 8), digits)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
async def test_a_small_disk_really_full_is_named(tmp_path: Path, digits: Reference):
    node = NodeProcess("a", tmp_path)
    with mounted(node.store, "-o", "size=600k"), running([node]) as nodes:
        plan, blobs = digits.chain([], ["a"], endpoints(nodes))
        async with build_cluster() as cluster:
            with pytest.raises(StoreError, match="No space left on device"):
                await deploy(cluster, plan, blobs)
            assert not (await cluster.describe())["a"].description.plans


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_read_only_store_is_refused_at_the_start(tmp_path: Path):
    store = tmp_path / "store"
    with mounted(store, "-o", "ro"):
        refused = collab("node", "--name", "a", "--listen", "127.0.0.1:0", "--store", store, code=1)
    assert refused.errors == [
        f"error: store {store}: cannot be used: Read-only file system; choose another --store"
    ]
