"""CoAP clients without TLS ask a secured node under OSCORE (RFC 8613); nobody else gets anything."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiocoap
import numpy as np
import pytest
from aiocoap import oscore

from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy
from collab.core.identity import Principal
from collab.node.coap.answers import AMPLIFICATION
from collab.security.object_security import SEQUENCE, SETTINGS, write_pair
from tests.identities import Identities
from tests.integration.models import Reference
from tests.integration.processes import ROOT, NodeProcess, collab
from tests.integration.processes import environment as clean

pytestmark = pytest.mark.timeout(90)

WITHIN_S = 20.0
CLIENTS = ("meter", "other", "gone", "late")


class Scene(NamedTuple):
    """A secured node with a plan, which serves clients that have contexts."""

    node: NodeProcess
    identities: Identities
    contexts: Path

    @property
    def endpoints(self) -> dict[str, str]:
        """URIs by scheme, of the latest start."""
        ready = next(event for event in reversed(self.node.events) if "coap" in event)
        return {urlsplit(uri).scheme: uri for uri in ready["coap"]}

    @property
    def udp(self) -> tuple[str, int]:
        """Where datagrams go."""
        at = urlsplit(self.endpoints["coap"])
        return str(at.hostname), int(at.port or 0)

    def folder(self, name: str) -> Path:
        """A client's context."""
        return self.contexts / name / "a"


def options(scene_folder: Path, identities: Identities) -> tuple[str, ...]:
    """A node's, to serve clients with contexts."""
    identity = ("--identity", str(identities.directory("a")))
    return (*identity, "--coap", "127.0.0.1:0", "--coap-oscore", str(scene_folder / "contexts" / "a"))


@contextmanager
def scene_in(folder: Path, digits: Reference) -> Iterator[Scene]:
    identities = Identities(folder).enrol("a").enrol("op", role="operator").enrol("phone", role="client")
    for name in CLIENTS:
        write_pair(folder / "contexts", Principal(name, "client", "home"), Principal("a", "node", "home"))
    with NodeProcess("a", folder, *options(folder, identities)) as node:
        asyncio.run(_deploy(digits, node, identities))
        yield Scene(node, identities, folder / "contexts")


async def _deploy(digits: Reference, node: NodeProcess, identities: Identities) -> None:
    plan, blobs = digits.chain([], ["a"], {"a": node.endpoint})
    async with build_cluster(security=identities.of("op")) as cluster:
        await deploy(cluster, plan, blobs)


