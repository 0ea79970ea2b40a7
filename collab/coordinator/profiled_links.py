"""Measures links: between this process and nodes, and between nodes by asking one of them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collab.client.measuring import SIZES, Probed, probe_link
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.ids import NodeName
from collab.core.profile import LinkEntry
from collab.errors import CollabError, PeerUnreachable
from collab.link.link import Link
from collab.link.links import dialled_as, is_kind
from collab.planner.fit import fit_link
from collab.transport.aio import timeout

_BUDGET_MS: Final = 4_000.0
_WAIT_S: Final = 5.0


@dataclass(frozen=True)
class Pair:
    """A link to measure: from the requester, or from a node, to another node."""

    source: NodeName
    asker: NodeView | None
    """None where the source is this process."""
    peer: NodeView
    kind: str


class LinkMeter:
    """Measures the links among some nodes and this process, one at a time."""

    def __init__(
        self,
        cluster: Cluster,
        views: Sequence[NodeView],
        requester: NodeName,
        *,
        transports: Sequence[str] = (),
        rounds: int = 8,
        share: float = 0.5,
    ) -> None:
        self._cluster, self._views, self._requester = cluster, views, requester
        self._transports, self._rounds, self._share = transports, rounds, share

    def pairs(self) -> list[Pair]:
        """What there is to measure: by each transport that both ends know and one of them listens by.

        This process is left out where the requester is one of the nodes.
        """
        views, known = self._views, self._cluster.links.schemes
        here = self._requester not in {view.name for view in views}
        found: list[Pair] = []
        for kind in self._transports or [kind for kind in known if "-qos" not in kind]:
            able = [view for view in views if kind in view.description.transports]
            if here and kind in known:
                found += [Pair(self._requester, None, v, kind) for v in able if _addresses(v, kind)]
            found += [
                Pair(a.name, a, b, kind)
                for i, a in enumerate(able)
                for b in able[i + 1 :]
                if _addresses(a, kind) or _addresses(b, kind)
            ]
        return found

    async def measure(self, pair: Pair, when: str) -> tuple[LinkEntry, LinkEntry]:
        """Both directions of one link, dated ``when``.

        Raises `PeerUnreachable` or `LinkLost` where there is no such link.
        """
        if pair.asker is None:
            return _entries(pair.source, pair.peer.name, pair.kind, await self._from_here(pair), when)
        try:
            probed = await self._between(pair.asker, pair.peer, pair.kind)
            return _entries(pair.source, pair.peer.name, pair.kind, probed, when)
        except CollabError as first:
            try:  # the other end may be the one that can dial
                probed = await self._between(pair.peer, pair.asker, pair.kind)
            except CollabError:
                raise first from None
            return _entries(pair.peer.name, pair.source, pair.kind, probed, when)

    async def _between(self, one: NodeView, other: NodeView, kind: str) -> Probed:
        request = pb.ProbePeerRequest(
            peer=other.name,
            endpoints=_addresses(other, kind),
            kind=kind,
            sizes=SIZES,
            rounds=self._rounds,
            budget_ms=_BUDGET_MS,
            share=self._share,
        )
        return await self._cluster.control(one.name).probe_peer(request)

    async def _from_here(self, pair: Pair) -> Probed:
        link, dialled = await self._link_to(pair.peer, pair.kind)
        try:
            return await probe_link(link, rounds=self._rounds, budget_ms=_BUDGET_MS, share=self._share)
        finally:
            if dialled:
                await link.close()

    async def _link_to(self, peer: NodeView, kind: str) -> tuple[Link, bool]:
        """A live link of a transport, and whether it was dialled for this."""
        links = self._cluster.links
        link = links.get(peer.name, kind)
        if link is not None and link.kind == kind:
            return link, False
        addresses = [dialled_as(at, kind) for at in _addresses(peer, kind)]
        try:
            async with timeout(_WAIT_S):
                return await links.connect_any(addresses, peer.name), True
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"node {peer.name!r}: no link within {_WAIT_S:g} s") from error


def _addresses(view: NodeView, kind: str) -> list[str]:
    return [at for at in view.endpoints if is_kind(at, kind)]


def _entries(
    source: NodeName, target: NodeName, kind: str, probed: Probed, when: str
) -> tuple[LinkEntry, LinkEntry]:
    """There and back, from round trips: the way of an empty message is half of an empty round trip."""
    empty = [s.ms for s in probed.samples if s.up_bytes == s.down_bytes == 0]
    if not empty:
        raise PeerUnreachable(f"node {target!r}: no probe by {kind} came back")
    one_way = statistics.median(empty) / 2
    up = [(s.up_bytes, s.ms) for s in probed.samples if s.up_bytes]
    down = [(s.down_bytes, s.ms) for s in probed.samples if s.down_bytes]

    def entry(one: NodeName, other: NodeName, moves: Sequence[tuple[int, float]]) -> LinkEntry:
        latency, mbit_s = fit_link([(0, one_way), *_one_way(moves, one_way)])
        return LinkEntry(
            source=one,
            target=other,
            latency_ms=float(f"{latency:.5g}"),
            mbit_s=float(f"{mbit_s:.5g}"),
            transport=kind,
            jitter_ms=float(f"{statistics.pstdev(empty) / 2:.4g}"),
            loss=round(probed.lost / (probed.lost + len(probed.samples)), 4),
            measured_at=when,
        )

    return entry(source, target, up), entry(target, source, down)


def _one_way(moves: Sequence[tuple[int, float]], back_ms: float) -> list[tuple[int, float]]:
    """The median of each size, without the way back."""
    by_size: dict[int, list[float]] = {}
    for size, ms in moves:
        by_size.setdefault(size, []).append(ms)
    return [(size, max(statistics.median(ms) - back_ms, back_ms / 4)) for size, ms in by_size.items()]
