"""A device's side of enrolment and renewal.  The key is made here and stays here."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.identity import Principal
from collab.errors import ConfigError, PeerUnreachable, ProtocolError, Refused
from collab.security import files
from collab.security.authority import enrolment_host
from collab.security.certificates import (
    check_period,
    fingerprint,
    key_pem,
    new_key,
    read_authority,
    signing_request,
)
from collab.security.enrolment import (
    MAX_REPLY_BYTES,
    Answer,
    Ask,
    Join,
    Renew,
    Request,
    decode_answer,
    encode,
)
from collab.security.identity import (
    Clock,
    Credentials,
    bare_context,
    identity_files,
    leaf_of,
    utc_now,
)
from collab.security.invites import Token

ENROLMENT: Final = "enrolment.json"
TIMEOUT_S: Final = 15.0
_CLOSE_S: Final = 1.0

SplitAddress = Callable[[str], tuple[str, int]]
"""Host and port of HOST:PORT."""


class Enrolment(msgspec.Struct, frozen=True):
    """Where this identity was enrolled, for its renewal."""

    address: str


def enrolment_of(directory: Path) -> Enrolment | None:
    """Where an identity can be renewed; None if nothing is known.  Raises `ConfigError`."""
    path = directory / ENROLMENT
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(files.read(path, "enrol again"), type=Enrolment)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


async def join(
    token: Token,
    directory: Path,
    split: SplitAddress,
    *,
    clock: Clock = utc_now,
    timeout_s: float = TIMEOUT_S,
) -> Principal:
    """Enrol with a token and write a new identity directory, whole or not at all.

    The secret is told only to a server that proves to be of the authority that the token
    names.  Raises `Refused`, `PeerUnreachable`, or `ProtocolError`.
    """
    await asyncio.to_thread(files.check_vacant, directory, "identity")
    host, port = split(token.address)
    shown = await _ask(host, port, _unverified(), None, Ask(), timeout_s)
    authority_pem = shown.authority.encode()
    authority = read_authority(authority_pem, token.address)
    if not hmac.compare_digest(fingerprint(authority), token.authority_sha256):
        raise Refused(
            f"{token.address}: is not the authority that the token names; somebody stands between, or the "
            "token is old. Nothing was told to it"
        )
    key = new_key()
    request = Join(token.secret, signing_request(key).decode())
    context = bare_context(False, authority_pem)
    context.check_hostname = True
    answer = await _ask(host, port, context, enrolment_host(token.cluster), request, timeout_s)
    certificate = answer.certificate.encode()
    leaf = leaf_of(certificate, key, authority, "the server's answer")
    if leaf.principal != token.principal:
        raise Refused(f"{token.address}: issued a certificate for {leaf.principal}, not {token.principal}")
    check_period(leaf, clock())
    enrolment = msgspec.json.encode(Enrolment(token.address))
    made = identity_files(
        key_pem(key), certificate, authority_pem, answer.revoked.encode(), {ENROLMENT: enrolment}
    )
    await asyncio.to_thread(files.write_new_directory, directory, made, "identity")
    return leaf.principal


async def renew(credentials: Credentials, host: str, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
    """Get a new certificate for an identity, and use it from then on.

    Raises `Refused` if the old one has expired or was revoked, `PeerUnreachable`, or
    `ProtocolError`.
    """
    request = Renew(signing_request(credentials.key()).decode())
    context = await asyncio.to_thread(credentials.context, server_side=False, hostname=True)
    answer = await _ask(
        host, port, context, enrolment_host(credentials.principal.cluster), request, timeout_s
    )
    await asyncio.to_thread(credentials.install, answer.certificate.encode())
    credentials.reload_revocations(answer.revoked.encode())
    await asyncio.to_thread(credentials.store_revocations)


def _unverified() -> ssl.SSLContext:
    """For asking which authority it is; the answer is compared with the token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _ask(
    host: str, port: int, context: ssl.SSLContext, expected: str | None, request: Request, timeout_s: float
) -> Answer:
    """Put one question; ``expected`` is whom the server has to prove to be, where the context checks."""
    where = f"{host}:{port}"
    try:
        return await asyncio.wait_for(_exchange(host, port, context, expected, request), timeout_s)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise PeerUnreachable(
            f"{where}: no answer within {timeout_s:g} s; is it serving enrolments?"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"{where}: is not the server of enrolments: {error.verify_message}") from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "alert" in reason:
            raise Refused(f"{where}: refuses this device's certificate: {reason}") from error
        raise ProtocolError(f"{where}: TLS fails: {reason}; is a server of enrolments there?") from error
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ProtocolError(f"{where}: ended the connection without an answer") from error
    except OSError as error:
        raise PeerUnreachable(f"{where}: {error.strerror or error}; is it serving enrolments?") from error


async def _exchange(
    host: str, port: int, context: ssl.SSLContext, expected: str | None, request: Request
) -> Answer:
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=expected or "", limit=MAX_REPLY_BYTES
    )
    try:
        writer.write(encode(request))
        await writer.drain()
        answer = decode_answer(await reader.readuntil(b"\n"))
        writer.close()
        with suppress(OSError, TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)
        return answer
    finally:
        writer.transport.abort()


prepare(Enrolment)
