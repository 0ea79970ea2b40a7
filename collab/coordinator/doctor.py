"""Why two peers do not meet: verdicts over what probes have seen, without any I/O.

Each verdict names its check, says what was seen, and what to do.  A cause that explains
the others stands alone: nothing is said of the protocol where the port is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from collab.errors import UsageError
from collab.link.hello import VERSION
from collab.transport.base import is_loopback, place_host, split_address

OK, WARN, FAIL = "ok", "warn", "fail"
CLOCK_WARN_MS: Final = 5_000
"""Skew from which on logs of two nodes are hard to compare."""
CLOCK_FAIL_MS: Final = 60_000
"""Skew from which on fresh certificates, enrolment tokens and renewals may be refused."""


class Finding(NamedTuple):
    """One check of one peer, or of this device where the peer is empty."""

    check: str
    verdict: str
    """``ok``, ``warn`` or ``fail``."""
    peer: str
    seen: str
    remedy: str = ""


class Port(Enum):
    """What a TCP connection to an address came to."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"
    """No answer at all in time."""
    NO_ROUTE = "no route"
    UNKNOWN_HOST = "unknown host"
    NOT_TCP = "not TCP"


class Shown(Enum):
    """What a peer's certificate is worth here."""

    NONE = "none"
    """It speaks no TLS."""
    UNTESTED = "untested"
    NO_JUDGE = "no judge"
    """It wants certificates, and this device has no identity."""
    GOOD = "good"
    FOREIGN = "foreign"
    EXPIRED = "expired"
    EARLY = "early"
    REVOKED = "revoked"
    UNFIT = "unfit"
    """It proves no identity, such as a web server's."""


@dataclass(frozen=True)
class PeerSeen:
    """What the probes of one address have seen."""

    address: str
    name: str = ""
    reached: bool = False
    """Whether a link came up and the peer described itself."""
    port: Port = Port.NOT_TCP
    detail: str = ""
    """The error of the last thing tried, in one line."""
    other_family: str = ""
    """An address of the other family at which the same port is open."""
    identified: bool = False
    """Whether this device showed a certificate."""
    shown: Shown = Shown.UNTESTED
    certificate: str = ""
    """Whose certificate it is and until when, or why it is refused."""
    answered: bool = False
    """Whether anything came back over the open connection."""
    versions: tuple[int, int] | None = None
    """Least and greatest protocol version in its hello."""
    software: str = ""
    refusal: str = ""
    """Why the peer refuses this end, in its words."""
    endpoints: tuple[str, ...] = ()
    clock_ahead_ms: float | None = None
    rtt_ms: float = 0.0
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class Multicast:
    """What became of an own query for services (RFC 6762)."""

    sent: bool
    returned: bool
    detail: str = ""


class Login(Enum):
    """How a broker took this device."""

    ACCEPTED = "accepted"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    WANTS_TLS = "wants TLS"
    NO_TLS = "no TLS"
    CERTIFICATE = "certificate"
    """One of the two certificates is not accepted."""
    NO_MQTT5 = "no MQTT 5"
    NO_BROKER = "no broker"


@dataclass(frozen=True)
class BrokerSeen:
    """What a broker answered."""

    address: str
    login: Login
    tls: bool
    loopback: bool
    detail: str = ""
    port: Port = Port.OPEN


# --- one peer ----------------------------------------------------------------------


def judge_peer(seen: PeerSeen) -> list[Finding]:
    """Findings about one address, the cause first if there is one."""
    who = seen.name or seen.address
    for verdict in (_way, _certificate, _protocol):
        finding = verdict(seen, who)
        if finding is not None:
            return [finding]
    found = [Finding("link", OK, who, f"answers at {seen.address} within {seen.rtt_ms:.1f} ms")]
    return [*found, *_clock(seen, who), *_endpoints(seen, who)]


def _way(seen: PeerSeen, who: str) -> Finding | None:
    """Whether the network leads there at all."""
    if seen.reached:
        return None
    if seen.other_family and seen.port is not Port.OPEN:
        return Finding(
            "family",
            FAIL,
            who,
            f"{seen.address}: {seen.port.value}, but open at {seen.other_family}",
            f"the node listens on the other address family only: dial {seen.other_family}, or start "
            "the node with --listen '[::]:PORT,0.0.0.0:PORT'",
        )
    if seen.port is Port.REFUSED and seen.found and loopback_only(seen.address):
        return Finding(
            "endpoints",
            FAIL,
            who,
            f"advertises {seen.address}, where nothing answers on this device: it is on another one, or gone",
            "start the node with --listen HOST:PORT, HOST being an address that others can reach",
        )
    if seen.port is Port.REFUSED:
        return Finding(
            "port",
            FAIL,
            who,
            f"{seen.address}: the port is closed (connection refused)",
            "start the node, or correct the port; one that listens on loopback only needs --listen HOST:PORT",
        )
    if seen.port is Port.SILENT:
        return Finding(
            "port",
            FAIL,
            who,
            f"{seen.address}: no answer (timeout): filtered by a firewall, or no such device",
            "allow the port in the firewall on the way, or use --join from the node, or a --broker",
        )
    if seen.port is Port.NO_ROUTE:
        return Finding(
            "family",
            FAIL,
            who,
            f"{seen.address}: no route from this device ({seen.detail})",
            "use an address of a family and network that this device has, or a --broker between",
        )
    if seen.port is Port.UNKNOWN_HOST:
        return Finding(
            "address",
            FAIL,
            who,
            f"{seen.address}: the host is not known ({seen.detail})",
            "correct the name, or give its number",
        )
    return None


