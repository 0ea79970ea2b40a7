"""`collab doctor` names the cause of staged failures, with real processes and sockets."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from collab.codec.pb import control_pb2, link_pb2
from collab.core.ids import NodeName
from collab.link.hello import Identity
from collab.link.link import Handler
from collab.link.links import Links
from collab.link.mux import Type, head
from collab.security.authority import Authority, enrol_here
from collab.security.identity import Credentials
from collab.transport.grpc import GrpcTransport
from tests.identities import Identities
from tests.integration.processes import COMMAND_S, Finished, NodeProcess, environment, running
from tests.integration.processes import collab as run_collab
from tests.mosquitto import free_port, mosquitto, mosquitto_tls
from tests.namespaces import Namespaces, run

pytestmark = pytest.mark.timeout(120)

QUIET = ("--discovery", "none")


def doctor(*options: object, code: int, identity: Path | None = None, look: bool = False) -> Finished:
    """Run the command; by default nobody is looked for."""
    before = ("--identity", identity) if identity is not None else ()
    around = () if look else QUIET
    return run_collab(*before, "doctor", *options, *around, "--json", code=code)


def only(finished: Finished, check: str) -> Any:
    """The one finding of a check, which must say what to do."""
    found = [f for f in finished.json["checks"] if f["check"] == check]
    assert len(found) == 1, finished.json
    assert found[0]["verdict"] == "ok" or found[0]["remedy"], found
    return found[0]


def the_cause(finished: Finished) -> Any:
    """The one finding that is not good."""
    found = [f for f in finished.json["checks"] if f["verdict"] != "ok"]
    assert len(found) == 1, finished.json
    assert found[0]["remedy"]
    return found[0]


@asynccontextmanager
async def serving(accept: Callable, security: object = None) -> AsyncIterator[str]:
    """Something that speaks gRPC, and its HOST:PORT."""
    listener = await GrpcTransport(None, security).listen("grpc://127.0.0.1:0", accept)
    try:
        yield listener.address.removeprefix("grpc://")
    finally:
        await listener.close()


class Describing(Handler):
    """What a fake node answers."""

    def __init__(self, **described: Any) -> None:
        self._reply = control_pb2.DescribeReply(**described)

    async def call(self, link: object, verb: str, body: object) -> bytes:
        return self._reply.SerializeToString()

    def link_up(self, link: object) -> None: ...
    def link_down(self, link: object, error: object) -> None: ...
    def tensors(self, link: object, message: object) -> None: ...


@asynccontextmanager
async def fake_node(name: str, **described: Any) -> AsyncIterator[str]:
    """A node that answers nothing but what it is; its HOST:PORT."""
    transports = {"grpc": GrpcTransport()}
    async with Links(Identity(NodeName(name), "node"), transports, Describing(**described)) as links:
        yield (await links.listen("grpc://127.0.0.1:0")).removeprefix("grpc://")


# --- nothing is wrong ----------------------------------------------------------------


def test_all_is_well_with_a_node_that_answers(tmp_path):
    with running([NodeProcess("a", tmp_path)]) as [node]:
        done = doctor("--peers", node.place, code=0)
    assert done.json["reached"] == ["a"]
    assert {f["verdict"] for f in done.json["checks"]} == {"ok"}
    assert only(done, "clock")["peer"] == "a"


# --- the way -------------------------------------------------------------------------


def test_a_closed_port_is_told():
    cause = the_cause(doctor("--peers", f"127.0.0.1:{free_port()}", code=3))
    assert cause["check"] == "port"
    assert "closed" in cause["seen"]


def test_a_port_that_swallows_what_is_sent_is_filtered(tmp_path):
    with Namespaces() as hosts:
        here, there = hosts.add("dh"), hosts.add("dt")
        hosts.join(here, "192.168.9.1/24", there, "192.168.9.2/24")
        rules = "table ip f { chain in { type filter hook input priority 0; tcp dport 7070 drop\n }\n }\n"
        run(*hosts.inside(there), "nft", "-f", "-", given=rules)
        insecure = ("--insecure", "--insecure-network")
        cause = the_cause(inside(hosts, here, "--peers", "192.168.9.2:7070", *insecure, *QUIET, code=3))
    assert cause["check"] == "port"
    assert "filtered" in cause["seen"]


def test_a_node_of_the_other_address_family_is_found_there(tmp_path):
    with running([NodeProcess("a", tmp_path)]) as [node]:
        port = node.place.rpartition(":")[2]
        cause = the_cause(doctor("--peers", f"[::1]:{port}", code=3))
    assert cause["check"] == "family"
    assert f"open at 127.0.0.1:{port}" in cause["seen"]


def test_a_socket_that_never_answers_is_told_from_a_closed_port():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cause = the_cause(doctor("--peers", f"127.0.0.1:{silent.getsockname()[1]}", code=3))
    assert cause["check"] == "answer"
    assert "nothing answers" in cause["seen"]


# --- what is spoken ------------------------------------------------------------------


async def test_a_peer_of_another_protocol_version_is_told_with_both_ranges():
    async def accept(connection):
        hello = link_pb2.Hello(version_min=7, version_max=9, name="a", role="node", software="collab/9")
        await connection.send([head(Type.HELLO), hello.SerializeToString()])
        await connection.receive()
        await asyncio.Event().wait()

    async with serving(accept) as place:
        done = await asyncio.to_thread(doctor, "--peers", place, code=3)
    cause = the_cause(done)
    assert cause["check"] == "version"
    assert "7 to 9" in cause["seen"]
    assert cause["remedy"] == "upgrade this device"


async def test_what_refuses_this_end_is_quoted():
    async def accept(connection):
        await connection.send([head(Type.BYE), b"not on a Tuesday"])
        await asyncio.Event().wait()

    async with serving(accept) as place:
        cause = the_cause(await asyncio.to_thread(doctor, "--peers", place, code=3))
    assert cause["check"] == "refused"
    assert "not on a Tuesday" in cause["seen"]


@pytest.mark.parametrize(("ahead_s", "verdict"), [(20, "warn"), (-300, "fail")])
async def test_a_skewed_clock_is_told_with_its_direction(ahead_s, verdict):
    now_ms = int((time.time() + ahead_s) * 1000)
    async with fake_node("a", wall_clock_ms=now_ms) as place:
        cause = the_cause(await asyncio.to_thread(doctor, "--peers", place, code=1))
    assert (cause["check"], cause["verdict"]) == ("clock", verdict)
    assert ("ahead" if ahead_s > 0 else "late") in cause["seen"]


def test_two_nodes_of_one_name_are_told_with_both_addresses(tmp_path):
    (tmp_path / "other").mkdir()
    with running([NodeProcess("a", tmp_path), NodeProcess("a", tmp_path / "other")]) as nodes:
        places = [node.place for node in nodes]
        cause = the_cause(doctor("--peers", ",".join(places), code=1))
    assert cause["check"] == "names"
    assert all(place in cause["seen"] for place in places)


def test_one_node_at_two_of_its_addresses_is_no_conflict(tmp_path):
    node = NodeProcess("a", tmp_path, "--listen", "127.0.0.1:0,[::1]:0")
    with running([node]):
        places = [endpoint.removeprefix("grpc://") for endpoint in node.events[0]["endpoints"]]
        done = doctor("--peers", ",".join(places), code=0)
    assert len(places) == 2
    assert done.json["reached"] == ["a"]


# --- certificates --------------------------------------------------------------------


def test_a_node_of_another_cluster_is_told(tmp_path):
    home, away = Identities(tmp_path, "home"), Identities(tmp_path, "away")
    node = NodeProcess("a", tmp_path, "--identity", str(away.directory("a")))
    with running([node]):
        done = doctor("--peers", node.place, code=3, identity=home.directory("op", "operator"))
    cause = the_cause(done)
    assert cause["check"] == "certificate"
    assert "not of this cluster" in cause["seen"]


def test_a_device_without_an_identity_is_told_to_enrol(tmp_path):
    home = Identities(tmp_path)
    node = NodeProcess("a", tmp_path, "--identity", str(home.directory("a")))
    with running([node]):
        cause = the_cause(doctor("--peers", node.place, code=3))
    assert cause["check"] == "certificate"
    assert "this device has none" in cause["seen"]


def test_a_node_without_certificates_is_told(tmp_path):
    operator = Identities(tmp_path).directory("op", "operator")
    with running([NodeProcess("a", tmp_path)]) as [node]:
        cause = the_cause(doctor("--peers", node.place, code=3, identity=operator))
    assert cause["check"] == "certificate"
    assert "speaks no TLS" in cause["seen"]


@pytest.mark.parametrize(
    ("days", "words"), [(-1000, "has expired"), (20, "not yet valid here")], ids=["expired", "early"]
)
async def test_a_certificate_out_of_its_time_is_told(tmp_path, days, words):
    def other_time() -> datetime:
        return datetime.now(timezone.utc) + timedelta(days=days)

    def enrol() -> Credentials:
        Authority.create(tmp_path / "authority", "home", clock=lambda: other_time() - timedelta(days=40))
        enrol_here(Authority.open(tmp_path / "authority", clock=other_time), tmp_path / "a", "a", "node")
        enrol_here(Authority.open(tmp_path / "authority"), tmp_path / "op", "op", "operator")
        return Credentials.load(tmp_path / "a", clock=other_time)

    security = await asyncio.to_thread(enrol)

    async def accept(connection):
        await asyncio.Event().wait()

    async with serving(accept, security) as place:
        done = await asyncio.to_thread(doctor, "--peers", place, code=3, identity=tmp_path / "op")
    cause = the_cause(done)
    assert cause["check"] == "certificate"
    assert words in cause["seen"]
    assert "a.node.home" in cause["seen"]


def test_a_revoked_certificate_is_told(tmp_path):
    home = Identities(tmp_path)
    node = NodeProcess("a", tmp_path, "--identity", str(home.directory("a")))
    with running([node]):
        home.authority.revoke("a")
        done = doctor("--peers", node.place, code=3, identity=home.directory("op", "operator"))
    cause = the_cause(done)
    assert cause["check"] == "certificate"
    assert "was revoked" in cause["seen"]


def test_an_own_identity_that_cannot_be_used_is_a_finding(tmp_path):
    (tmp_path / "broken").mkdir()
    with running([NodeProcess("a", tmp_path)]) as [node]:
        done = doctor("--peers", node.place, code=1, identity=tmp_path / "broken")
    assert the_cause(done)["check"] == "identity"
    assert done.json["reached"] == ["a"]


# --- brokers -------------------------------------------------------------------------


def test_a_broker_that_is_down_is_told():
    cause = the_cause(doctor("--broker", f"mqtt://127.0.0.1:{free_port()}", code=1))
    assert cause["check"] == "broker"
    assert "closed" in cause["seen"]


def test_a_broker_that_answers_is_well():
    with mosquitto() as broker:
        done = doctor("--broker", f"mqtt://127.0.0.1:{broker.port}", code=0)
    assert only(done, "broker")["verdict"] == "ok"


def test_a_broker_that_refuses_the_password_is_told_and_the_password_is_not(tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    with mosquitto(password_file=str(passwords)) as broker:
        done = doctor("--broker", f"mqtt://me:geheim@127.0.0.1:{broker.port}", code=1)
    cause = the_cause(done)
    assert "credentials" in cause["seen"]
    assert "geheim" not in done.out + done.err


def test_a_broker_with_tls_that_is_addressed_without_is_told():
    with mosquitto_tls() as (broker, _):
        cause = the_cause(doctor("--broker", f"mqtt://127.0.0.1:{broker.port}", code=1))
    assert "wants TLS" in cause["seen"]


def test_a_broker_without_tls_that_is_addressed_with_it_is_told():
    with mosquitto() as broker:
        cause = the_cause(doctor("--broker", f"mqtts://127.0.0.1:{broker.port}", code=1))
    assert "speaks no TLS" in cause["seen"]


def test_a_broker_of_another_authority_is_told(tmp_path):
    operator = Identities(tmp_path).directory("op", "operator")
    with mosquitto_tls() as (broker, _):
        done = doctor("--broker", f"mqtts://127.0.0.1:{broker.port}", code=1, identity=operator)
    assert "certificates" in the_cause(done)["seen"]


# --- multicast -----------------------------------------------------------------------


def inside(hosts: Namespaces, namespace: str, *options: object, code: int) -> Finished:
    """The command within a namespace."""
    command = [*hosts.inside(namespace), sys.executable, "-m", "collab", "doctor", "--json"]
    done = subprocess.run(
        [*command, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("hook", ["output", "input"])
def test_blocked_multicast_is_told(tmp_path, hook):
    with Namespaces() as hosts:
        here, there = hosts.add("mh"), hosts.add("mt")
        hosts.join(here, "192.168.9.1/24", there, "192.168.9.2/24")
        chain = f"type filter hook {hook} priority 0; ip daddr 224.0.0.0/4 drop"
        rules = f"table ip f {{ chain c {{ {chain}\n }}\n }}\n"
        run(*hosts.inside(here), "nft", "-f", "-", given=rules)
        with running([NodeProcess("a", tmp_path, wrapper=hosts.inside(here))]) as [node]:
            done = inside(hosts, here, "--peers", node.place, code=1)
    assert done.json["reached"] == ["a"]
    assert only(done, "multicast")["verdict"] == "fail"
    assert "multicast is blocked" in only(done, "multicast")["seen"] or hook == "output"


def test_a_node_that_answers_when_dialled_but_not_by_multicast_is_told(tmp_path):
    with Namespaces() as hosts:
        here = hosts.add("ml")
        with running([NodeProcess("a", tmp_path, wrapper=hosts.inside(here))]) as [node]:
            done = inside(hosts, here, "--peers", node.place, code=1)
    cause = the_cause(done)
    assert (cause["check"], cause["verdict"]) == ("multicast", "warn")
    assert "1 answer when dialled" in cause["seen"]


# --- the command ---------------------------------------------------------------------


def test_people_see_a_table_and_the_remedy():
    done = run_collab("doctor", "--peers", f"127.0.0.1:{free_port()}", *QUIET, code=3)
    assert done.out == ""
    assert "fail" in done.err
    assert "start the node" in done.err


def test_an_address_that_is_none_is_a_mistake_in_usage():
    assert "address" in run_collab("doctor", "--peers", "127.0.0.1:x", *QUIET, code=2).err
    assert "--broker" in run_collab("doctor", "--broker", "http://x", *QUIET, code=2).err
