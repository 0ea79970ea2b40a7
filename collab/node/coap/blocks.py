"""Bodies in blocks (RFC 7959), both ways, with bounds on what strangers can make this end hold.

Without I/O and without a clock: times are seconds on one monotonic clock that the caller reads.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.node.coap.answers import OVERLOADED_S, Code, Declined, Reply

BERT: Final = 7
"""Size exponent of blocks of many KiB, over reliable transports only (RFC 8323 6)."""
SMALLEST: Final = 16
"""Bytes of the smallest block (RFC 7959 2.2)."""


class Block(NamedTuple):
    """A Block1 or Block2 option (RFC 7959 2.2)."""

    number: int
    more: bool
    exponent: int

    @property
    def size(self) -> int:
        """Bytes of one block; with BERT of one of its parts."""
        return SMALLEST << min(self.exponent, 6)

    @property
    def start(self) -> int:
        """Where the block begins."""
        return self.number * self.size


@dataclass(frozen=True)
class BlockLimits:
    """What is held for clients at a time."""

    uploads: int = 16
    uploads_each: int = 4
    """For one host."""
    upload_bytes: int = 16 << 20
    """For all uploads together."""
    idle_s: float = 30.0
    """An upload of which nothing came for so long is forgotten (RFC 7959 2.4 leaves it to us)."""
    yield_s: float = 4.0
    """An upload that is idle for so long makes room for a new one: two of RFC 7252's ACK_TIMEOUT."""
    life_s: float = 120.0
    """An upload that takes longer is forgotten, however busy."""
    downloads: int = 64
    download_bytes: int = 16 << 20
    kept_s: float = 60.0
    """How long an answer is kept from which blocks are read."""


@dataclass
class _Upload:
    host: Hashable
    began_s: float
    heard_s: float
    body: bytearray = field(default_factory=bytearray)


class Uploads:
    """Requests' bodies on their way in."""

    def __init__(self, limits: BlockLimits = BlockLimits()) -> None:
        self._limits = limits
        self._held: OrderedDict[Hashable, _Upload] = OrderedDict()
        """Least recently heard first."""
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def feed(
        self, key: Hashable, host: Hashable, block: Block, payload: Buffer, most: int, now_s: float
    ) -> Buffer | None:
        """Take a block; the whole body with the last one, None before.

        ``most`` bounds this body.  Raises `Declined`: 4.00 for a block that cannot be, 4.08
        for one that does not follow the last, 4.13 (with Size1) for a body too long, 5.03
        where too many others upload.
        """
        self._expire(now_s)
        _check(block, payload)
        if block.start + len(payload) > most:
            self.forget(key)
            raise Declined(Code.TOO_LARGE, f"the body has more than {most} bytes", size1=most)
        if block.number == 0:
            self.forget(key)
            if not block.more:
                return payload
            self._make_room(host, now_s)
            self._held[key] = _Upload(host, now_s, now_s)
        upload = self._held.get(key)
        if upload is None or block.start != len(upload.body):
            self.forget(key)
            raise Declined(Code.INCOMPLETE, "this block does not follow the last; begin with block 0 again")
        if self.held_bytes + len(payload) > self._limits.upload_bytes:
            self.forget(key)
            raise Declined(
                Code.UNAVAILABLE, "too much is being uploaded here; try again later", max_age_s=OVERLOADED_S
            )
        upload.body += payload
        upload.heard_s = now_s
        self.held_bytes += len(payload)
        self._held.move_to_end(key)
        if block.more:
            return None
        self.forget(key)
        return memoryview(upload.body)

    def forget(self, key: Hashable) -> None:
        """Drop what is held of a body."""
        upload = self._held.pop(key, None)
        if upload is not None:
            self.held_bytes -= len(upload.body)

    def _expire(self, now_s: float) -> None:
        limits = self._limits
        for key, upload in tuple(self._held.items()):
            if now_s - upload.heard_s > limits.idle_s or now_s - upload.began_s > limits.life_s:
                self.forget(key)

    def _make_room(self, host: Hashable, now_s: float) -> None:
        by_host = Counter(upload.host for upload in self._held.values())
        crowded = by_host[host] >= self._limits.uploads_each
        if not crowded and len(self._held) < self._limits.uploads:
            return
        for key, upload in self._held.items():
            if now_s - upload.heard_s >= self._limits.yield_s and (not crowded or upload.host == host):
                self.forget(key)
                return
        raise Declined(
            Code.UNAVAILABLE, "too many uploads are under way; try again later", max_age_s=OVERLOADED_S
        )


def _check(block: Block, payload: Buffer) -> None:
    size = block.size
    if block.exponent == BERT:
        fits = bool(payload) and (len(payload) % size == 0 if block.more else True)
    else:
        fits = len(payload) == size if block.more else len(payload) <= size
    if not fits:
        raise Declined(Code.BAD_REQUEST, f"block {block.number} has {len(payload)} bytes, not {size}")


class Downloads:
    """Answers that are read in blocks; the least recently read make room."""

    def __init__(self, limits: BlockLimits = BlockLimits()) -> None:
        self._limits = limits
        self._held: OrderedDict[Hashable, tuple[Reply, float]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, key: Hashable, reply: Reply, now_s: float) -> None:
        """Hold an answer for a while; one longer than all that may be held is held alone."""
        self.forget(key)
        limits = self._limits
        while self._held and (
            len(self._held) >= limits.downloads or self.held_bytes + len(reply.body) > limits.download_bytes
        ):
            self.forget(next(iter(self._held)))
        self._held[key] = (reply, now_s)
        self.held_bytes += len(reply.body)

    def find(self, key: Hashable, now_s: float) -> Reply | None:
        """An answer that is held."""
        for old, (_, kept_s) in tuple(self._held.items()):
            if now_s - kept_s > self._limits.kept_s:
                self.forget(old)
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def forget(self, key: Hashable) -> None:
        """Drop an answer."""
        found = self._held.pop(key, None)
        if found is not None:
            self.held_bytes -= len(found[0].body)


def fitting(most: int) -> int:
    """The exponent of the largest block of at most ``most`` bytes, the smallest block if none is."""
    return max((e for e in range(7) if SMALLEST << e <= most), default=0)


def cut(body: Buffer, block: Block, most: int) -> tuple[bytes, Block] | None:
    """The bytes of one block of a body, and its option; ``most`` bounds those of BERT.

    None if the body ends before the block begins.
    """
    size = max(most // block.size, 1) * block.size if block.exponent == BERT else block.size
    if block.start >= len(body) and block.number:
        return None
    part = bytes(body[block.start : block.start + size])
    return part, Block(block.number, block.start + len(part) < len(body), block.exponent)
