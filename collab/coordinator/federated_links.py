"""Links from a federated run's server to its clients, of the transports that the task allows."""

from __future__ import annotations

from collections.abc import Sequence

from collab.client.control import Control
from collab.errors import UsageError
from collab.link.link import Link
from collab.link.links import Links, dialled_as, is_kind


async def connect_allowed(links: Links, address: str, allowed: Sequence[str]) -> Link:
    """A link to the client at an address: of an allowed transport, or of any where none is named.

    An address of another transport tells where the client is, and its own endpoints are
    dialled then, in the order of ``allowed``.  Raises `UsageError` where it has none that fits, else
    what dialling raises.
    """
    if not allowed:
        return await links.connect(address)
    own = fitting((address,), allowed)
    if own:
        return await links.connect(own[0])
    first = await links.connect(address)
    try:
        told = tuple((await Control(first).describe()).endpoints)
    finally:
        await first.close()
    ends = fitting(told, allowed)
    if not ends:
        raise UsageError(
            f"transports: client {first.peer.name!r} at {address} has no endpoint of {', '.join(allowed)}; "
            f"it has {', '.join(told) or 'none'}: have it listen there, or allow another transport"
        )
    return await links.connect_any(ends, first.peer.name)


def fitting(addresses: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The addresses that lead to links of allowed transports, those of the first one first."""
    return tuple(
        dialled_as(address, kind) for kind in allowed for address in addresses if is_kind(address, kind)
    )
