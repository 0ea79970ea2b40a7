"""Federated rounds with real node processes: the same model over every transport and through every fault."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from collab.client.remote_client import RemoteClient
from collab.client.training import TrainingControl
from collab.federated.orders import OrderId
from tests.integration.federated_trainers import HELD_OUT, install
from tests.integration.processes import ROOT, Finished, NodeProcess, collab, command, environment, running
from tests.mosquitto import Mosquitto, mosquitto

pytestmark = pytest.mark.timeout(120)

HONEST = ("ann", "ben", "cyd")
SHORT = {"deadline_s": 3.0, "quorum": 0.4}
BAD = {"nan": "poisoned", "odd": "misshapen", "mute": "hanging"}
FEATURES, CLASSES = 8, 4
TASK = {
    "name": "softmax",
    "model": "model.npz",
    "rounds": 12,
    "clients": {"minimum": 3, "wait_s": 20},
    "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.3},
    "round": {"deadline_s": 30, "quorum": 0.4},
    "evaluation": {"every": 4, "deadline_s": 10},
    "quarantine": {"rounds": None},
}


class Site(NamedTuple):
    """Nodes that train, and the broker that they can be reached through."""

    folder: Path
    nodes: dict[str, NodeProcess]
    fragile: Mosquitto
    """A broker that one test kills; the nodes are at another one as well."""

    def peers(self, names: tuple[str, ...] = HONEST, start: str = "grpc://") -> str:
        places = [node.events[0]["endpoints"] for name, node in self.nodes.items() if name in names]
        return ",".join(next(at for at in ends if at.startswith(start)) for ends in places)

    def arguments(self, out: Path, peers: str, minimum: int = 3, **fields: Any) -> list[object]:
        """A run's words; ``fields`` are the task's own."""
        task = self.folder / f"{out.name}.yaml"
        task.write_text(yaml.safe_dump(TASK | {"clients": {"minimum": minimum, "wait_s": 20}} | fields))
        return ["fed", "run", task, "--peers", peers, "--out", out, "--json"]

    def begin(self, out: Path, peers: str) -> subprocess.Popen[bytes]:
        """The run as a process of its own."""
        words = [sys.executable, "-m", "collab", *map(str, self.arguments(out, peers))]
        with open(f"{out}.log", "wb") as log:
            return subprocess.Popen(
                words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )


def data_of(name: str) -> dict[str, np.ndarray]:
    centres = np.random.default_rng(7).normal(size=(CLASSES, FEATURES))
    rng = np.random.default_rng(sum(name.encode()))
    y = rng.integers(0, CLASSES, 60 + len(name) * 10)
    return {"x": (centres[y] + rng.normal(size=(len(y), FEATURES)) / 2).astype(np.float32), "y": y}


def samples(name: str) -> int:
    """That a client trains on."""
    count = len(data_of(name)["y"])
    return count - -(-count // HELD_OUT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("federated")
    path = f"{ROOT}:{install(folder / 'trainers')}"
    np.savez(
        folder / "model.npz",
        w=np.zeros((FEATURES, CLASSES), np.float32),
        b=np.zeros(CLASSES, np.float32),
    )
    with mosquitto() as broker, mosquitto() as fragile:
        at = [f"mqtt://127.0.0.1:{one.port}" for one in (broker, fragile)]
        listen = ",".join(["127.0.0.1:0", "coap+tcp://127.0.0.1:0", *at])
        nodes = {}
        for name in (*HONEST, *BAD):
            np.savez(folder / f"{name}.npz", **data_of(name))
            config = folder / f"{name}.toml"
            trainer = BAD.get(name, "softmax")
            lines = f'data = "{folder / name}.npz"\ntrainer = "{trainer}"\ngateways = ["hub"]\n'
            config.write_text(f"[training]\n{lines}")
            options = ("--config", str(config), "--listen", listen)
            nodes[name] = NodeProcess(name, folder, *options, env={"PYTHONPATH": path})
        with running(list(nodes.values())):
            yield Site(folder, nodes, fragile)


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> dict[str, Any]:
    """What the honest ones make when nothing happens."""
    done = command(*site.arguments(site.folder / "undisturbed", site.peers()))
    assert done.code == 0, done
    document: dict[str, Any] = done.json
    return document


def await_lines(file: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, file
        assert process.poll() is None, "the run ended before"
        time.sleep(0.002)


def ended(process: subprocess.Popen[bytes]) -> Finished:
    try:
        out, _ = process.communicate(timeout=60) if process.returncode is None else (b"", None)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Finished(process.returncode, out.decode(), "")


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def test_devices_learn_together_and_the_folder_tells_how(site, undisturbed):
    out = site.folder / "undisturbed"
    assert (undisturbed["outcome"], undisturbed["rounds"], undisturbed["left_out"]) == ("done", 12, {})
    assert undisturbed["evaluation"]["accuracy"] > 0.9
    lines = records(out)
    assert [line["round"] for line in lines] == list(range(1, 13))
    assert all([one["client"] for one in line["took_part"]] == list(HONEST) for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert (out / "rounds.svg").read_text().startswith("<svg")
    with np.load(out / "weights.npz") as weights:
        assert weights["w"].shape == (FEATURES, CLASSES)
    told = command("fed", "status", out, "--json").json
    assert (told["outcome"], told["model"]) == ("done", undisturbed["model"])
    again = command("fed", "resume", out, "--json")
    assert (again.code, again.json["model"]) == (0, undisturbed["model"])


@pytest.mark.parametrize("scheme", ["mqtt", "coap+tcp"])
def test_the_model_is_the_same_over_every_transport(site, undisturbed, scheme, tmp_path):
    done = command(*site.arguments(tmp_path / scheme.partition("+")[0], site.peers(start=f"{scheme}://")))
    assert (done.code, done.json["model"]) == (0, undisturbed["model"]), done
    assert done.json["up_bytes"] == undisturbed["up_bytes"]


def test_clients_that_send_nonsense_or_nothing_are_named_and_the_run_goes_on(site, undisturbed, tmp_path):
    names = (*HONEST, *BAD)
    done = command(*site.arguments(tmp_path / "faults", site.peers(names), len(names), round=SHORT))
    assert done.code == 0, done
    found = done.json
    assert found["model"] == undisturbed["model"]
    assert found["quarantined"] == ["nan", "odd"]
    assert found["left_out"]["nan"] == found["left_out"]["odd"] == {"refused": 1}
    first = {entry["client"]: entry for entry in records(tmp_path / "faults")[0]["left_out"]}
    assert first["nan"]["field"] == "delta['b']"
    assert "not finite" in first["nan"]["reason"]
    assert first["odd"]["reason"] == "has shape [1, 4], expected [4]"
    assert first["mute"]["kind"] == "late"


def test_a_gateway_that_sums_for_its_children_makes_the_same_model(site, undisturbed, tmp_path):
    config = tmp_path / "hub.toml"
    config.write_text(f"[training]\nchildren = {site.peers(HONEST[:2]).split(',')}\n")
    with NodeProcess("hub", tmp_path, "--config", str(config)) as hub:
        peers = f"{hub.endpoint},{site.peers(HONEST[2:])}"
        done = command(*site.arguments(tmp_path / "gateway", peers, minimum=2))
        assert (done.code, done.json["model"]) == (0, undisturbed["model"]), done
        first = records(tmp_path / "gateway")[0]
        assert [(one["client"], one["samples"]) for one in first["took_part"]] == [
            ("cyd", samples("cyd")),
            ("hub", samples("ann") + samples("ben")),
        ]


def test_a_client_is_dialled_at_an_endpoint_of_an_allowed_transport(site, undisturbed, tmp_path, monkeypatch):
    enrol, kinds = RemoteClient.enrol, set[str]()

    async def enrolled(self: RemoteClient) -> Any:
        assert self.link is not None
        kinds.add(self.link.connection.kind)
        return await enrol(self)

    monkeypatch.setattr(RemoteClient, "enrol", enrolled)
    allowed = ("coap+udp", "coap+tcp")
    done = command(*site.arguments(tmp_path / "allowed", site.peers(), transports=allowed))
    assert (done.code, done.json["outcome"], kinds) == (0, "done", {"coap+tcp"}), done
    refused = command(*site.arguments(tmp_path / "not-allowed", site.peers(), transports=allowed[:1]))
    assert (refused.code, len(refused.errors)) == (2, 1), refused
    assert "has no endpoint of coap+udp" in refused.errors[0]


def test_rounds_go_on_when_one_client_in_three_drops_out_of_each(site, tmp_path, monkeypatch):
    seed = int(os.environ.get("DROP_SEED") or random.SystemRandom().randrange(1, 1 << 32))
    sys.stdout.write(f"DROP_SEED={seed}\n")  # shown when it fails, and repeats it
    gone = {number: random.Random(seed + number).choice(HONEST) for number in range(1, 7)}
    gone[7] = ""  # so that everybody hears the end
    offer, send, frozen = RemoteClient.offer, RemoteClient.send, set[str]()

    async def offered(self: RemoteClient, order: OrderId, *rest: Any) -> Any:
        if self.name in frozen and gone[order.round] != self.name:
            site.nodes[self.name].send(signal.SIGCONT)
            frozen.remove(self.name)
        return await offer(self, order, *rest)

    async def sent(self: RemoteClient, order: OrderId, *rest: Any) -> Any:
        if gone[order.round] == self.name:
            site.nodes[self.name].send(signal.SIGSTOP)
            frozen.add(self.name)
        return await send(self, order, *rest)

    monkeypatch.setattr(RemoteClient, "offer", offered)
    monkeypatch.setattr(RemoteClient, "send", sent)
    cohort = {"select": "random", "count": 2, "over_selection": 1.5}
    arguments = site.arguments(
        tmp_path / "drops", site.peers(), rounds=len(gone), cohort=cohort, evaluation={"every": 0}
    )
    try:
        done = command(*arguments)
    finally:
        for name in HONEST:
            site.nodes[name].send(signal.SIGCONT)
    assert (done.code, done.json["outcome"], done.json["rounds"]) == (0, "done", 7), done
    last = gone.popitem()[0]
    lines = records(tmp_path / "drops")[: last - 1]
    took = [[one["client"] for one in line["took_part"]] for line in lines]
    assert took == [[name for name in HONEST if name != lost] for lost in gone.values()]
    left = [[(one["client"], one["kind"]) for one in line["left_out"]] for line in lines]
    assert left == [[(lost, "late")] for lost in gone.values()]
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.usefixtures("undisturbed")
def test_a_run_that_loses_its_quorum_fails_and_says_so(site, tmp_path):
    rules = {"deadline_s": 1.0, "quorum": 1.0, "on_lack": "fail"}
    done = command(*site.arguments(tmp_path / "lost", site.peers(("ann", "odd")), 2, round=rules))
    assert (done.code, done.json["outcome"]) == (1, "failed"), done
    assert "1 of 2" in done.json["reason"]


def test_a_broker_that_is_killed_while_a_client_uploads_costs_no_bit(
    site, undisturbed, tmp_path, monkeypatch
):
    get_blob, offsets, broker = TrainingControl.get_blob, [], site.fragile

    async def break_off(self: TrainingControl, sha256: Any, size: int, offset: int, keep: Callable) -> None:
        if self._control.name == "ben":
            offsets.append(offset)
            if len(offsets) == 1:
                await get_blob(self, sha256, size, offset, lambda at, data: keep(at, data[: size // 2]))
                await broker.restarted(signal.SIGKILL)
        await get_blob(self, sha256, size, offset, keep)

    monkeypatch.setattr(TrainingControl, "get_blob", break_off)
    try:
        done = command(*site.arguments(tmp_path / "cut", site.peers(start=f"mqtt://127.0.0.1:{broker.port}")))
    finally:
        broker.stop()
    assert (done.code, done.json["model"]) == (0, undisturbed["model"]), done
    assert done.json["left_out"] == {}
    assert len(offsets) >= 12


def test_a_client_that_is_killed_while_it_uploads_goes_on_with_the_same_update(
    site, undisturbed, tmp_path, monkeypatch
):
    get_blob, offsets = TrainingControl.get_blob, []

    async def break_off(self: TrainingControl, sha256: Any, size: int, offset: int, keep: Callable) -> None:
        if self._control.name != "ben":
            await get_blob(self, sha256, size, offset, keep)
            return
        offsets.append(offset)
        if len(offsets) == 1:
            await get_blob(self, sha256, size, offset, lambda at, data: keep(at, data[: size // 2]))
            await asyncio.to_thread(node.kill)
            restarting.append(asyncio.ensure_future(asyncio.to_thread(node.start)))
        await get_blob(self, sha256, size, offset, keep)

    restarting: list[asyncio.Future[NodeProcess]] = []
    monkeypatch.setattr(TrainingControl, "get_blob", break_off)
    config = str(site.folder / "ben.toml")
    with NodeProcess("ben", tmp_path, "--config", config, env=site.nodes["ben"].env) as node:
        peers = f"{site.peers(('ann', 'cyd'))},{node.endpoint}"
        done = command(*site.arguments(tmp_path / "killed", peers))
    assert (done.code, done.json["model"]) == (0, undisturbed["model"]), done
    assert offsets[0] == 0
    assert offsets[1] > 0
    assert done.json["left_out"] == {}


def test_a_server_that_is_killed_resumes_to_the_same_model(site, undisturbed, tmp_path):
    out = tmp_path / "server"
    process = site.begin(out, site.peers())
    try:
        await_lines(out / "rounds.jsonl", 3, process)
    finally:
        process.kill()
        ended(process)
    assert command("fed", "status", out, "--json").json["outcome"] == "open"
    done = collab("fed", "resume", out, "--json")
    assert done.json["model"] == undisturbed["model"]
    assert [line["round"] for line in records(out)] == list(range(1, 13))


def test_an_interrupt_ends_a_run_so_that_it_can_be_resumed(site, undisturbed, tmp_path):
    out = tmp_path / "interrupted"
    process = site.begin(out, site.peers())
    try:
        await_lines(out / "rounds.jsonl", 1, process)
        process.send_signal(signal.SIGINT)
    finally:
        done = ended(process)
    assert (done.code, done.json["outcome"]) == (1, "stopped")
    assert "Traceback" not in Path(f"{out}.log").read_text()
    assert command("fed", "resume", out, "--json").json["model"] == undisturbed["model"]


@pytest.mark.usefixtures("undisturbed")
def test_what_cannot_be_run_is_said_in_one_line(site, tmp_path):
    task = site.folder / "bad.yaml"
    task.write_text("name: x\nmodel: model.npz\nrounds: 1\nrules: 2\n")
    done = command("fed", "run", task, "--peers", "127.0.0.1:1", "--out", tmp_path / "x")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "rules" in done.errors[0]
    assert not (tmp_path / "x").exists()
    assert command("fed", "run", site.folder / "undisturbed.yaml", "--out", tmp_path / "x").code == 2
    assert command("fed", "status", tmp_path / "x").code == 2
    begun = command(*site.arguments(site.folder / "undisturbed", site.peers()))
    assert (begun.code, "fed resume" in begun.errors[0]) == (2, True)
