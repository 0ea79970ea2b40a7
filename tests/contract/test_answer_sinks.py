"""What every sink promises (`collab.streams.sinks.base`); a new one joins in `SINKS`."""

from __future__ import annotations

import asyncio
import queue
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from collab.errors import PeerError, StoreError
from collab.streams.outbox import Outbox
from collab.streams.settings import LinesSettings, TopicSettings
from collab.streams.sinks.base import Sink
from collab.streams.sinks.lines import LinesSink
from collab.streams.sinks.memory import MemorySink
from collab.streams.sinks.topic import TopicSink
from tests.mosquitto import mosquitto
from tests.unit.streams.test_webhook import serving
from tests.unit.streams.test_webhook import sink as webhook_to

WITHIN_S = 20.0

Got = Callable[[int], list[bytes]]
"""Waits until that many answers are there."""


@contextmanager
def memory(folder: Path) -> Iterator[tuple[Sink, Got]]:
    sink = MemorySink()
    yield sink, lambda count: sink.answers


@contextmanager
def lines(folder: Path) -> Iterator[tuple[Sink, Got]]:
    path = folder / "answers.jsonl"
    yield LinesSink(LinesSettings(path=path)), lambda count: path.read_bytes().splitlines()


@contextmanager
def topic(folder: Path) -> Iterator[tuple[Sink, Got]]:
    with mosquitto() as broker, listening(broker.port, "answers") as heard:
        sink = TopicSink(TopicSettings(url=f"mqtt://127.0.0.1:{broker.port}/answers"))
        yield sink, lambda count: [heard.get(timeout=WITHIN_S) for _ in range(count)]


@contextmanager
def listening(port: int, topic: str) -> Iterator[queue.Queue[bytes]]:
    """Messages of a topic."""
    heard: queue.Queue[bytes] = queue.Queue()
    ready: queue.Queue[None] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _, __, message: heard.put(message.payload)

    def subscribe(*_: object) -> None:
        client.subscribe(topic, qos=1)

    client.on_connect = subscribe
    client.on_subscribe = lambda _, __, ___, ____, _____: ready.put(None)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        ready.get(timeout=WITHIN_S)
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()


@contextmanager
def webhook(folder: Path) -> Iterator[tuple[Sink, Got]]:
    with serving() as server:
        yield webhook_to(server), lambda count: [body for _, _, body in server.got]


SINKS = {"memory": memory, "lines": lines, "topic": topic, "webhook": webhook}


@pytest.fixture(params=SINKS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sink, Got]]:
    """A sink that is not open, and what has arrived."""
    with SINKS[request.param](tmp_path) as (sink, got):
        yield sink, got
        sink.close()


def test_answers_arrive_in_their_order_also_after_it_was_opened_again(place: tuple[Sink, Got]):
    sink, got = place
    sink.open()
    sink.write([b'{"n":0}'])
    sink.close()
    sink.close()
    sink.open()
    sink.write([b'{"n":1}'])
    sink.write([b'{"n":2}'])
    sink.close()
    assert got(3) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


async def test_an_outbox_delivers_all_that_waits_before_it_closes(place: tuple[Sink, Got]):
    sink, got = place
    box = Outbox("sink", sink, Random(0))
    await box.start()
    answers = [b'{"n":%d}' % number for number in range(40)]
    for answer in answers:
        await box.put(answer)
    await box.close(WITHIN_S)
    assert (box.delivered, box.lost, box.waiting) == (40, 0, 0)
    assert await asyncio.to_thread(got, 40) == answers


def test_a_file_is_its_owners_alone_and_turns_when_it_is_full(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    sink = LinesSink(LinesSettings(path=path, most_bytes=1 << 16))
    sink.open()
    for number in range(3):
        sink.write([b"x" * 40_000 + b"%d" % number])
    sink.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().endswith(b"2\n")
    assert (tmp_path / "answers.jsonl.1").read_bytes().endswith(b"1\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot be written"):
        LinesSink(LinesSettings(path=tmp_path / "none" / "x.jsonl")).open()


def test_a_broker_that_is_away_may_be_tried_again():
    with mosquitto() as broker:
        sink = TopicSink(TopicSettings(url=f"mqtt://127.0.0.1:{broker.port}/answers"))
        sink.open()
        sink.write([b"{}"])
        broker.stop()
        with pytest.raises(PeerError):
            sink.write([b"{}"])
        with pytest.raises(PeerError):
            sink.open()
        broker.start()
        sink.open()
        sink.write([b"{}"])
        sink.close()
