"""REST over real sockets: what is answered, what is refused, and what slow or odd clients get."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.routing import Route

from collab.client.runner import Result
from collab.core.tensor import TensorSpec
from collab.errors import NodeLost, Overloaded, Refused
from collab.security.api_keys import ROLES, ApiKey, add_api_key, read_api_keys
from collab.serving import http_server
from collab.serving.access import Access
from collab.serving.door import DoorSettings, FrontDoor, check_places
from collab.serving.files import FileDesk
from collab.serving.limits import ServeLimits
from collab.serving.offers import Offers
from collab.serving.openapi import describe
from collab.serving.rate import RateLimit
from collab.serving.rest import Rest
from collab.serving.tls import TlsFiles
from tests.unit.serving.stand_in import Double, opener, plan

INFER = "/v2/models/m/infer"
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
LIMITS = ServeLimits(body_bytes=2000, header_s=0.2, body_s=0.2, body_bytes_s=1 << 20, connections=3)


@asynccontextmanager
async def serving(
    access: Access = Access(), limits: ServeLimits = LIMITS, client: Double | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a door with one model."""
    read, open_plan = opener({"m": client or Double()})
    settings = DoorSettings("127.0.0.1:0", None, access, limits)
    async with (
        FrontDoor([Path("m")], read, open_plan, settings) as door,
        httpx.AsyncClient(base_url=door.listen, trust_env=False) as asker,
    ):
        yield asker


@asynccontextmanager
async def connected(
    client: httpx.AsyncClient,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    yield reader, writer
    writer.close()


async def told(client: httpx.AsyncClient, data: bytes) -> bytes:
    """All that comes back for some bytes until the server closes."""
    async with connected(client) as (reader, writer):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 5)


