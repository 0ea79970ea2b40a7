"""Measures a link by probing it, and codecs by running them, without taking more than a share of the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import Array, codec
from collab.core.profile import CodecSpeed
from collab.core.tensor import TensorSpec
from collab.errors import PeerUnreachable, UsageError
from collab.link.link import Link

SIZES: Final = (1_000, 16_384, 65_536, 262_144, 1_048_576, 4_000_000)
"""Body sizes of probes, in bytes."""
MAX_PROBE_BYTES: Final = 4 << 20
"""Most that a probe carries each way."""
MAX_BUDGET_MS: Final = 60_000.0
"""Most time that one measurement may take, pauses left out."""
LEAST_SHARE: Final = 0.05
"""Smallest share of the time that a measurement may be told to keep to."""
LINK_GAP_S: Final = 0.005
"""Pause before each probe at least: threads that sleep answer later, and between requests they do."""
_EMPTY_PROBES: Final = 4
"""Probes without a body for each round: the delay and its jitter are the hardest to see."""
_SLOW_MS: Final = 1_500.0
"""No larger body is tried where one takes this long."""
_PROBE_TIMEOUT_S: Final = 15.0
_MAX_LOST: Final = 3
"""Probes without an answer after which a link is given up."""
_LEAST_PAUSE_S: Final = 0.002
"""Shorter pauses are saved up: sleeping takes longer than asked."""
_MOST_CODEC_RUNS: Final = 200

Clock = Callable[[], float]
"""Monotonic time in seconds."""


def checked_share(share: float) -> float:
    """A share of the time that can be kept to, 0 meaning all of it; raises `UsageError`."""
    if not (share == 0 or LEAST_SHARE <= share <= 1):
        raise UsageError(f"share: {share:g}; give {LEAST_SHARE:g} to 1")
    return share or 1.0


class Pace:
    """Says how long to rest, so that work takes no more than a share of the time."""

    def __init__(self, share: float) -> None:
        self._rest = 1.0 / checked_share(share) - 1.0
        self._owed_s = 0.0

    def rest_s(self, spent_s: float) -> float:
        """Seconds to rest now, after that much work; 0 while they are few."""
        self._owed_s += spent_s * self._rest
        if self._owed_s < _LEAST_PAUSE_S:
            return 0.0
        owed, self._owed_s = self._owed_s, 0.0
        return owed


class Sample(NamedTuple):
    """One probe: bytes there and back, and the round trip in ms."""

    up_bytes: int
    down_bytes: int
    ms: float


@dataclass
class Probed:
    """What probes of one link gave."""

    samples: list[Sample] = field(default_factory=list)
    lost: int = 0
    """Probes that had no answer in time."""


async def probe_link(
    link: Link,
    *,
    sizes: Sequence[int] = SIZES,
    rounds: int = 5,
    budget_ms: float = 5_000.0,
    share: float = 1.0,
    clock: Clock = time.perf_counter,
) -> Probed:
    """Probe a link both ways: empty bodies, then larger ones there and back, in rounds.

    Raises `LinkLost`, or `PeerUnreachable` where nothing comes back.
    """
    found, pace, spent_ms = Probed(), Pace(share), 0.0
    kept = sorted(sizes)
    # The first calls of a link also warm up both ends.
    for _ in range(3):
        await _probe(link, 0, 0, found, clock)
    found.samples.clear()
    for number in range(rounds):
        slowest = {True: 0.0, False: 0.0}
        todo = [(0, 0)] * _EMPTY_PROBES + [pair for size in kept for pair in ((size, 0), (0, size))]
        for up, down in todo:
            if slowest[up > 0] > _SLOW_MS and up + down > kept[0]:
                continue
            ms = await _probe(link, up, down, found, clock)
            spent_ms += ms
            slowest[up > 0] = max(slowest[up > 0], ms)
            await asyncio.sleep(max(LINK_GAP_S, pace.rest_s(ms / 1000)))
            if spent_ms > budget_ms and number:
                return found
    return found


async def _probe(link: Link, up: int, down: int, found: Probed, clock: Clock) -> float:
    """One probe; the time that it took in ms."""
    body = pb.ProbeRequest(body=bytes(up), reply_bytes=down, timed=up + down > 0).SerializeToString()
    start = clock()
    try:
        data = await link.call("Probe", body, timeout_s=_PROBE_TIMEOUT_S)
    except PeerUnreachable:
        found.lost += 1
        if found.lost >= _MAX_LOST:
            raise
        return (clock() - start) * 1000
    ms = (clock() - start) * 1000
    # Tensors are not copied into messages as a probe's body is.
    handling_ms = pb.ProbeReply.FromString(bytes(data)).handling_us / 1000
    found.samples.append(Sample(up, down, max(ms - handling_ms, ms / 10)))
    return ms


def time_codec(
    name: str,
    tensors: Sequence[tuple[TensorSpec, Array]],
    *,
    budget_ms: float = 200.0,
    share: float = 1.0,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> CodecSpeed:
    """How fast a codec encodes and decodes these tensors here; blocks for as long as it takes.

    Takes the lower quartile of runs over all tensors: much of what slows others is not the codec.
    """
    coder, pace = codec(name), Pace(share)
    total = sum(spec.nbytes for spec, _ in tensors)
    encode_s: list[float] = []
    decode_s: list[float] = []
    while len(encode_s) < _MOST_CODEC_RUNS:
        begun = clock()
        encoded = [coder.encode(spec, array) for spec, array in tensors]
        between = clock()
        for tensor in encoded:
            codec(tensor.codec).decode(tensor.spec, tensor.data)
        done = clock()
        encode_s.append(between - begun)
        decode_s.append(done - between)
        if len(encode_s) > 1 and (sum(encode_s) + sum(decode_s)) * 1000 > budget_ms:
            break
        if (rest := pace.rest_s(done - begun)) > 0:
            sleep(rest)
    # A view costs next to nothing; no rate is infinite in a file.
    encode, decode = (max(sorted(times)[len(times) // 4], 1e-7) for times in (encode_s, decode_s))
    encode_mb_s, decode_mb_s = (float(f"{total / 1e6 / taken:.5g}") for taken in (encode, decode))
    return CodecSpeed(codec=name, encode_mb_s=encode_mb_s, decode_mb_s=decode_mb_s)
