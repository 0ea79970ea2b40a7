"""The page for scrapes, and what it refuses."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from collab.errors import UsageError
from collab.telemetry import scrape
from collab.telemetry.catalogue import UPTIME
from collab.telemetry.scrape import MAX_CONNECTIONS, MAX_HEAD_BYTES, MetricsServer


def server() -> MetricsServer:
    return MetricsServer(lambda: [UPTIME.at(value=7)], "127.0.0.1", 0)


async def exchange(served: MetricsServer, data: bytes, *, end: bool = False) -> bytes:
    """What comes back until the server closes."""
    url = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


async def test_a_scrape_gets_the_values_and_the_process_own():
    async with server() as served:
        reply = await exchange(served, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert status(reply) == 200
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"\ncollab_uptime_seconds 7.0\n" in body
        assert b"\nprocess_cpu_seconds_total " in body
        only_head = await exchange(served, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert only_head.endswith(b"\r\n\r\n")


async def test_the_format_is_what_the_scraper_accepts():
    async with server() as served:
        ask = b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
        assert (await exchange(served, ask)).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", 405),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics SPDY/3\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 2 * MAX_HEAD_BYTES, 431),
    ],
)
async def test_what_is_no_scrape_is_refused(data, expected):
    async with server() as served:
        assert status(await exchange(served, data)) == expected


async def test_half_a_request_gets_nothing():
    async with server() as served:
        assert await exchange(served, b"GET /metr", end=True) == b""


async def test_a_slow_client_is_cut_off(monkeypatch):
    monkeypatch.setattr(scrape, "SCRAPE_S", 0.05)
    async with server() as served:
        assert await exchange(served, b"GET /metr") == b""


async def test_too_many_at_a_time_are_told_to_come_again():
    async with server() as served:
        url = urlsplit(served.url)
        held = [await asyncio.open_connection(url.hostname, url.port) for _ in range(MAX_CONNECTIONS)]
        assert status(await exchange(served, b"")) == 503
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


async def test_a_port_that_is_taken_is_said_in_one_line():
    async with server() as served:
        port = urlsplit(served.url).port
        with pytest.raises(UsageError, match=rf"--metrics 127.0.0.1:{port}: cannot listen there"):
            async with MetricsServer(list, "127.0.0.1", port):
                pass
