"""Probe of a broker: one CONNECT of MQTT 5, by hand, so that every refusal can be told apart."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, urlsplit

from collab.coordinator.doctor import BrokerSeen, Login, Port
from collab.coordinator.doctor_net import try_port
from collab.errors import UsageError
from collab.transport.base import Security, is_loopback

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_CLEAN, _PASSWORD, _USER = 0x02, 0x40, 0x80
"""Flags of CONNECT (MQTT 5 3.1.2.3)."""
_CONNACK: Final = 0x20
_MAX_REPLY: Final = 1024
_REASONS: Final = {
    0x00: (Login.ACCEPTED, ""),
    0x01: (Login.NO_MQTT5, "it speaks MQTT 3"),
    0x84: (Login.NO_MQTT5, "unsupported protocol version"),
    0x85: (Login.REFUSED, "client identifier not valid"),
    0x86: (Login.REFUSED, "bad user name or password"),
    0x87: (Login.REFUSED, "not authorised"),
    0x8A: (Login.REFUSED, "banned"),
    0x8C: (Login.REFUSED, "bad authentication method"),
}
"""Reason codes of CONNACK (MQTT 5 3.2.2.2), and what MQTT 3.1.1 says to a newer client."""


async def try_broker(address: str, security: Security | None, timeout_s: float) -> BrokerSeen:
    """Log in at ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT]`` and leave again.

    Raises `UsageError` for what is no such address.  Never repeats a password.
    """
    host, port, tls, login = _parse(address)
    shown = f"{'mqtts' if tls else 'mqtt'}://{f'[{host}]' if ':' in host else host}:{port}"
    local = is_loopback(host)

    def seen(login: Login, detail: str = "", port: Port = Port.OPEN) -> BrokerSeen:
        return BrokerSeen(shown, login, tls, local, detail, port)

    tried = await try_port(host, port, timeout_s)
    if tried.port is not Port.OPEN:
        return seen(Login.UNREACHABLE, tried.detail, tried.port)
    context = _context(security) if tls else None
    try:
        reply = await asyncio.wait_for(_ask(host, port, context, _connect(login)), timeout_s)
    except (asyncio.TimeoutError, TimeoutError):
        return seen(Login.NO_BROKER, f"connected, but no answer within {timeout_s:g} s")
    except ssl.SSLCertVerificationError as error:
        return seen(Login.CERTIFICATE, error.verify_message)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return seen(Login.CERTIFICATE if "alert" in reason else Login.NO_TLS, reason)
    except OSError:
        # The port is open: whoever hangs up in the middle of a handshake has not understood it.
        return seen(Login.NO_TLS if tls else Login.WANTS_TLS, "it hangs up")
    return seen(*_answer(reply, tls))


def _answer(reply: bytes, tls: bool) -> tuple[Login, str]:
    """What the first bytes of the broker mean."""
    if len(reply) >= 4 and reply[0] == _CONNACK:
        return _REASONS.get(reply[3], (Login.REFUSED, f"reason code {reply[3]:#04x}"))
    if reply[:2] == b"\x15\x03":  # an alert of TLS (RFC 8446 6)
        return Login.WANTS_TLS, ""
    if not reply:
        # A listener with TLS hangs up on what is none; one with TLS on whose certificate it refuses.
        return (Login.CERTIFICATE, "it hangs up") if tls else (Login.WANTS_TLS, "it hangs up")
    return Login.NO_BROKER, "its answer is no CONNACK"


async def _ask(host: str, port: int, context: ssl.SSLContext | None, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=host if context is not None else None
    )
    try:
        writer.write(packet)
        await writer.drain()
        reply = await reader.read(_MAX_REPLY)
        with suppress(OSError):
            writer.write(b"\xe0\x00")  # DISCONNECT (MQTT 5 3.14)
        return reply
    finally:
        writer.transport.abort()


def _connect(login: tuple[str, str] | None) -> bytes:
    """A CONNECT packet (MQTT 5 3.1)."""
    fields = [f"collab-doctor-{secrets.token_hex(4)}", *(login or ())]
    flags = _CLEAN | (_USER | _PASSWORD if login else 0)
    body = b"\x00\x04MQTT\x05" + bytes((flags, 0, 10, 0))
    for field in fields:
        text = field.encode()[:0xFFFF]
        body += len(text).to_bytes(2, "big") + text
    size, length = len(body), b""
    while True:
        size, low = divmod(size, 128)
        length += bytes((low | (0x80 if size else 0),))
        if not size:
            return b"\x10" + length + body


def _context(security: Security | None) -> ssl.SSLContext:
    if security is not None:
        return security.context(server_side=False, hostname=True)
    return ssl.create_default_context()


def _parse(address: str) -> tuple[str, int, bool, tuple[str, str] | None]:
    try:
        parts = urlsplit(address if "://" in address else f"mqtt://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in _PORTS or not host:
        raise UsageError("--broker: write it as mqtt://[USER:PASSWORD@]HOST[:PORT], or mqtts:// for TLS")
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    return host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", login
