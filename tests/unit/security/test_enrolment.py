"""Tokens count once; secrets are told to the right authority alone."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import CollabError, InputError, Refused
from collab.security import enrol_client
from collab.security.authority import Authority
from collab.security.certificates import new_key, signing_request
from collab.security.enrol_server import EnrolLimits, EnrolServer
from collab.security.enrolment import decode_answer, decode_request
from collab.security.identity import Credentials
from collab.security.invites import Attempts, Invites, Token, parse_token
from collab.security.renewal import renewal_due
from collab.transport.base import split_host_port

HOUR = timedelta(hours=1)
NOW = datetime.now(timezone.utc)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A cluster's authority."""
    return Authority.create(tmp_path / "authority", "lab")


async def invite(authority: Authority, server: EnrolServer, name: str = "a") -> Token:
    """An invitation to a server on loopback."""
    address = f"127.0.0.1:{server.port}"
    return await asyncio.to_thread(Invites(authority).create, name, "node", address, HOUR)


async def join(token: Token, folder: Path) -> None:
    """Enrol."""
    await enrol_client.join(token, folder, split_host_port)


async def test_a_device_enrols_once_and_renews(authority, tmp_path, caplog):
    async with EnrolServer(authority, "127.0.0.1", 0) as server:
        token = await invite(authority, server)
        await join(parse_token(token.encode()), tmp_path / "a")
        with caplog.at_level(logging.WARNING), pytest.raises(Refused, match="used before"):
            await join(token, tmp_path / "thief")
        assert "used before" in caplog.text
        assert not (tmp_path / "thief").exists()
        own = await asyncio.to_thread(Credentials.load, tmp_path / "a")
        before = own.leaf.serial
        await enrol_client.renew(own, "127.0.0.1", server.port)
        assert own.leaf.serial != before
        await asyncio.to_thread(authority.revoke, "a")
        with pytest.raises(Refused, match="revoked"):
            await enrol_client.renew(own, "127.0.0.1", server.port)


async def test_of_two_uses_at_once_one_wins(authority, tmp_path):
    async with EnrolServer(authority, "127.0.0.1", 0) as server:
        token = await invite(authority, server)
        results = await asyncio.gather(
            *(join(token, tmp_path / str(i)) for i in range(4)), return_exceptions=True
        )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", *["Refused"] * 3]


async def test_a_man_in_the_middle_learns_no_secret(authority, tmp_path, monkeypatch):
    other = await asyncio.to_thread(Authority.create, tmp_path / "other", "lab")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EnrolServer(authority, "127.0.0.1", 0))
        man = await stack.enter_async_context(EnrolServer(other, "127.0.0.1", 0))
        heard: list[object] = []
        answer = man._answer

        async def listen(line, writer, host):
            heard.append(decode_request(line))
            return await answer(line, writer, host)

        monkeypatch.setattr(man, "_answer", listen)
        token = msgspec.structs.replace(await invite(authority, server), address=f"127.0.0.1:{man.port}")
        with pytest.raises(Refused, match="not the authority"):
            await join(token, tmp_path / "a")
        assert [type(request).__name__ for request in heard] == ["Ask"]


async def test_silent_connections_do_not_keep_others_out(authority, tmp_path):
    limits = EnrolLimits(connections=32)
    async with EnrolServer(authority, "127.0.0.1", 0, limits=limits) as server, AsyncExitStack() as stack:
        for _ in range(200):
            silent = stack.enter_context(socket.socket())
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, ("127.0.0.1", server.port))
        await join(await invite(authority, server), tmp_path / "a")


def test_a_token_counts_until_it_expires(authority):
    clock = [NOW]
    invites = Invites(authority, clock=lambda: clock[0])
    token = invites.create("a", "node", "h:1", HOUR)
    clock[0] = NOW + 2 * HOUR
    with pytest.raises(Refused, match="expired"):
        invites.redeem(token.secret, signing_request(new_key()))
    with pytest.raises(Refused, match="expired"):
        parse_token(token.encode(), clock[0])


def test_a_wrong_withdrawn_or_overridden_secret_is_refused(authority):
    invites = Invites(authority)
    first = invites.create("a", "node", "h:1", HOUR)
    second = invites.create("A", "node", "h:1", HOUR)
    for secret in (bytes(32), first.secret):
        with pytest.raises(Refused):
            invites.redeem(secret, signing_request(new_key()))
    with pytest.raises(Refused, match="signing request"):
        invites.redeem(second.secret, b"nonsense")
    invites.redeem(second.secret, signing_request(new_key()))  # a bad request uses nothing up
    assert second.secret.hex() not in (authority.directory / "records.json").read_text()


@given(st.text(max_size=200))
def test_no_text_crashes_the_parsers(text):
    for parse in (parse_token, lambda t: parse_token("collab1-" + t)):
        with pytest.raises(InputError):
            parse(text)
    for read in (decode_request, decode_answer):
        try:
            read(text.encode("utf-8", "surrogatepass"))
        except CollabError:
            continue


def test_wrong_secrets_make_a_host_wait():
    attempts = Attempts(most=2, window_s=10)
    attempts.wrong("h", 0)
    attempts.wrong("h", 1)
    attempts.check("other", 2)
    with pytest.raises(Refused, match="wait"):
        attempts.check("h", 2)
    attempts.check("h", 11.5)


@given(st.integers(), st.integers(0, 90))
def test_renewal_is_due_at_about_two_thirds_of_the_lifetime(seed, day):
    due = renewal_due(NOW, NOW + timedelta(days=90), NOW + timedelta(days=day), random.Random(seed))
    at = due / 86400 + day
    assert 54 <= at <= 63 or (due == 0 and day >= 54)
