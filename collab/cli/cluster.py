"""``collab cluster``: who belongs to the cluster."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Peers, with_cluster
from collab.cli.output import emit, say, show, table
from collab.errors import CollabError, ConfigError, PeerUnreachable, UsageError

if TYPE_CHECKING:
    from collab.security.authority import Authority
    from collab.security.invites import Token
    from collab.security.records import Issued

app = typer.Typer(
    name="cluster", help="Make a cluster, enrol devices, take certificates back.", no_args_is_help=True
)

AuthorityDirectory = Annotated[
    Path | None,
    typer.Option("--authority", "--dir", help="Directory of the authority [env: COLLAB_AUTHORITY]."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase of the authority's key [env: COLLAB_PASSPHRASE_FILE]."),
]
IdentityDirectory = Annotated[
    Path | None,
    typer.Option("--identity", help="Directory for key and certificate [env: COLLAB_IDENTITY]."),
]
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
DEFAULT_LISTEN: Final = "0.0.0.0:7443"


def authority_directory(given: Path | None) -> Path:
    """The directory of the authority: flag, variable, or the user's own."""
    from collab.cli.settings import default_directory

    named = given or os.environ.get("COLLAB_AUTHORITY")
    return Path(named).expanduser() if named else default_directory("authority")


def open_authority(given: Path | None, passphrase_file: Path | None) -> Authority:
    """The authority of this device.  Raises `ConfigError` if there is none."""
    from collab.security.authority import Authority

    return Authority.open(authority_directory(given), read_passphrase(passphrase_file))


def read_passphrase(given: Path | None) -> bytes | None:
    """The passphrase in a file that nobody else can read; None if no file was named."""
    from collab.security.files import read_private

    named = given or os.environ.get("COLLAB_PASSPHRASE_FILE")
    if not named:
        return None
    passphrase = read_private(Path(named), "give --passphrase-file FILE").rstrip(b"\r\n")
    if not passphrase:
        raise ConfigError(f"--passphrase-file {named}: is empty")
    return passphrase


def target_identity(given: Path | None) -> Path:
    """Where an identity is to be, whether there is one already or not."""
    from collab.cli.settings import default_directory, identity_directory

    return identity_directory(given) or default_directory("identity")


