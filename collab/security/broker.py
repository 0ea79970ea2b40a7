"""Configuration and access rules of a mosquitto broker for a cluster.

The transport's topics put receiver and sender into the topic, so two patterns bind
every node to its own name (mosquitto.conf(5), "acl_file"; ``%u`` is the user name).
"""

from __future__ import annotations

from typing import Final

from collab.core.ids import check_name
from collab.errors import ConfigError

PACKET_BYTES: Final = 2 << 20
"""Longest packet; a session's packets are far shorter."""
INFLIGHT_MESSAGES: Final = 256
"""Messages under way to a client at once (Receive Maximum, MQTT 5 3.1.2.11.3)."""
QUEUED_MESSAGES: Final = 16_384
"""Over 16 sessions' full windows of packets for a client that does not read."""
QUEUED_BYTES: Final = 64 << 20
"""Memory that one client which does not read can take."""


def _path(value: str, what: str) -> str:
    if not value or "\n" in value or "\r" in value:
        raise ConfigError(f"broker: {what} {value[:80]!r} cannot stand in a configuration line")
    return value


def mosquitto_config(
    *,
    host: str = "0.0.0.0",
    port: int = 8883,
    authority: str = "",
    certificate: str = "",
    key: str = "",
    password_file: str = "",
    acl_file: str = "",
    persistence: str = "",
    packet_bytes: int = PACKET_BYTES,
) -> str:
    """Text of a ``mosquitto.conf`` for mosquitto 2.0.

    With ``authority``, ``certificate`` and ``key`` (paths) clients use TLS and show a
    certificate of that authority, whose common name is their user name; with
    ``password_file`` they log in; with neither anybody may, which suits loopback only.
    ``persistence`` is a directory for state that outlives the broker; empty for none,
    which sessions do not need.  Raises `ConfigError`.
    """
    tls = (authority, certificate, key)
    if any(tls) and not all(tls):
        raise ConfigError("broker: give authority, certificate and key, or none of them")
    lines = [
        "per_listener_settings false",
        f"listener {port} {_path(host, 'host')}",
        "protocol mqtt",
        # Without it a small message waits 40 ms for another's acknowledgement.
        "set_tcp_nodelay true",
        f"max_packet_size {packet_bytes}",
        f"max_inflight_messages {INFLIGHT_MESSAGES}",
        f"max_queued_messages {QUEUED_MESSAGES}",
        f"max_queued_bytes {QUEUED_BYTES}",
        "max_keepalive 60",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if persistence:
        folder = _path(persistence, "persistence").rstrip("/")
        lines += ["persistence true", f"persistence_location {folder}/", "persistent_client_expiration 1d"]
    else:
        lines.append("persistence false")
    if any(tls):
        lines += [
            f"cafile {_path(authority, 'authority')}",
            f"certfile {_path(certificate, 'certificate')}",
            f"keyfile {_path(key, 'key')}",
            "tls_version tlsv1.3",
            "require_certificate true",
            "use_identity_as_username true",
        ]
    if password_file:
        lines.append(f"password_file {_path(password_file, 'password_file')}")
    lines.append(f"allow_anonymous {'false' if any(tls) or password_file else 'true'}")
    if acl_file:
        lines.append(f"acl_file {_path(acl_file, 'acl_file')}")
    return "\n".join(lines) + "\n"


def mosquitto_acl(prefix: str = "collab") -> str:
    """Text of an access list: everybody writes and reads under the own name alone.

    Inboxes are ``PREFIX/in/RECEIVER/SENDER/…``; presence is ``PREFIX/presence/NAME``,
    retained, which everybody may read and nobody may write for another.
    """
    prefix = check_name(prefix, "broker: prefix")
    return "".join(
        f"{line}\n"
        for line in (
            f"pattern read {prefix}/in/%u/#",
            f"pattern write {prefix}/in/+/%u/#",
            f"pattern write {prefix}/presence/%u",
            f"pattern read {prefix}/presence/+",
        )
    )