_CERTIFICATES: Final[dict[Shown, tuple[str, str]]] = {
    Shown.FOREIGN: (
        "its certificate is not of this cluster",
        "enrol both in one cluster: 'collab cluster invite NAME' at the authority, "
        "'collab cluster join TOKEN' at the device; or choose the right --identity",
    ),
    Shown.EXPIRED: (
        "its certificate has expired",
        "enrol the node again (collab cluster invite, join), or run a controller, which renews in time; "
        "check both clocks",
    ),
    Shown.EARLY: (
        "its certificate is not yet valid here: this device's clock is late, or the authority's is early",
        "set the clocks right, as by NTP",
    ),
    Shown.REVOKED: (
        "its certificate was revoked",
        "enrol the node again if it is to be trusted: collab cluster invite NAME",
    ),
    Shown.UNFIT: (
        "its certificate proves no identity",
        "is that address a node's? if so, enrol it: collab cluster join TOKEN",
    ),
    Shown.NO_JUDGE: (
        "it takes links with certificates only, and this device has none",
        "enrol this device: collab cluster join TOKEN, or name its identity with --identity DIR",
    ),
}


def _certificate(seen: PeerSeen, who: str) -> Finding | None:
    """Whether both ends prove who they are."""
    if seen.reached:
        return None
    if seen.shown in _CERTIFICATES:
        what, remedy = _CERTIFICATES[seen.shown]
        return Finding(
            "certificate", FAIL, who, f"{seen.address}: {what}{_bracketed(seen.certificate)}", remedy
        )
    if seen.shown is Shown.NONE and seen.identified and seen.answered:
        return Finding(
            "certificate",
            FAIL,
            who,
            f"{seen.address}: speaks no TLS, while this device has an identity",
            "enrol the node (collab cluster join TOKEN), or use --insecure at this end too, on loopback",
        )
    return None


def _protocol(seen: PeerSeen, who: str) -> Finding | None:
    """Whether both ends speak one language and want to."""
    if seen.versions is not None and not seen.versions[0] <= VERSION <= seen.versions[1]:
        low, high = seen.versions
        older = "this device" if low > VERSION else "the node"
        return Finding(
            "version",
            FAIL,
            who,
            f"{seen.address}: speaks protocol versions {low} to {high}, this end {VERSION}"
            + _bracketed(seen.software),
            f"upgrade {older}",
        )
    if seen.reached:
        return None
    if seen.refusal:
        return Finding(
            "refused",
            FAIL,
            who,
            f"{seen.address}: refuses this end: {seen.refusal}",
            "see the node's log; check this device's identity, role and revocation (collab cluster list)",
        )
    if seen.port is Port.OPEN and not seen.answered:
        return Finding(
            "answer",
            FAIL,
            who,
            f"{seen.address}: the port is open, but nothing answers there",
            "is it a node's port? if so the process hangs: see its log, restart it",
        )
    return Finding(
        "link",
        FAIL,
        who,
        f"{seen.address}: {seen.detail or 'no link comes up'}",
        "is it a node's port, and of the right scheme? see the node's log",
    )


def _clock(seen: PeerSeen, who: str) -> Iterable[Finding]:
    if seen.clock_ahead_ms is None:
        return
    skew, s = abs(seen.clock_ahead_ms), seen.clock_ahead_ms / 1000
    verdict = OK if skew < CLOCK_WARN_MS else WARN if skew < CLOCK_FAIL_MS else FAIL
    what = (
        "agree" if verdict == OK else f"differ: the node's is {abs(s):.0f} s {'ahead' if s > 0 else 'late'}"
    )
    remedy = "" if verdict == OK else "set both clocks right, as by NTP (timedatectl set-ntp true)"
    yield Finding("clock", verdict, who, f"the calendar clocks {what}", remedy)


def _endpoints(seen: PeerSeen, who: str) -> Iterable[Finding]:
    """Whether others can dial what it tells them."""
    if not seen.endpoints or not all(map(loopback_only, seen.endpoints)):
        return
    if loopback_only(seen.address):
        return
    yield Finding(
        "endpoints",
        WARN,
        who,
        f"tells others to dial {', '.join(seen.endpoints)}, which leads them to themselves",
        "start the node with --listen HOST:PORT, HOST being an address that others can reach",
    )