def duration(text: str, what: str) -> timedelta:
    """Read ``90s``, ``30m``, ``1h`` or ``2d``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{what} {text[:20]!r}: write it as 90s, 30m, 1h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@app.command(epilog="Example:\n\n    collab cluster init lab")
def init(
    name: Annotated[str, typer.Argument(help="Name of the cluster.", show_default=False)],
    authority: AuthorityDirectory = None,
    identity: IdentityDirectory = None,
    operator: Annotated[str, typer.Option(help="Name of this user's identity.")] = "operator",
    passphrase_file: PassphraseFile = None,
    json_: AsJson = False,
) -> None:
    """Make a cluster's authority, and an operator's identity for this user."""
    from collab.core.ids import check_name
    from collab.security.authority import Authority, enrol_here
    from collab.security.files import check_vacant

    where, own = authority_directory(authority), target_identity(identity)
    check_name(operator, "--operator")
    check_vacant(own, "identity")
    made = Authority.create(where, name, read_passphrase(passphrase_file))
    principal = enrol_here(made, own, operator, "operator")
    if json_:
        emit({"cluster": name, "authority": str(where), "identity": str(own), "principal": str(principal)})
        return
    say(f"cluster {name}: authority in {where}, identity {principal} in {own}")
    say("keep a copy of the authority's directory; whoever has it decides who belongs to the cluster")
    say("enrol a device: collab cluster invite NAME --listen HOST:PORT")


@app.command(
    epilog="Example:\n\n    collab cluster invite edge-b --listen 10.0.0.5:7443\n\n"
    "and on the device what it prints:\n\n    collab cluster join collab1-…"
)
def invite(
    name: Annotated[str, typer.Argument(help="Name of the device or user.", show_default=False)],
    role: Annotated[str, typer.Option(help="node, client, operator or controller.")] = "node",
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve the enrolment at.")] = DEFAULT_LISTEN,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT that the device dials, if it is another.")
    ] = None,
    expires: Annotated[str, typer.Option(help="How long the token counts: 30m, 1h, 2d.")] = "1h",
    days: Annotated[int, typer.Option(help="Days that the certificate is valid.")] = 90,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Serve nothing: a controller does, at --address.")
    ] = False,
    authority: AuthorityDirectory = None,
    passphrase_file: PassphraseFile = None,
    json_: AsJson = False,
) -> None:
    """Print a one-time token, and serve the enrolment until the token is used or has expired."""
    from collab.security.invites import Invites

    if no_serve and not address:
        raise UsageError("--no-serve: give --address HOST:PORT of the controller that serves enrolments")
    opened, valid_for = open_authority(authority, passphrase_file), duration(expires, "--expires")

    def announce(contact: str) -> Token:
        token = Invites(opened).create(name, role, contact, valid_for, days)
        document = {
            "event": "invited",
            "token": token.encode(),
            "address": contact,
            "expires": token.expires.isoformat(),
        }
        if json_:
            emit(document)
        else:
            say(f"until {token.expires:%Y-%m-%d %H:%M:%SZ}, on the device, once:")
            print(f"collab cluster join {token.encode()}", flush=True)
        return token

    if no_serve:
        assert address is not None
        _split(address)
        announce(address)
        return
    opened.unlock()
    asyncio.run(_serve_invite(opened, listen, address, announce, valid_for, json_))


async def _serve_invite(
    authority: Authority,
    listen: str,
    address: str | None,
    announce: Callable[[str], Token],
    valid_for: timedelta,
    json_: bool,
) -> None:
    from collab.errors import Refused
    from collab.security.enrol_server import EnrolServer
    from collab.security.invites import Invites

    host, port = _split(listen)
    token: Token | None = None
    done = asyncio.Event()

    def enrolled(principal: Any) -> None:
        if token is not None and principal == token.principal:
            if json_:
                emit({"event": "enrolled", "principal": str(principal)})
            else:
                say(f"enrolled {principal}")
            done.set()

    async with EnrolServer(authority, host, port, enrolled=enrolled) as server:
        token = made = await asyncio.to_thread(announce, address or contact(host, server.port))
        try:
            await asyncio.wait_for(done.wait(), valid_for.total_seconds())
            await server.finish()
        except (TimeoutError, asyncio.TimeoutError):
            raise Refused("the token has expired unused; invite again") from None
        finally:
            if not done.is_set():
                await asyncio.to_thread(Invites(authority).withdraw, made)


def contact(host: str, port: int) -> str:
    """Where others reach what listens on a host."""
    from collab.transport.base import contact_host

    return f"{contact_host(host)}:{port}"


def _split(place: str) -> tuple[str, int]:
    from collab.transport.base import split_host_port

    return split_host_port(place)


@app.command(epilog="Example:\n\n    collab cluster join collab1-…")
def join(
    token: Annotated[str, typer.Argument(help="What 'collab cluster invite' printed.", show_default=False)],
    identity: IdentityDirectory = None,
    json_: AsJson = False,
) -> None:
    """Enrol this device: make a key here and get a certificate for it."""
    from collab.security import enrol_client
    from collab.security.identity import utc_now
    from collab.security.invites import parse_token

    parsed, own = parse_token(token, utc_now()), target_identity(identity)
    principal = asyncio.run(enrol_client.join(parsed, own, _split))
    if json_:
        emit({"principal": str(principal), "identity": str(own)})
    else:
        say(f"enrolled as {principal}; key and certificate are in {own}")


@app.command("list", epilog="Example:\n\n    collab cluster list --json")
def list_(authority: AuthorityDirectory = None, json_: AsJson = False) -> None:
    """Certificates that the authority has issued."""
    issued = open_authority(authority, None).issued()
    now = datetime.now(timezone.utc)
    if json_:
        emit([_row(entry, now) for entry in issued])
        return
    rows = [
        (entry.name or ", ".join(entry.hosts), entry.role or "server", state, f"{entry.not_after:%Y-%m-%d}")
        for entry in issued
        for state in [_state(entry, now)]
    ]
    show(table("", ("name", "role", "state", "until"), rows))


def _row(entry: Issued, now: datetime) -> dict[str, Any]:
    return {
        "name": entry.name,
        "role": entry.role or "server",
        "hosts": entry.hosts,
        "serial": entry.serial,
        "state": _state(entry, now),
        "not_after": entry.not_after.isoformat(),
    }


def _state(entry: Issued, now: datetime) -> str:
    if entry.revoked is not None:
        return "revoked"
    return "valid" if entry.live(now) else "expired"


@app.command(epilog="Example:\n\n    collab cluster revoke edge-b --peers 10.0.0.7:7070,10.0.0.8:7070")
def revoke(
    name: Annotated[
        str, typer.Argument(help="Whose certificates; or one's serial number.", show_default=False)
    ],
    peers: Peers = None,
    authority: AuthorityDirectory = None,
    passphrase_file: PassphraseFile = None,
    json_: AsJson = False,
) -> None:
    """Take certificates back, and tell nodes; a controller tells them too."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.controller import push_revocations

    opened = open_authority(authority, passphrase_file)
    told = read_peers(peers)
    revoked = opened.revoke(name)
    results = with_cluster(lambda cluster: push_revocations(cluster, told, opened.crl())) if told else {}
    failed = {peer: str(result) for peer, result in results.items() if isinstance(result, CollabError)}
    if json_:
        numbers = {peer: result for peer, result in results.items() if isinstance(result, int)}
        emit({"revoked": [entry.serial for entry in revoked], "told": numbers, "failed": failed})
    else:
        say(f"revoked {len(revoked)} certificates of {name}; {len(results) - len(failed)} nodes go by it")
    if failed:
        raise PeerUnreachable("revoked, but not everybody knows: " + "; ".join(failed.values()))


