"""A node's stream when nodes of its plan are lost, come back, drain, and when its broker restarts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import paho.mqtt.publish as publish
import pytest

from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy, undeploy
from collab.core.ids import NodeName
from collab.core.plan import NodeRef, Plan
from collab.core.streams import SinkRef, SourceRef, StreamSpec
from collab.core.validate import validate
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, running
from tests.integration.test_streams import lines, until
from tests.mosquitto import mosquitto

pytestmark = [pytest.mark.heavy("frontdoor"), pytest.mark.timeout(180)]


def placed(plan: Plan, nodes: list[NodeProcess]) -> Plan:
    """The plan, and what stands in for it, with a stream of node d's topic."""
    stream = StreamSpec(
        id="door",
        source=SourceRef(node=NodeName("d"), name="door"),
        sinks=(SinkRef(name="log"),),
        policy="queue:64",
        deadline_ms=5000.0,
    )
    refs = {ref.name: ref for ref in plan.nodes}
    refs["d"] = NodeRef(name=NodeName("d"), endpoints=(nodes[-1].endpoint,))
    spare = tuple(one.replace(streams=(stream,)) for one in plan.alternatives)
    return validate(plan.replace(nodes=tuple(refs.values()), streams=(stream,), alternatives=spare))


def test_frames_are_answered_while_nodes_go_and_come(tmp_path: Path, digits: Reference):
    log, settings = tmp_path / "answers.jsonl", tmp_path / "d.toml"
    tensors = [next(iter(request.values())).tobytes() for request in digits.requests]
    with mosquitto() as broker:
        settings.write_text(
            f"""
[sources.door]
kind = "mqtt"
url = "mqtt://127.0.0.1:{broker.port}/door"
qos = 1

[sinks.log]
kind = "jsonl"
path = "{log}"
""",
            encoding="utf-8",
        )
        nodes = [NodeProcess(name, tmp_path) for name in "abc"]
        nodes.append(NodeProcess("d", tmp_path, "--config", str(settings)))
        sent = 0

        def answered(count: int = 5) -> list[dict]:
            """Send frames; their answers."""
            nonlocal sent
            known = len(lines(log))
            for _ in range(count):
                publish.single("door", tensors[sent % len(tensors)], qos=1, port=broker.port)
                sent += 1
            found: list[dict] = until(lambda: (new := lines(log)[known:]) and len(new) >= count and new)
            for line, index in zip(found, range(sent - count, sent), strict=True):
                (want,) = digits.expected[index % len(tensors)].values()
                assert line["outputs"] == {next(iter(digits.expected[0])): want.tolist()}, line
            return found

        def state() -> dict:
            reply = command("status", "--peers", nodes[-1].place, "--json").json["nodes"][0]
            return next(iter(reply["streams"]), {})

        with running(nodes):
            plan, blobs = with_alternatives(digits, endpoints(nodes[:3]))
            plan = placed(plan, nodes)

            async def bring(up: bool) -> None:
                async with build_cluster() as cluster:
                    await (deploy(cluster, plan, blobs) if up else undeploy(cluster, plan))

            asyncio.run(bring(True))
            until(lambda: state().get("state") == "running")
            assert {line["via"] for line in answered()} == {"primary"}

            nodes[1].kill()
            via = [line["via"] for line in answered(10)]
            assert via[-1] == f"alternative:{plan.alternatives[0].name}", via
            nodes[1].start()
            deadline = time.monotonic() + 60
            while answered(1)[0]["via"] != "primary":
                assert time.monotonic() < deadline

            broker.restart()
            until(lambda: state().get("state") == "running" and not state()["trouble"])
            answered()

            told = state()
            assert told["captured"] == told["answered"] == sent
            assert told["sinks"][0]["delivered"] == sent

            asyncio.run(bring(False))
            until(lambda: not state())
    assert np.unique([line["sequence"] for line in lines(log)]).size == sent
