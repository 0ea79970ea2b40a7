"""Running plans behind the Open Inference Protocol, over real nodes."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from collab.assets import path as asset
from collab.codec.pb import grpc_service_pb2 as pb
from collab.security.api_keys import add_api_key
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, running
from tests.integration.serving import ServeProcess, bring_up, plan_file
from tests.integration.test_packages import packaged

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def serving(trio: list[NodeProcess], digits: Reference, folder: Path) -> Iterator[ServeProcess]:
    """A server of a plan with alternatives over a, b and c."""
    plan, blobs = with_alternatives(digits, endpoints(trio))
    asyncio.run(bring_up(plan, blobs))
    with ServeProcess(
        folder, [plan_file(folder, plan)], "--bundle", str(packaged("digits", folder))
    ) as server:
        yield server


def as_json(reference: Reference, *rows: int) -> dict[str, Any]:
    """Requests of a reference as one body, along the model's own leading axis."""
    (spec,) = reference.graph.inputs
    array = np.concatenate([reference.requests[row][spec.name] for row in rows])
    tensor = {
        "name": spec.name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    return {"id": "7", "inputs": [tensor]}


def answered(reference: Reference, body: dict[str, Any], *rows: int) -> bool:
    """Whether a body holds the whole model's answers, bit by bit."""
    (spec,) = reference.graph.outputs
    (output,) = body["outputs"]
    array = np.array(output["data"], np.float32).reshape(output["shape"])
    expected = np.concatenate([reference.expected[row][spec.name] for row in rows])
    assert array.shape == expected.shape
    assert output["name"] == spec.name
    return bool(array.tobytes() == expected.tobytes())


def test_answers_are_those_of_the_whole_model(serving: ServeProcess, digits: Reference):
    with httpx.Client(base_url=serving.rest) as client:
        assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
        for rows in ((0,), (1, 2, 3)):
            response = client.post(INFER, json=as_json(digits, *rows))
            assert response.status_code == 200, response.text
            body = response.json()
            assert answered(digits, body, *rows)
            assert body["id"] == "7"
            assert body["parameters"] == {"path": "primary", "epoch": 1, "nodes": "a,b,c"}


def test_a_client_may_ask_for_a_path(serving: ServeProcess, digits: Reference):
    with httpx.Client(base_url=serving.rest) as client:
        asked = as_json(digits, 4)
        body = client.post(INFER, json=asked | {"parameters": {"path": "alternative", "hops": True}}).json()
        assert answered(digits, body, 4)
        assert body["parameters"]["path"].startswith("alternative:")
        assert [hop["stage"] for hop in json.loads(body["parameters"]["hops"])] == [0, 1, 2]
        response = client.post(INFER, json=asked | {"parameters": {"path": "local"}})
        assert response.status_code == 400
        assert "path 'local': this plan has none here" in response.json()["error"]


def test_a_picture_is_answered_with_labels(serving: ServeProcess, digits: Reference):
    image = pytest.importorskip("PIL.Image")
    with np.load(asset("digits_heldout.npz")) as held_out:
        pixels, name = held_out["images"][0][..., 0], f"digit {held_out['labels'][0]}"
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    with httpx.Client(base_url=serving.rest) as client:
        path = "/v1/files/digits?top=2"
        form = client.post(path, files={"file": ("0.png", file.getvalue(), "image/png")}).json()
        body = client.post(path, content=file.getvalue(), headers={"content-type": "image/png"}).json()
        assert form["answers"][0]["input"] == "0.png"
        for told in (form, body):
            (answer,) = told["answers"]
            assert next(one["label"] for one in answer["top"]) == name
            assert answered(digits, answer, 0)
        for data, kind, text in (
            (b"\x89PNG broken", "image/png", "cannot be read as a picture"),
            (b"a,b\n1,2\n", "text/csv", "this model takes a picture"),
        ):
            response = client.post(path, content=data, headers={"content-type": kind})
            assert response.status_code == 400
            assert text in response.json()["error"]


def test_a_lost_node_and_a_lost_server_cost_no_answer(digits: Reference, tmp_path: Path):
    nodes = [NodeProcess(name, tmp_path) for name in "abc"]
    with running(nodes):
        plan, blobs = with_alternatives(digits, endpoints(nodes))
        asyncio.run(bring_up(plan, blobs))
        file = plan_file(tmp_path, plan)
        with (
            ServeProcess(tmp_path, [file]) as one,
            ServeProcess(tmp_path, [file], "--local", str(digits.path)) as two,
            httpx.Client() as client,
        ):
            paths: list[str] = []
            for row in range(24):
                if row == 8:
                    nodes[1].kill()
                if row == 16:
                    one.kill()
                # A client with two addresses: whoever does not answer is left.
                for server in (one.rest, two.rest):
                    try:
                        response = client.post(server + INFER, json=as_json(digits, row), timeout=20)
                        break
                    except httpx.TransportError:
                        assert server == one.rest
                        assert row >= 16
                assert response.status_code == 200, response.text
                assert answered(digits, response.json(), row)
                paths.append(response.json()["parameters"]["path"])
            for node in (nodes[0], nodes[2]):
                node.kill()
            response = client.post(two.rest + INFER, json=as_json(digits, 24), timeout=20)
            assert answered(digits, response.json(), 24)
            assert response.json()["parameters"]["path"] == "local"
    assert set(paths[:8]) == {"primary"}
    assert all(path.startswith("alternative:") for path in paths[8:16]), paths
    assert "primary" not in paths[16:], paths


def test_a_service_manager_hears_of_it_and_can_have_the_keys_read_again(
    serving: ServeProcess, tmp_path: Path
):
    keys, manager = tmp_path / "keys.txt", tmp_path / "manager"
    old = add_api_key(keys, "old", "viewer")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(manager))
        channel.settimeout(15)
        env = {"NOTIFY_SOCKET": str(manager), "WATCHDOG_USEC": "1000000"}
        with ServeProcess(tmp_path, serving.plans, "--api-keys", str(keys), env=env) as server:
            assert [channel.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            keys.unlink()
            new = add_api_key(keys, "new", "viewer")
            server.process.send_signal(signal.SIGHUP)
            with httpx.Client(base_url=server.rest) as client:

                def status(key: str) -> int:
                    return client.get("/v2", headers={"x-api-key": key}).status_code

                assert until(lambda: status(new) == 200)
                assert status(old) == 401
            # The kernel keeps ten messages and no more.
            channel.setblocking(False)
            with suppress(BlockingIOError):
                while channel.recv(100) == b"WATCHDOG=1":
                    pass
            channel.settimeout(15)
        told = channel.recv(100)
        while told == b"WATCHDOG=1":
            told = channel.recv(100)
        assert told == b"STOPPING=1"
    assert "API keys: read again" in server.log.read_text()


def scraped(url: str, name: str, *labels: str) -> float:
    """One series of a page of metrics; 0 where it is not there yet."""
    families = text_string_to_metric_families(httpx.get(url, timeout=10).text)
    found = {(s.name, frozenset(s.labels.values())): s.value for f in families for s in f.samples}
    return found.get((name, frozenset(labels)), 0.0)


def test_what_a_client_asked_is_withdrawn_from_the_nodes_when_it_goes_away(digits: Reference, tmp_path: Path):
    nodes = [
        NodeProcess("a", tmp_path),
        NodeProcess("b", tmp_path, "--metrics", "0", "--stretch", "60"),
    ]
    rows, credits = 40, 4
    (spec,) = digits.graph.inputs
    array = digits.requests[0][spec.name].repeat(rows, 0)
    with running(nodes):
        plan, blobs = digits.chain([10], ["a", "b"], endpoints(nodes))
        plan = plan.replace(credits=credits)
        asyncio.run(bring_up(plan, blobs))
        slow = nodes[1].events[0]["metrics"]
        with ServeProcess(tmp_path, [plan_file(tmp_path, plan)], "--metrics", "0") as server:
            (metrics,) = (word for word in server.log.read_text().split() if word.startswith("http://"))
            for count, protocol in enumerate(("rest", "grpc"), 1):
                with going_away(protocol, server, spec.name, array):
                    assert until(lambda: scraped(slow, "collab_in_flight", plan.name) == credits)
                assert until(lambda: scraped(slow, "collab_in_flight", plan.name) == 0)
                told = scraped(metrics, "collab_client_requests_total", plan.name, "withdrawn", "")
                assert count <= told <= count * credits, "the others still waited for a credit"
            with httpx.Client(base_url=server.rest, timeout=30) as client:
                assert answered(digits, client.post(INFER, json=as_json(digits, 0)).json(), 0)
            runs = scraped(slow, "collab_stage_seconds_count", plan.name, plan.stages[1].id, "compute")
            assert runs < rows / 2, "what was under way, of twice as many rows"


def until(holds: Callable[[], bool], within_s: float = 15.0) -> bool:
    """Whether something comes to hold in time."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            return False
    return True


@contextmanager
def going_away(protocol: str, server: ServeProcess, name: str, array: Any) -> Iterator[None]:
    """A client that has asked, and leaves without its answer."""
    if protocol == "grpc":
        request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[array.tobytes()])
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        with grpc.insecure_channel(server.grpc) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            ).future(request)
            yield
            call.cancel()
        return
    tensor = {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
    url = httpx.URL(server.rest)
    connection = HTTPConnection(url.host, url.port)
    connection.request("POST", INFER, json.dumps({"inputs": [tensor]}))
    yield
    connection.close()


def test_mistakes_end_the_command_with_one_line(tmp_path: Path, serving: ServeProcess):
    plan = serving.plans[0]
    port = serving.rest.rpartition(":")[2]
    cases: list[tuple[list[object], int, str]] = [
        ([tmp_path / "no.yaml"], 1, "No such file"),
        ([plan, "--listen", "none", "--grpc", "none"], 2, "give an address to at least one"),
        ([plan, "--rate", "often"], 2, "give requests a second"),
        ([plan, "--tls-cert", "c.pem"], 2, "give both or none"),
        ([plan, "--listen", "0.0.0.0:0"], 4, "not encrypted"),
        ([plan, "--api-keys", tmp_path / "keys"], 2, "collab api-key"),
        ([plan, "--grpc", "none", "--listen", f"127.0.0.1:{port}"], 3, "in use"),
    ]
    for arguments, code, text in cases:
        done = command("serve", *arguments)
        assert done.code == code, (arguments, done)
        assert text in done.errors[-1], done.err