@app.command(epilog="Example:\n\n    collab cluster broker --host mqtt.lan --host 10.0.0.9 --out broker")
def broker(
    host: Annotated[list[str], typer.Option(help="Name or address that clients dial; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Directory to write to.", show_default=False)],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8883,
    days: Annotated[int, typer.Option(help="Days that the certificate is valid.")] = 365,
    authority: AuthorityDirectory = None,
    passphrase_file: PassphraseFile = None,
    json_: AsJson = False,
) -> None:
    """Write certificates, configuration and access rules for a mosquitto broker."""
    from collab.security import files
    from collab.security.broker import mosquitto_acl, mosquitto_config
    from collab.security.certificates import certificate_pem

    opened = open_authority(authority, passphrase_file)
    files.check_vacant(out, "--out")
    certificate, key = opened.issue_server(host, days)
    where = out.absolute()
    config = mosquitto_config(
        port=port,
        authority=str(where / "ca.crt"),
        certificate=str(where / "server.crt"),
        key=str(where / "server.key"),
        acl_file=str(where / "acl"),
    )
    made = {
        "ca.crt": (certificate_pem(opened.certificate), files.PUBLIC),
        "server.crt": (certificate, files.PUBLIC),
        "server.key": (key, files.PRIVATE),
        "crl.pem": (opened.crl(), files.PUBLIC),
        "acl": (mosquitto_acl().encode(), files.PRIVATE),
        "mosquitto.conf": (f"{config}crlfile {where / 'crl.pem'}\n".encode(), files.PUBLIC),
    }
    files.write_new_directory(where, made, "--out")
    if json_:
        emit({"directory": str(where), "files": sorted(made)})
    else:
        say(f"run: mosquitto -c {where / 'mosquitto.conf'} (as the owner of {where})")


@app.command(epilog="Example:\n\n    collab cluster oscore meter-7 pi-1 --out contexts")
def oscore(
    client: Annotated[str, typer.Argument(help="Name of the CoAP client.", show_default=False)],
    node: Annotated[str, typer.Argument(help="Name of the node that it may ask.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory to write to.", show_default=False)],
    authority: AuthorityDirectory = None,
    json_: AsJson = False,
) -> None:
    """Write a pair of OSCORE contexts, with which a CoAP client without TLS asks a node."""
    from collab.core.identity import Principal
    from collab.core.ids import NodeName, check_name
    from collab.security.object_security import ROLE, check_enrolled, write_pair

    opened = open_authority(authority, None)
    names = Principal(NodeName(check_name(client, "CLIENT")), ROLE, opened.cluster)
    asked = Principal(NodeName(check_name(node, "NODE")), "node", opened.cluster)
    check_enrolled(names, asked, opened.issued(), datetime.now(timezone.utc))
    clients, nodes = write_pair(out, names, asked)
    if json_:
        emit({"client": str(names), "node": str(asked), "for_client": str(clients), "for_node": str(nodes)})
        return
    say(f"{clients}: move it to {client}, for any CoAP library with OSCORE")
    say(f"{nodes}: move it to {node}, into the directory that --coap-oscore names")
    say("move, never copy: a context that is used twice is broken")


@app.command(epilog="Example:\n\n    collab cluster renew --address 10.0.0.5:7443")
def renew(
    identity: IdentityDirectory = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of the controller, if not where this device enrolled.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Get a new certificate for this device's identity while the old one is valid."""
    from collab.security import enrol_client
    from collab.security.identity import Credentials

    own = target_identity(identity)
    credentials = Credentials.load(own)
    if address is None:
        known = enrol_client.enrolment_of(own)
        if known is None:
            raise UsageError("--address: give HOST:PORT of the controller; none is known here")
        address = known.address
    asyncio.run(enrol_client.renew(credentials, *_split(address)))
    until = credentials.leaf.not_after
    if json_:
        emit({"principal": str(credentials.principal), "not_after": until.isoformat()})
    else:
        say(f"{credentials.principal} is valid until {until:%Y-%m-%d %H:%M:%SZ}")
