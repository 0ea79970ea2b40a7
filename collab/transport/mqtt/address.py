"""Addresses of brokers and of nodes behind them.

``mqtt://[USER:PASSWORD@]HOST[:PORT][/NAME[/PLACE]][?qos=0|1|2]``; ``mqtts`` means TLS
toward the broker.  A place tells several listeners of one node apart; listening at
place 0 takes a free one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from collab.core.ids import NodeName, check_name
from collab.errors import InputError, UsageError
from collab.transport.base import split_host_port

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""Registered ports (IANA) by scheme."""
DEFAULT_QOS: Final = 1
FREE_PLACE: Final = "0"
_FORM: Final = "write it as mqtt://HOST:PORT/NAME, with ?qos=0, 1 or 2 behind it"


@dataclass(frozen=True)
class BrokerAddress:
    """Where a broker is, and as whom to log in there."""

    scheme: str
    host: str
    port: int
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    """User and password; never shown."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class MqttAddress:
    """A node behind a broker; the name is empty where only the broker is meant."""

    broker: BrokerAddress
    name: NodeName
    place: str = ""
    qos: int = DEFAULT_QOS

    def __str__(self) -> str:
        parts = [str(self.broker), *filter(None, (self.name, self.place))]
        return "/".join(parts) + (f"?qos={self.qos}" if self.qos != DEFAULT_QOS else "")


def parse_address(address: str) -> MqttAddress:
    """Read an address; raises `UsageError`, which never repeats a password."""
    scheme, separator, rest = address.partition("://")
    rest, _, query = rest.partition("?")
    place, _, path = rest.partition("/")
    login, at, place = place.rpartition("@")
    shown = f"{scheme}://{place}/{path}"[:120]
    if scheme not in PORTS or not separator or not place:
        raise UsageError(f"address {shown!r}: {_FORM}")
    bare_v6 = place.startswith("[") and place.endswith("]")
    if ":" not in place or bare_v6:
        place = f"{place}:{PORTS[scheme]}"
    try:
        host, port = split_host_port(place)
    except UsageError as error:
        raise UsageError(f"address {shown!r}: {error}") from None
    if not host or not port or " " in host:
        raise UsageError(f"address {shown!r}: {_FORM}")
    user, _, password = login.partition(":")
    broker = BrokerAddress(scheme, host, port, (unquote(user), unquote(password)) if at else None)
    name, _, listener = path.partition("/")
    try:
        for part in filter(None, (name, listener)):
            check_name(part, f"address {shown!r}: part")
    except InputError as error:
        raise UsageError(str(error)) from None
    return MqttAddress(broker, NodeName(name), listener, _qos(query, shown))


def _qos(query: str, shown: str) -> int:
    options = parse_qsl(query, keep_blank_values=True)
    if any(key != "qos" or value not in ("0", "1", "2") for key, value in options) or len(options) > 1:
        raise UsageError(f"address {shown!r}: {_FORM}")
    return int(options[0][1]) if options else DEFAULT_QOS
