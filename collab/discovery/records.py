"""What a node advertises, as TXT records, as JSON, and as links; strangers' read back with bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec

from collab.discovery.base import MAX_ENDPOINT, MAX_ENDPOINTS, Sighting, checked
from collab.errors import ProtocolError

TXT_BYTES: Final = 1200
"""Of a TXT record that fits into one packet of Ethernet with the others (RFC 6763 6.2: 1300)."""
MAX_JSON_BYTES: Final = 8192
"""Over sixteen endpoints of full length and all other fields."""
_STRING_BYTES: Final = 255
"""Of one entry of a TXT record (RFC 6763 6.1)."""
_VERSION: Final = "1"


# --- TXT records (RFC 6763 6) --------------------------------------------------------


def to_txt(me: Sighting) -> dict[str, str]:
    """Entries of a node's TXT record; endpoints that no longer fit are left out."""
    entries = {"txtvers": _VERSION, "name": me.name}
    texts = (("role", me.role), ("cluster", me.cluster), ("software", me.software), ("id", me.instance))
    entries.update((key, value) for key, value in texts if value)
    room = TXT_BYTES - sum(len(key) + len(value) + 2 for key, value in entries.items())
    for number, endpoint in enumerate(me.endpoints[:MAX_ENDPOINTS]):
        size = len(f"e{number}={endpoint}".encode())
        if size <= _STRING_BYTES and size < room:
            entries[f"e{number}"] = endpoint
            room -= size + 1
    return entries


def from_txt(entries: Mapping[bytes, bytes | None], how: str, ttl_s: float, source: str) -> Sighting:
    """The sighting in a TXT record; raises `ProtocolError` if it is no node's."""

    def text(key: str) -> str:
        return str((entries.get(key.encode()) or b"")[:MAX_ENDPOINT], "utf-8", "replace")

    if text("txtvers") != _VERSION:
        raise ProtocolError("discovery: the TXT record is no node's")
    sighting = Sighting(
        name=text("name"),
        endpoints=tuple(filter(None, (text(f"e{number}") for number in range(MAX_ENDPOINTS)))),
        cluster=text("cluster"),
        software=text("software"),
        role=text("role"),
        how=how,
        ttl_s=ttl_s,
        instance=text("id"),
        source=source,
    )
    return _named(sighting)


def _named(sighting: Sighting) -> Sighting:
    if not sighting.name:
        raise ProtocolError("discovery: no name is given")
    return checked(sighting)


# --- JSON ------------------------------------------------------------------------------


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    name: str
    endpoints: Annotated[list[str], msgspec.Meta(max_length=4 * MAX_ENDPOINTS)] = []
    cluster: str = ""
    software: str = ""
    role: str = ""
    instance: str = ""
    ttl_s: float = 60.0


_DECODER: Final = msgspec.json.Decoder(_Document)


def to_json(me: Sighting, ttl_s: float) -> bytes:
    """A presence; unknown fields are ignored by who reads it, so that it can grow."""
    return msgspec.json.encode(
        _Document(
            v=1,
            name=me.name,
            endpoints=list(me.endpoints[:MAX_ENDPOINTS]),
            cluster=me.cluster,
            software=me.software,
            role=me.role,
            instance=me.instance,
            ttl_s=ttl_s,
        )
    )


def from_json(data: bytes, how: str, source: str) -> Sighting:
    """The sighting in a presence; raises `ProtocolError` for what is none."""
    if len(data) > MAX_JSON_BYTES:
        raise ProtocolError(f"discovery: a presence of {len(data)} bytes is over {MAX_JSON_BYTES}")
    try:
        read = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"discovery: a presence cannot be read: {error}") from error
    sighting = Sighting(
        name=read.name,
        endpoints=tuple(read.endpoints),
        cluster=read.cluster,
        software=read.software,
        role=read.role,
        how=how,
        ttl_s=read.ttl_s,
        instance=read.instance,
        source=source,
    )
    return _named(sighting)


# --- links (RFC 6690 with attributes of RFC 9176 9.3) ------------------------------------