def loopback_only(address: str) -> bool:
    """Whether an address leads nowhere but to the device that dials it."""
    scheme, place = split_address(address)
    if scheme in ("inproc", "relay"):
        return False
    try:
        return is_loopback(place_host(place))
    except UsageError:
        return False


# --- all together ------------------------------------------------------------------


def judge_names(seen: Sequence[PeerSeen], conflicts: Sequence[tuple[str, Sequence[str]]]) -> list[Finding]:
    """Two processes with one name: seen by dialling, or by discovery (name and addresses of each)."""
    places: dict[str, dict[tuple[str, ...], str]] = {}
    for peer in seen:
        if peer.name and peer.reached:
            # One node that is dialled at two addresses tells the same endpoints at both.
            places.setdefault(peer.name, {})[peer.endpoints or (peer.address,)] = peer.address
    found = {name: list(where.values()) for name, where in places.items() if len(where) > 1}
    for name, addresses in conflicts:
        found.setdefault(name, list(addresses))
    return [
        Finding(
            "names",
            FAIL,
            name,
            f"two nodes are named {name!r}: {', '.join(where)}",
            "give each node a --name of its own, and start again; with certificates, enrol it by that name",
        )
        for name, where in sorted(found.items())
    ]


def judge_multicast(seen: Multicast, answering: int, reached: int) -> Finding:
    """Whether mDNS can work here: how many peers it has found, how many answer when dialled."""
    remedy = (
        "allow UDP port 5353 and the group 224.0.0.251 in this device's firewall; where the network itself "
        "blocks it, give --peers, or meet through a --broker"
    )
    if not seen.sent or not seen.returned:
        what = (
            f"cannot be sent ({seen.detail})" if not seen.sent else "does not come back: multicast is blocked"
        )
        return Finding("multicast", FAIL, "", f"this device's own mDNS query {what}", remedy)
    if not answering and reached:
        return Finding(
            "multicast",
            WARN,
            "",
            f"no node answers by mDNS, while {reached} answer when dialled: "
            "the network blocks multicast, or they run without mdns",
            "start the nodes with --discovery mdns; where the network blocks multicast, give --peers or "
            "meet through a --broker",
        )
    return Finding("multicast", OK, "", f"mDNS works here; {answering} nodes answer by it")


_LOGINS: Final[dict[Login, tuple[str, str]]] = {
    Login.REFUSED: (
        "refuses this device's credentials",
        "correct user and password in mqtt://USER:PASSWORD@HOST, or the broker's access list",
    ),
    Login.WANTS_TLS: ("wants TLS", "write mqtts:// and name this device's --identity"),
    Login.NO_TLS: ("speaks no TLS", "write mqtt://, or configure TLS: collab cluster broker"),
    Login.CERTIFICATE: (
        "and this device do not accept each other's certificates",
        "issue the broker's certificate by this cluster: collab cluster broker; enrol this device",
    ),
    Login.NO_MQTT5: ("does not speak MQTT 5", "use mosquitto 2 or another broker of MQTT 5"),
    Login.NO_BROKER: ("is no MQTT broker", "correct the address or the port"),
}


def judge_broker(seen: BrokerSeen) -> Finding:
    """Whether a broker carries links for this device."""
    if seen.login is Login.UNREACHABLE:
        why = {
            Port.REFUSED: "its port is closed (connection refused)",
            Port.SILENT: "no answer (timeout): filtered, or no such device",
        }.get(seen.port, seen.detail)
        return Finding(
            "broker",
            FAIL,
            "",
            f"{seen.address}: the broker cannot be reached: {why}",
            "start the broker (systemctl start mosquitto), correct the address, open its port",
        )
    if seen.login in _LOGINS:
        what, remedy = _LOGINS[seen.login]
        return Finding("broker", FAIL, "", f"{seen.address}: {what}{_bracketed(seen.detail)}", remedy)
    if not seen.tls and not seen.loopback:
        return Finding(
            "broker",
            WARN,
            "",
            f"{seen.address}: accepts this device, without TLS: passwords and names are readable on the way",
            "configure TLS (collab cluster broker) and write mqtts://",
        )
    return Finding("broker", OK, "", f"{seen.address}: accepts this device")


def judge_identity(principal: str, problem: str) -> Finding | None:
    """This device's own identity: whose it is, or why it cannot be used."""
    if problem:
        return Finding(
            "identity",
            FAIL,
            "",
            f"this device's identity cannot be used: {problem}",
            "enrol it again: collab cluster invite NAME, collab cluster join TOKEN; if the certificate "
            "is only too new or too old by the clock, set the clock right",
        )
    return Finding("identity", OK, "", f"this device is {principal}") if principal else None


def exit_code(findings: Sequence[Finding], asked: int, reached: int) -> int:
    """0 if all is well, 3 if peers were looked for and none was reached, 1 if something is amiss."""
    if asked and not reached:
        return 3
    return int(any(finding.verdict != OK for finding in findings))


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""
