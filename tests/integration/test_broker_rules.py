"""The broker of `deployments/mosquitto`: a name has its own topics, a stranger none."""

from __future__ import annotations

import queue
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from collab.security.broker import mosquitto_acl, mosquitto_config
from collab.security.certificates import certificate_pem
from tests.identities import Identities
from tests.mosquitto import Mosquitto, free_port

FOLDER = Path(__file__).parents[2] / "deployments" / "mosquitto"
PLACE = "/etc/mosquitto/collab"
ANSWER_S = 10.0


class Broker(Mosquitto):
    """Started with the files that people copy; only their place, the port and the user differ."""

    def __init__(self, folder: Path, identities: Identities) -> None:
        super().__init__(folder)
        certificate, key = identities.authority.issue_server(["127.0.0.1"], 1)
        files = {
            "ca.crt": certificate_pem(identities.authority.certificate),
            "server.crt": certificate,
            "server.key": key,
            "acl": (FOLDER / "acl").read_bytes(),
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)
        self.refuse_revoked(identities)
        self.port = free_port()
        text = (FOLDER / "mosquitto.conf").read_text().replace(PLACE, str(folder))
        text = text.replace("listener 8883 0.0.0.0", f"listener {self.port} 127.0.0.1")
        (folder / "mosquitto.conf").write_text(f"user root\n{text}")

    def refuse_revoked(self, identities: Identities) -> None:
        """Copy the authority's list, as an operator does."""
        (self.folder / "crl.pem").write_bytes(identities.authority.crl())

    def reload(self) -> None:
        """Have it read its files again, as `systemctl reload mosquitto` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)


class Client:
    """One connection with an identity, and what came over it."""

    def __init__(self, broker: Broker, identity: Path | None) -> None:
        self._events: queue.Queue[tuple[str, str]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=str(broker.folder / "ca.crt"))
        if identity is not None:
            context.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
        self._client.tls_set_context(context)
        self._client.on_message = lambda _c, _u, message: self._put(message.topic, message.payload.decode())
        self._client.on_connect = lambda *_: self._put("", "connected")
        self._client.on_disconnect = lambda *_: self._put("", "refused")
        self._client.on_subscribe = lambda *_: self._put("", "subscribed")
        self._client.on_publish = lambda *_: self._put("", "published")
        self._port = broker.port

    def _put(self, topic: str, payload: str) -> None:
        self._events.put((topic, payload))

    def next(self) -> tuple[str, str]:
        return self._events.get(timeout=ANSWER_S)

    def __enter__(self) -> Client:
        try:
            self._client.connect("127.0.0.1", self._port)
        except (OSError, ssl.SSLError):  # the broker was quicker to refuse
            self._put("", "refused")
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, 1)
        assert self.next() == ("", "subscribed")

    def publish(self, topic: str, payload: str, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain)
        assert self.next() == ("", "published")


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, identities: Identities) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"), identities)
    made.start()
    yield made
    made.stop()


@contextmanager
def connected(broker: Broker, identities: Identities, name: str) -> Iterator[Client]:
    with Client(broker, identities.directory(name)) as client:
        assert client.next() == ("", "connected")
        yield client


def outcome(broker: Broker, identity: Path | None) -> str:
    with Client(broker, identity) as client:
        return client.next()[1]


def test_the_files_are_those_that_the_command_writes():
    where = {"authority": "ca.crt", "certificate": "server.crt", "key": "server.key", "acl_file": "acl"}
    written = mosquitto_config(**{name: f"{PLACE}/{file}" for name, file in where.items()})
    assert _rules("mosquitto.conf") == f"{written}crlfile {PLACE}/crl.pem\n".splitlines()
    assert _rules("acl") == mosquitto_acl().splitlines()


def _rules(file: str) -> list[str]:
    return [line for line in (FOLDER / file).read_text().splitlines() if not line.startswith("#")]


def test_a_name_reads_its_own_inbox_and_writes_under_its_own_name(broker, identities):
    with connected(broker, identities, "near") as near, connected(broker, identities, "far") as far:
        far.subscribe("collab/in/far/#")
        near.publish("collab/in/far/other/1", "forged")
        near.publish("collab/in/far/near/1", "honest")
        assert far.next() == ("collab/in/far/near/1", "honest")


def test_nobody_hears_what_is_meant_for_another(broker, identities):
    with connected(broker, identities, "near") as near, connected(broker, identities, "spy") as spy:
        spy.subscribe("#")
        spy.subscribe("collab/in/far/#")
        near.publish("collab/in/far/near/2", "secret")
        near.publish("collab/presence/near", "here")
        assert spy.next() == ("collab/presence/near", "here")


def test_presence_is_told_by_its_own_name_alone_and_nothing_else_is_passed_on(broker, identities):
    with connected(broker, identities, "near") as near, connected(broker, identities, "far") as far:
        far.subscribe("#")
        near.publish("collab/presence/far", "gone", retain=True)
        near.publish("elsewhere", "hello")
        near.publish("$SYS/broker/uptime", "0")
        near.publish("collab/presence/near", "still here")
        assert far.next() == ("collab/presence/near", "still here")


def test_strangers_get_no_connection(broker, tmp_path):
    assert outcome(broker, None) == "refused"
    assert outcome(broker, Identities(tmp_path).directory("near")) == "refused"


def test_who_was_revoked_gets_none_after_the_list_was_copied_and_the_broker_told(tmp_path):
    identities = Identities(tmp_path)
    directory = identities.directory("lost")
    broker = Broker(tmp_path, identities)
    broker.start()
    try:
        assert outcome(broker, directory) == "connected"
        identities.authority.revoke("lost")
        broker.refuse_revoked(identities)
        broker.reload()
        deadline = time.monotonic() + ANSWER_S
        while outcome(broker, directory) != "refused":
            assert time.monotonic() < deadline
        assert outcome(broker, identities.directory("near")) == "connected"
    finally:
        broker.stop()
