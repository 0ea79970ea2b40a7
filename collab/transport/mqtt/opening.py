"""Opens a socket to a broker, with TLS, without blocking the event loop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from collab.errors import CollabError, PeerUnreachable, Refused
from collab.transport.mqtt.address import BrokerAddress


async def open_socket(address: BrokerAddress, context: ssl.SSLContext | None) -> socket.socket:
    """Connect to a broker, with TLS if there is a context.

    Raises `PeerUnreachable`, or `Refused` if its certificate or ours is not accepted.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PeerUnreachable(f"{address}: the broker's name is not known: {error.strerror}") from error
    cause: OSError = OSError("no address")
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, place)
            return sock if context is None else await _start_tls(sock, address, context)
        except OSError as error:
            sock.close()
            if isinstance(error, ssl.SSLError):
                raise _tls_refusal(address, error) from error
            cause = error
        except BaseException:
            sock.close()
            raise
    raise PeerUnreachable(f"{address}: no broker answers: {cause.strerror or cause}") from cause


async def _start_tls(sock: socket.socket, address: BrokerAddress, context: ssl.SSLContext) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    tls = context.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
    try:
        while True:
            waiting: asyncio.Future[None] = loop.create_future()
            try:
                tls.do_handshake()
                if not context.check_hostname:
                    check_host(address, tls.getpeercert() or {})
                return tls
            except ssl.SSLWantReadError:
                watch, forget = loop.add_reader, loop.remove_reader
            except ssl.SSLWantWriteError:
                watch, forget = loop.add_writer, loop.remove_writer
            watch(tls, _wake, waiting)
            try:
                await waiting
            finally:
                forget(tls)
    except BaseException:
        tls.close()
        raise


def check_host(address: BrokerAddress, certificate: Mapping[str, Any]) -> None:
    """Refuse a verified certificate that is for another host (RFC 9525 6.3, 6.5; no wildcards).

    Contexts between nodes leave names to the link; a broker is an ordinary server.
    """
    host = address.host
    names = [(kind, str(value)) for kind, value in certificate.get("subjectAltName", ())]
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        found = any(kind == "DNS" and value.lower() == host.lower() for kind, value in names)
    else:
        found = any(kind == "IP Address" and ipaddress.ip_address(value) == wanted for kind, value in names)
    if not found:
        shown = ", ".join(value for _, value in names[:4]) or "nobody"
        raise Refused(f"{address}: the broker's certificate is for {shown}, not for {host}")


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _tls_refusal(address: BrokerAddress, error: ssl.SSLError) -> CollabError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"{address}: the broker's certificate is refused: {error.verify_message}")
    reason = (error.reason or str(error)).lower().replace("_", " ")
    return PeerUnreachable(f"{address}: TLS with the broker fails: {reason}")
