"""Answers to a real HTTP server that fails, stalls, redirects or drips."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest

from collab.errors import InputError, PeerError, Refused
from collab.streams.outbox import Outbox
from collab.streams.settings import WebhookSettings
from collab.streams.sinks.webhook import WebhookSink

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Replies as its server's list says, then 204."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        reply = self.server.replies.pop(0) if self.server.replies else status(204)
        reply(self)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    replies: list[Reply]
    got: list[tuple[str, dict[str, str], bytes]]
    over: threading.Event


def status(code: int, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


def stall(handler: Handler) -> None:
    handler.server.over.wait(20)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte of a header every 20 ms, without an end."""
    handler.close_connection = True
    try:
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"H")
            handler.wfile.flush()
    except OSError:
        pass


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


@contextmanager
def serving(*replies: Reply) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.replies, server.got, server.over = list(replies), [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def sink(server: Server, path: str = "/hook?key=1", **settings: Any) -> WebhookSink:
    url = f"http://127.0.0.1:{server.server_port}{path}"
    return WebhookSink(WebhookSettings(url=url, **settings))


def test_answers_are_posted_one_by_one_over_one_connection():
    with serving() as server:
        hook = sink(server, headers={"Authorization": "Bearer s3cret"})
        hook.write([b'{"a":1}', b'{"a":2}'])
        hook.close()
    assert [body for _, _, body in server.got] == [b'{"a":1}', b'{"a":2}']
    path, headers, _ = server.got[0]
    assert path == "/hook?key=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("reply", [status(500), status(503), status(429), status(408), hang_up])
def test_what_may_pass_may_be_tried_again(reply: Reply):
    with serving(reply) as server:
        hook = sink(server)
        with pytest.raises(PeerError):
            hook.write([b"{}"])
        hook.write([b"{}"])
        hook.close()
    assert len(server.got) == 2


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/", "file:///etc/passwd", "/elsewhere"])
def test_redirects_are_not_followed(location: str):
    with serving(status(302, Location=location)) as server:
        hook = sink(server)
        with pytest.raises(Refused, match="answers 302; redirects are not followed"):
            hook.write([b"{}"])
        hook.close()
    assert len(server.got) == 1


def test_other_refusals_are_not_tried_again():
    with serving(status(403)) as server:
        hook = sink(server)
        with pytest.raises(Refused, match="answers 403"):
            hook.write([b"{}"])
        hook.close()


@pytest.mark.parametrize("reply", [stall, drip])
def test_a_server_that_does_not_come_to_an_end_is_cut_off(reply: Reply):
    with serving(reply) as server:
        hook = sink(server, timeout_s=0.3)
        begun = time.monotonic()
        with pytest.raises(PeerError, match="no answer"):
            hook.write([b"{}"])
        assert time.monotonic() - begun < 15
        hook.close()


def test_stopping_cuts_a_post_that_waits():
    with serving(stall) as server:
        hook = sink(server, timeout_s=30)
        timer = threading.Timer(0.2, hook.stop)
        timer.start()
        with pytest.raises(PeerError):
            hook.write([b"{}"])
        timer.join()
        hook.close()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http://",
        "http://host:0/",
        "http://host:99999/",
        "http://user:pass@host/",
        "http://host/a b",
        "http://host/\r\nX-Other: 1",
        "http://host/\x00",
        "http://höst/",
        "https://host/#part",
    ],
)
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(InputError, match="https://HOST") as caught:
        WebhookSink(WebhookSettings(url=url))
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1\r\nX-B: 2"},
        {"X-A": "1\nX-B: 2"},
        {"X-A\r\nX-B": "1"},
        {"X A": "1"},
        {"": "1"},
        {"X-A": ""},
        {"X-A": "\x00"},
        {"X-A": "ü"},
        {"Host": "other"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_headers_cannot_carry_others(headers: dict[str, str]):
    with pytest.raises(InputError, match="headers"):
        WebhookSink(WebhookSettings(url="http://host/", headers=headers))


async def test_the_outbox_tries_again_and_counts():
    with serving(status(500), status(500), status(200), status(400)) as server:
        box = Outbox("hook", sink(server, tries=3), Random(1))
        await box.start()
        for answer in (b"1", b"2", b"3"):
            await box.put(answer)
        await box.close(10.0)
    assert [body for _, _, body in server.got] == [b"1", b"1", b"1", b"2", b"3"]
    assert (box.delivered, box.lost, box.waiting) == (2, 1, 0)


async def test_a_full_outbox_loses_the_oldest_and_never_waits():
    with serving(stall) as server:
        box = Outbox("hook", sink(server, waiting=2, timeout_s=30), Random(1))
        await box.start()
        for number in range(6):
            await box.put(json.dumps(number).encode())
        assert box.waiting <= 3
        await box.close(0.1)
    assert box.delivered == 0
    assert box.lost == 6