@pytest.fixture(scope="module")
def scene(digits: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_in(tmp_path_factory.mktemp("oscore"), digits) as made:
        yield made


@contextmanager
def held(folder: Path) -> Iterator[Any]:
    """A client's context, as aiocoap keeps it."""
    context = oscore.FilesystemSecurityContext(str(folder))
    try:
        yield context
    finally:
        context._destroy()


class Client:
    """A foreign client: aiocoap and a context."""

    def __init__(self, library: aiocoap.Context, at: str) -> None:
        self._library = library
        self._at = at

    def begin(self, code: aiocoap.Code, path: str, **fields: Any) -> Any:
        """A request under way."""
        return self._library.request(aiocoap.Message(code=code, uri=self._at + path, **fields))

    async def ask(self, code: aiocoap.Code, path: str, **fields: Any) -> aiocoap.Message:
        """The answer to a request."""
        return await asyncio.wait_for(self.begin(code, path, **fields).response, WITHIN_S)


@asynccontextmanager
async def asking(at: str, folder: Path | None) -> AsyncIterator[Client]:
    """A client of the node at a URI; without a context it protects nothing."""
    library = await aiocoap.Context.create_client_context()
    try:
        if folder is None:
            yield Client(library, at)
            return
        with held(folder) as context:
            library.client_credentials[f"{at}/*"] = context
            yield Client(library, at)
    finally:
        await library.shutdown()


def sample(digits: Reference) -> tuple[bytes, bytes]:
    """An image, and the whole model's answer."""
    (given,), (expected,) = digits.requests[0].values(), digits.expected[0].values()
    return np.ascontiguousarray(given).tobytes(), expected.tobytes()


def datagram(context: Any, path: tuple[str, ...], mid: int = 1) -> bytes:
    """A protected GET, ready to be sent."""
    message = aiocoap.Message(code=aiocoap.GET)
    message.opt.uri_path = path
    return encoded(context.protect(message)[0], mid)


def encoded(message: aiocoap.Message, mid: int = 1) -> bytes:
    message.mtype, message.mid, message.token = aiocoap.CON, mid, b"tk"
    return bytes(message.encode())


def exchange(scene: Scene, data: bytes) -> aiocoap.Message:
    """Send a datagram from a port of its own; the answer, read."""
    return aiocoap.Message.decode(answered(scene, data))


def answered(scene: Scene, data: bytes) -> bytes:
    """Send a datagram from a port of its own; the answer, in which nothing can be read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WITHIN_S)
        sock.sendto(data, scene.udp)
        answer = sock.recv(4096)
    assert b"serving" not in answer
    return answer


# --- who has a context --------------------------------------------------------------


@pytest.mark.parametrize("over", ["coap", "coap+tcp"])
async def test_a_client_with_a_context_reads_a_node_and_runs_a_model(scene, digits, over):
    image, expected = sample(digits)
    async with asking(scene.endpoints[over], scene.folder("meter")) as meter:
        node = await meter.ask(aiocoap.GET, "/node")
        assert json.loads(node.payload)["name"] == "a"
        listed = await meter.ask(aiocoap.GET, "/.well-known/core")
        assert b"</plans/digits/run>" in listed.payload
        answer = await meter.ask(aiocoap.POST, "/plans/digits/run", payload=image, content_format=42)
        assert (answer.code, answer.payload) == (aiocoap.CHANGED, expected)


async def test_a_long_answer_comes_in_blocks_of_the_size_asked_for(scene):
    async with asking(scene.endpoints["coap"], scene.folder("meter")) as meter:
        whole = await meter.ask(aiocoap.GET, "/.well-known/core")
        assert whole.opt.block2 is None or not whole.opt.block2.block_number
        parts = await meter.ask(aiocoap.GET, "/.well-known/core", block2=(0, False, 2))
        assert parts.opt.block2.block_number > 1
        assert parts.payload == whole.payload


async def test_a_job_is_observed_until_its_answer_is_there_and_is_its_clients_alone(scene, digits):
    image, expected = sample(digits)
    at = scene.endpoints["coap"]
    async with asking(at, scene.folder("meter")) as meter, asking(at, scene.folder("other")) as other:
        made = await meter.ask(aiocoap.POST, "/plans/digits/jobs", payload=image, content_format=42)
        assert made.code == aiocoap.CREATED, made.payload
        path = "/" + "/".join(made.opt.location_path)
        for code in (aiocoap.GET, aiocoap.DELETE):
            assert (await other.ask(code, path)).code == aiocoap.FORBIDDEN
        request = meter.begin(aiocoap.GET, path, observe=0)

        async def answer() -> bytes:
            first = await request.response
            if first.payload == expected:
                return bytes(first.payload)
            async for notification in request.observation:
                if notification.payload == expected:
                    return bytes(notification.payload)
            raise AssertionError(first)

        assert await asyncio.wait_for(answer(), WITHIN_S) == expected


async def test_news_of_the_status_are_protected_notifications(scene, digits):
    image, _ = sample(digits)
    async with asking(scene.endpoints["coap"], scene.folder("other")) as other:
        watch = other.begin(aiocoap.GET, "/status", observe=0)
        first = await asyncio.wait_for(watch.response, WITHIN_S)
        await other.ask(aiocoap.POST, "/plans/digits/run", payload=image, content_format=42)

        async def news() -> bytes:
            async for notification in watch.observation:
                return bytes(notification.payload)
            raise AssertionError

        assert json.loads(await asyncio.wait_for(news(), WITHIN_S)) != json.loads(first.payload)


def test_the_librarys_own_command_asks_with_a_credentials_file(scene, tmp_path):
    at = scene.endpoints["coap"]
    known = {f"{at}/*": {"oscore": {"basedir": str(scene.folder("late"))}}}
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(known))
    command = [sys.executable, "-m", "aiocoap.cli.client", "--credentials", str(credentials), f"{at}/node"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert '"serving"' in done.stdout, done.stderr


# --- who has none -------------------------------------------------------------------


@pytest.mark.parametrize("over", ["coap", "coap+tcp"])
async def test_an_unprotected_request_sees_nothing(scene, digits, over):
    image, _ = sample(digits)
    async with asking(scene.endpoints[over], None) as stranger:
        for path in ("/node", "/.well-known/core", "/.well-known/edhoc", "/plans", "/nothing"):
            answer = await stranger.ask(aiocoap.GET, path)
            assert answer.code == aiocoap.UNAUTHORIZED
            assert answer.payload in (b"", b"OSCORE is needed")
        posted = await stranger.ask(aiocoap.POST, "/plans/digits/run", payload=image, content_format=42)
        assert posted.code == aiocoap.UNAUTHORIZED


def test_libcoaps_unprotected_get_is_told_that_it_is_unauthorized(scene):
    program = shutil.which("coap-client-notls")
    assert program is not None, "install libcoap's client (Debian, Ubuntu: apt-get install libcoap3-bin)"
    command = [program, "-B", "8", "-m", "get", f"{scene.endpoints['coap']}/node"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "4.01" in done.stdout + done.stderr
    assert "serving" not in done.stdout


@pytest.mark.parametrize("path", [(), ("node",), (".well-known", "core")])
def test_a_stranger_cannot_have_a_node_send_much_to_another(scene, path):
    message = aiocoap.Message(code=aiocoap.GET)
    message.opt.uri_path = path
    data = encoded(message)
    answer = answered(scene, data)
    assert aiocoap.Message.decode(answer).code == aiocoap.UNAUTHORIZED
    assert len(answer) <= AMPLIFICATION * len(data)


def test_another_nodes_context_and_a_wrong_key_are_refused(scene, tmp_path):
    meter, node = Principal("meter", "client", "home"), Principal("a", "node", "home")
    unknown, forger = (write_pair(tmp_path / other, meter, node)[0] for other in ("unknown", "forger"))
    shutil.copy(scene.folder("meter") / SETTINGS, forger / SETTINGS)
    (forger / SEQUENCE).write_text('{"next-to-send": 5000, "received": "unknown"}')
    for folder, code in ((unknown, aiocoap.UNAUTHORIZED), (forger, aiocoap.BAD_REQUEST)):
        with held(folder) as context:
            answer = exchange(scene, datagram(context, ("node",)))
        assert answer.code == code
        assert answer.opt.oscore is None


def test_a_datagram_counts_once_from_wherever_it_is_sent_again(scene):
    with held(scene.folder("meter")) as context:
        data = datagram(context, ("node",))
    assert exchange(scene, data).opt.oscore is not None
    for _ in range(2):
        answer = exchange(scene, data)
        assert (answer.code, answer.opt.oscore) == (aiocoap.UNAUTHORIZED, None)


async def test_a_client_whose_context_was_removed_is_refused_at_once(scene, digits):
    at = scene.endpoints["coap"]
    async with asking(at, scene.folder("gone")) as gone, asking(at, scene.folder("other")) as other:
        watch = gone.begin(aiocoap.GET, "/status", observe=0)
        assert (await asyncio.wait_for(watch.response, WITHIN_S)).code == aiocoap.CONTENT
        await asyncio.to_thread(shutil.rmtree, scene.contexts / "a" / "gone")
        image, _ = sample(digits)
        await other.ask(aiocoap.POST, "/plans/digits/run", payload=image, content_format=42)

        async def last() -> Any:
            codes = [notification.code async for notification in watch.observation]
            return codes[-1]

        assert await asyncio.wait_for(last(), WITHIN_S) == aiocoap.UNAUTHORIZED

    def refused() -> aiocoap.Message:
        with held(scene.folder("gone")) as context:
            return exchange(scene, datagram(context, ("node",)))

    answer = await asyncio.to_thread(refused)
    assert (answer.code, answer.opt.oscore) == (aiocoap.UNAUTHORIZED, None)


async def test_who_shows_a_certificate_is_served_over_tls_beside(scene):
    program = shutil.which("coap-client-openssl")
    assert program is not None, "install libcoap's client (Debian, Ubuntu: apt-get install libcoap3-bin)"
    phone = scene.identities.directory("phone", "client")
    files = ("-c", phone / "certificate.pem", "-j", phone / "key.pem", "-C", phone / "authority.pem")
    command = [program, "-B", "8", *map(str, files), "-m", "get", f"{scene.endpoints['coaps+tcp']}/node"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert json.loads(out)["name"] == "a"


# --- starting and ending -------------------------------------------------------------


def test_replays_are_refused_after_a_clean_and_after_an_unclean_end(digits, tmp_path):
    with scene_in(tmp_path, digits) as scene:
        with held(scene.folder("meter")) as context:
            old = datagram(context, ("node",))
        assert exchange(scene, old).opt.oscore is not None

        assert scene.node.stop() == 0
        kept = json.loads((scene.contexts / "a" / "meter" / SEQUENCE).read_text())
        assert kept["received"] != "unknown"
        scene.node.start()
        assert exchange(scene, old).code == aiocoap.UNAUTHORIZED

        scene.node.kill()
        scene.node.start()
        with held(scene.folder("meter")) as context:
            request, request_id = context.protect(aiocoap.Message(code=aiocoap.GET))
            # What was seen is not known: the answer asks, protected, whether the client is there.
            answer = answered(scene, old)
            assert aiocoap.Message.decode(answer).opt.oscore is not None
            assert len(answer) <= AMPLIFICATION * len(old)
            asked, _ = context.unprotect(exchange(scene, encoded(request)), request_id)
        assert (asked.code, asked.payload) == (aiocoap.UNAUTHORIZED, b"")
        assert asked.opt.echo is not None
        assert asyncio.run(_node(scene))["name"] == "a"
        assert exchange(scene, old).code == aiocoap.UNAUTHORIZED


async def _node(scene: Scene) -> Any:
    async with asking(scene.endpoints["coap"], scene.folder("meter")) as meter:
        return json.loads((await meter.ask(aiocoap.GET, "/node")).payload)


def test_the_operators_command_makes_what_both_ends_take(tmp_path):
    identities = Identities(tmp_path).enrol("a")
    authority = ("--authority", identities.folder / "authority")
    out = tmp_path / "contexts"
    assert collab("cluster", "oscore", "meter", "b", "--out", out, *authority, code=1).errors
    assert not out.exists()
    made = collab("cluster", "oscore", "meter", "a", "--out", out, *authority, "--json").json
    assert (made["client"], made["node"]) == ("meter.client.home", "a.node.home")
    assert collab("cluster", "oscore", "meter", "a", "--out", out, *authority, code=4).errors
    with NodeProcess("a", tmp_path, *options(tmp_path, identities)) as node:
        scene = Scene(node, identities, out)
        assert asyncio.run(_node(scene))["name"] == "a"


def test_a_node_does_not_start_with_contexts_that_it_cannot_trust(tmp_path):
    identities = Identities(tmp_path).enrol("a")
    node = Principal("a", "node", "home")
    _, context = write_pair(tmp_path / "contexts", Principal("meter", "client", "home"), node)
    start = ("node", "--listen", "127.0.0.1:0", "--discovery", "none", "--store", tmp_path / "store")
    serving = (*start, *options(tmp_path, identities))
    settings = context / SETTINGS
    good = settings.read_text()

    settings.write_text(good.replace("meter.client.home", "meter.operator.home"))
    (said,) = collab(*serving, code=4).errors
    assert "only name a client" in said

    settings.write_text(good)
    (context / "secret.json").chmod(0o644)
    (said,) = collab(*serving, code=4).errors
    assert "chmod 600" in said

    insecure = ("--coap", "127.0.0.1:0", "--coap-oscore", context.parent, "--insecure", "--name", "a")
    (said,) = collab(*start, *insecure, code=2).errors
    assert "--identity" in said
    (said,) = collab(*start, *options(tmp_path, identities)[:2], *insecure[2:4], code=2).errors
    assert "--coap HOST:PORT" in said


def test_a_node_without_the_extra_says_what_to_install(tmp_path):
    identities = Identities(tmp_path).enrol("a")
    (tmp_path / "contexts" / "a").mkdir(parents=True)
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "cbor2.py").write_text("raise ModuleNotFoundError('No module named cbor2', name='cbor2')\n")
    start = ("node", "--listen", "127.0.0.1:0", "--discovery", "none", "--store", tmp_path / "store")
    env = {"PYTHONPATH": f"{missing}:{clean()['PYTHONPATH']}"}
    (said,) = collab(*start, *options(tmp_path, identities), env=env, code=2).errors
    assert "cbor2 is missing: pip install 'collab[oscore]'" in said


def test_a_node_without_contexts_does_not_load_what_they_need():
    code = "import sys, collab.node.coap.service, collab.assembly; print('cbor2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean(),
        cwd=ROOT,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "False"