async def test_each_route_answers_as_the_protocol_says():
    async with serving() as client:
        for path, document in {
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"live": True, "ready": True},
            "/v2/models/m/ready": {"name": "m", "ready": True},
            "/v2/models/m/versions/3/ready": {"name": "m", "ready": True},
        }.items():
            assert (await client.get(path)).json() == document
        metadata = (await client.get("/v2/models/m/versions/3")).json()
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        assert metadata["versions"] == ["3"]
        assert "binary_tensor_data" in (await client.get("/v2")).json()["extensions"]
        answer = (await client.post(INFER, json=BODY)).json()
        assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2, 4]}]
        config = (await client.get("/v2/models/m/config")).json()
        assert (config["max_batch_size"], config["input"]) == (
            256,
            [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
        )
        for path in ("/v2/models/m/versions/3/stats", "/v2/models/m/stats", "/v2/models/stats"):
            (stats,) = (await client.get(path)).json()["model_stats"]
            assert (stats["name"], stats["version"], stats["inference_count"]) == ("m", "3", 1)
            assert stats["inference_stats"]["success"]["count"] == 1
        listed = await client.post("/v2/repository/index", json={})
        assert listed.json() == [{"name": "m", "version": "3", "state": "READY", "reason": ""}]
        assert (await client.post("/v2/repository/models/m/unload")).status_code == 200
        assert (await client.get("/v2/models/m/ready")).status_code == 503
        assert (await client.post(INFER, json=BODY)).status_code == 404
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert (await client.post(INFER, json=BODY)).status_code == 200


REFUSED: dict[str, tuple[str, dict[str, Any], int]] = {
    "unknown model": ("/v2/models/n/infer", {"json": BODY}, 404),
    "unknown version": ("/v2/models/m/versions/9/infer", {"json": BODY}, 404),
    "no path": ("/v2/nothing", {"json": BODY}, 404),
    "path trick": ("/v2/models/..%2f..%2fetc%2fpasswd/infer", {"json": BODY}, 404),
    "slash": (INFER + "/", {"json": BODY}, 404),
    "wrong verb": ("/v2", {"json": BODY}, 405),
    "wrong type": (INFER, {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
    "not JSON": (INFER, {"content": b"{"}, 400),
    "large": (INFER, {"content": b"x" * 2001}, 413),
    "other site": (INFER, {"json": BODY, "headers": {"origin": "http://evil.example"}}, 403),
    "other site, action": (
        "/v2/repository/models/m/unload",
        {"headers": {"origin": "http://evil.example"}},
        403,
    ),
    "page, action": ("/v2/repository/models/m/unload", {"headers": {"sec-fetch-site": "cross-site"}}, 403),
    "header injection": ("/v2/models/m%0d%0aset-cookie:%20a=b/infer", {"json": BODY}, 404),
    "injected id": (INFER, {"json": BODY | {"id": "x\r\nset-cookie: a=b" + "x" * 300}}, 400),
    "rebound": (INFER, {"json": BODY, "headers": {"host": "evil.example"}}, 403),
    "length": (INFER, {"json": BODY, "headers": {"inference-header-content-length": "x"}}, 400),
    "no package": ("/v1/files/m", {"content": b"x"}, 400),
    "top": ("/v1/files/m?top=-1", {"content": b"x"}, 400),
}


async def test_what_is_wrong_is_refused_with_a_message_and_no_more():
    async with serving() as client:
        for name, (path, request, status) in REFUSED.items():
            response = await client.post(path, **request)
            assert response.status_code == status, (name, response.text)
            assert list(response.json()) == ["error"], name
            assert not {"access-control-allow-origin", "set-cookie"} & set(response.headers), name
        assert (await client.post(INFER, json=BODY)).status_code == 200


async def test_errors_of_the_cluster_have_their_status():
    client = Double()
    async with serving(client=client) as asker:
        for error, status in (
            (Overloaded("full"), 503),
            (NodeLost("node 'a'"), 503),
            (RuntimeError("x"), 500),
        ):
            client.error = error
            response = await asker.post(INFER, json=BODY)
            assert response.status_code == status
            assert ("retry-after" in response.headers) == (status == 503)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[dict[str, str], tuple[ApiKey, ...]]:
    """A key of each role, and their file."""
    made = {role: add_api_key(tmp_path / "keys", role, role) for role in ROLES}
    return made, read_api_keys(tmp_path / "keys")


async def test_keys_say_who_may_do_what(keys: tuple[dict[str, str], tuple[ApiKey, ...]]):
    made, known = keys
    async with serving(Access(keys=known)) as client:
        assert (await client.get("/v2/health/live")).status_code == 200, "probes have no key"
        response = await client.get("/v2")
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("Bearer collab-guessed", f"Basic {made['viewer']}", f"Bearer {known[0].sha256}"):
            assert (await client.get("/v2", headers={"authorization": wrong})).status_code == 401, wrong
        unload = "/v2/repository/models/m/unload"
        for role, expected in {
            "viewer": (200, 403, 403),
            "inference": (200, 200, 403),
            "operator": (200, 200, 200),
        }.items():
            headers = {"authorization": f"Bearer {made[role]}"}
            got = [
                (await client.get("/v2/models/m", headers=headers)).status_code,
                (await client.post(INFER, json=BODY, headers={"x-api-key": made[role]})).status_code,
                (await client.post(unload, headers=headers)).status_code,
            ]
            assert tuple(got) == expected, role


async def test_a_client_that_asks_too_often_is_told_to_wait():
    async with serving(Access(rate=RateLimit(2))) as client:
        statuses = [(await client.get("/v2")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await client.get("/v2/health/live")).status_code == 200


SLOW = {
    "no headers": (b"", b"408"),
    "half of the headers": (b"POST /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"408"),
    "half of the body": (
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{", b"408",
    ),
    "long headers": (b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n", b"431"),
    "no end of headers": (b"GET /v2 HTTP/1.1\r\nx: " + b"a" * 40_000, b"431"),
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", b"400"),
    "a header in a header": (b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n", b"400"),
    "two lengths": (
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400",
    ),
    "chunks without end": (
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"3e8\r\n" + b"x" * 1000 + b"\r\n3e8\r\n" + b"x" * 1000 + b"\r\n3e8\r\n" + b"x" * 1000 + b"\r\n",
        b"413",
    ),
}  # fmt: skip


async def test_slow_and_odd_clients_are_told_why_and_let_go():
    async with serving() as client:
        for name, (data, status) in SLOW.items():
            answer = await told(client, data)
            assert answer.startswith(b"HTTP/1.1 " + status), (name, answer)
        assert (await client.post(INFER, json=BODY)).status_code == 200


async def test_answers_do_not_wait_for_acknowledgements():
    """With Nagle's algorithm each would take 40 ms more; asyncio leaves it on where no protocol is named."""
    with closing(http_server._listening("127.0.0.1:0")) as listening:
        assert listening.proto == socket.IPPROTO_TCP


class Wire:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


async def test_a_head_is_sent_with_its_body_and_never_late():
    wire, loop = Wire(), asyncio.get_running_loop()
    joining = http_server._Joining(cast("asyncio.Transport", wire), loop)
    joining.write(b"head ")
    joining.write(b"body")
    assert wire.sent == [b"head body"]
    joining.write(b"head alone")
    await asyncio.sleep(0)
    assert wire.sent[1:] == [b"head alone"]
    long = bytes(http_server._JOIN_BYTES)
    joining.write(b"head of a long one")
    joining.write(long)
    assert wire.sent[2] == b"head of a long one"
    assert wire.sent[3] is long, "it is not copied"
    joining.write(b"the last")
    joining.close()
    assert wire.sent[4:] == [b"the last"]
    await asyncio.sleep(0)
    assert wire.closed


class Heard(logging.Handler):
    """Sets an event when something is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


async def test_who_does_not_take_its_answer_is_let_go(monkeypatch: pytest.MonkeyPatch):
    wide = plan("m", outputs=(TensorSpec("y", (1, 4_000_000), "float32"),))

    class Wide(Double):
        async def run(self, inputs: Any, *given: Any, only: str, trace: Any = None) -> Result:
            return Result({"y": np.zeros((1, 4_000_000), np.float32)}, 1.0, (), ())

    heard = Heard()
    logger = logging.getLogger("collab.serving")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(heard)
    limits = replace(LIMITS, body_bytes_s=1 << 30)
    body = json.dumps(BODY | {"parameters": {"binary_data_output": True}}).encode()
    try:
        async with serving(limits=limits, client=Wide(wide)) as client, connected(client) as (reader, writer):
            head = f"POST {INFER} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.wait_for(heard.event.wait(), 5)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(16_000_000)
    finally:
        logger.removeHandler(heard)


async def test_who_goes_away_within_its_body_leaves_nothing_behind(caplog: pytest.LogCaptureFixture):
    async with serving(limits=replace(LIMITS, held_bytes=2000)) as client:
        for _ in range(3):
            async with connected(client) as (_, writer):
                writer.write(
                    b"POST "
                    + INFER.encode()
                    + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1500\r\n\r\n{"
                )
                await writer.drain()
        response = await client.post(INFER, content=json.dumps(BODY).ljust(1500))
        while response.status_code == 503:
            response = await client.post(INFER, content=json.dumps(BODY).ljust(1500))
        assert response.status_code == 200
    assert "ASGI" not in caplog.text


async def test_what_is_asked_is_withdrawn_when_its_client_goes_away(caplog: pytest.LogCaptureFixture):
    client = Double(granted=1)
    client.hold = asyncio.Event()
    async with serving(client=client) as asker:
        body = json.dumps(BODY).encode()
        head = f"POST {INFER} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        async with connected(asker) as (_, writer):
            # The second waits behind the first, and for the one credit.
            writer.write(2 * (head.encode() + body))
            await asyncio.wait_for(client.was_asked.wait(), 5)
            assert not client.withdrawn.is_set()
        await asyncio.wait_for(client.withdrawn.wait(), 5)
        client.hold.set()
        assert (await asker.post(INFER, json=BODY)).status_code == 200
    assert len(client.asked) == 2
    assert not caplog.records


async def test_a_long_body_is_withdrawn_as_well():
    client = Double()
    client.hold = asyncio.Event()
    async with serving(limits=replace(LIMITS, body_bytes=1 << 20, body_s=5), client=client) as asker:
        body = json.dumps(BODY).encode().ljust(100_000)
        head = f"POST {INFER} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        async with connected(asker) as (_, writer):
            writer.write(head.encode() + body[:1000])
            for _ in range(100):  # so that the rest is not read together with it
                await asyncio.sleep(0)
            writer.write(body[1000:])
            await asyncio.wait_for(client.was_asked.wait(), 5)
        await asyncio.wait_for(client.withdrawn.wait(), 5)
        client.hold.set()


async def test_connections_over_the_bound_are_refused():
    async with serving(limits=replace(LIMITS, header_s=5)) as client:
        held = [await asyncio.open_connection(client.base_url.host, client.base_url.port) for _ in range(3)]
        assert (await told(client, b"")).startswith(b"HTTP/1.1 503")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        assert (await client.get("/v2/health/live")).status_code == 200


async def test_bodies_share_a_bound():
    client = Double()
    client.hold = asyncio.Event()
    async with serving(limits=replace(LIMITS, held_bytes=2000, connections=10), client=client) as asker:
        first = asyncio.ensure_future(asker.post(INFER, content=json.dumps(BODY).ljust(1500)))
        await asyncio.wait_for(client.was_asked.wait(), 5)
        assert (await asker.post(INFER, content=b" " * 1500)).status_code == 503
        client.hold.set()
        assert (await first).status_code == 200
        assert (await asker.post(INFER, content=json.dumps(BODY).ljust(1500))).status_code == 200


async def test_the_description_names_every_route():
    routes = Rest(Offers([], *opener({})), LIMITS, FileDesk({})).routes()
    served = {
        (route.path, method.lower())
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = describe("0")["paths"]
    described = {(path, verb) for path, verbs in paths.items() for verb in verbs if verb != "parameters"}
    assert described == served


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DoorSettings("0.0.0.0:8000", None, Access()), "not encrypted"),
        (
            DoorSettings(None, "0.0.0.0:8001", Access(), tls=TlsFiles(Path("c"), Path("k"))),
            "anybody could ask",
        ),
    ],
)
def test_off_loopback_nothing_is_served_in_the_open(settings, message):
    with pytest.raises(Refused, match=message):
        check_places(settings)
    check_places(replace(settings, open_network=True))
    check_places(replace(settings, tls=TlsFiles(Path("c"), Path("k"), Path("a"))))