RESOURCE_TYPE: Final = "collab.node"
MAX_LINK_BYTES: Final = 64 * 1024
"""Of a whole document of links."""
MAX_LINKS: Final = 1024

Link = tuple[str, dict[str, str]]
"""Target and attributes; of a repeated attribute the first counts (RFC 6690 3)."""


def to_links(me: Sighting) -> str:
    """One link for each endpoint, with what is said of the node as its attributes."""
    texts = (
        ("rt", RESOURCE_TYPE),
        ("ep", me.name),
        ("d", me.cluster),
        ("role", me.role),
        ("software", me.software),
        ("id", me.instance),
    )
    attributes = "".join(f";{key}={quoted(value)}" for key, value in texts if value)
    usable = [endpoint for endpoint in me.endpoints if ">" not in endpoint][:MAX_ENDPOINTS]
    return ",".join(f"<{endpoint}>{attributes}" for endpoint in usable or ["/"])


def from_links(links: Iterable[Link], how: str, ttl_s: float, origin: str = "") -> list[Sighting]:
    """Sightings of the nodes that links tell of; other links and malformed ones are left out.

    ``origin`` is where the links come from, and becomes part of the sources.
    """
    nodes: dict[tuple[str, str, str], list[str]] = {}
    said: dict[tuple[str, str, str], dict[str, str]] = {}
    for target, attributes in links:
        name = attributes.get("ep", "")
        if RESOURCE_TYPE not in attributes.get("rt", "").split() or not name:
            continue
        key = (name, attributes.get("d", ""), attributes.get("id", ""))
        said.setdefault(key, attributes)
        nodes.setdefault(key, []).append(target)
    found = []
    for (name, cluster, instance), endpoints in nodes.items():
        attributes = said[name, cluster, instance]
        sighting = Sighting(
            name=name,
            endpoints=tuple(endpoints),
            cluster=cluster,
            software=attributes.get("software", ""),
            role=attributes.get("role", ""),
            how=how,
            ttl_s=ttl_s,
            instance=instance,
            source=f"{origin}#{name}.{cluster}" if origin else f"{name}.{cluster}.{instance}",
        )
        try:
            found.append(_named(sighting))
        except ProtocolError:
            continue
    return found


def parse_links(text: str) -> list[Link]:
    """Read link format (RFC 6690 2); raises `ProtocolError`.  At most `MAX_LINKS` links."""
    if len(text) > MAX_LINK_BYTES:
        raise ProtocolError(f"link format: over {MAX_LINK_BYTES} characters")
    links: list[Link] = []
    at, end = 0, len(text)
    while at < end:
        if len(links) == MAX_LINKS:
            raise ProtocolError(f"link format: over {MAX_LINKS} links")
        if text[at] != "<" or (close := text.find(">", at)) < 0:
            raise ProtocolError("link format: a target in '<' and '>' is missing")
        target, at = text[at + 1 : close], close + 1
        attributes: dict[str, str] = {}
        while at < end and text[at] == ";":
            key, value, at = _attribute(text, at + 1)
            attributes.setdefault(key, value)
        links.append((target, attributes))
        if at < end:
            if text[at] != ",":
                raise ProtocolError("link format: links are not separated by ','")
            at += 1
    return links


def _attribute(text: str, at: int) -> tuple[str, str, int]:
    start = at
    while at < len(text) and text[at] not in "=;,":
        at += 1
    key = text[start:at].strip()
    if at == len(text) or text[at] != "=":
        return key, "", at
    at += 1
    if at < len(text) and text[at] == '"':
        return key, *_string(text, at + 1)
    start = at
    while at < len(text) and text[at] not in ";,":
        at += 1
    return key, text[start:at], at


def _string(text: str, at: int) -> tuple[str, int]:
    """A quoted string from behind its first quote (RFC 2616 2.2)."""
    out: list[str] = []
    while at < len(text):
        if text[at] == '"':
            return "".join(out), at + 1
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        out.append(text[at])
        at += 1
    raise ProtocolError("link format: a quoted string has no end")


def quoted(value: str) -> str:
    """A value as an attribute's quoted string (RFC 2616 2.2)."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
