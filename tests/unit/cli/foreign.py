"""A profile of a camera, a gateway and a fast board, with names of operators that nobody checked."""

from __future__ import annotations

from msgspec.structs import replace

from collab.core.profile import CodecAt, CodecSpeed, Profile
from collab.planner.chains import Chain, Move
from tests.unit.planner.profiles import chain, device, link, meshed, profile

LZ4 = Move("grpc", "raw+lz4")
SPEEDS = (CodecSpeed(codec="raw+lz4", encode_mb_s=900, decode_mb_s=2000),)
KNOWN = (CodecAt(codec="raw+lz4", ratio=1.4),)
CAMERA = "camera.of.the.north.gate.with.a.name.as.long.as.names.may.be-01"


def make(requester: str | None = "cam", **fields) -> Profile:
    """Six operators, the camera is the requester."""
    made = profile(
        [
            device("cam", (6.0,) * 6, 2 * 10**9, 4_000_000, stage_ms=0.3, codecs=SPEEDS),
            device("board", (0.9,) * 6, 8 * 10**9, 4_000_000, stage_ms=0.3, codecs=SPEEDS, threads=4),
            device("gate", (2.0,) * 6, 15 * 10**6, 4_000_000, stage_ms=0.3, codecs=SPEEDS),
            device(CAMERA, (6.0,) * 6, 2 * 10**9, 4_000_000),
        ],
        [
            *meshed("cam", "board", "gate", latency_ms=2.5, mbit_s=90.0),
            *(each for a in ("cam", "board") for each in (link(a, CAMERA), link(CAMERA, a))),
        ],
        cuts=(301_056, 250_880, 125_440, 62_720, 31_360),
        requester=requester,
        model="/models/vision <b>&.tflite",
        operators=("CONV_2D", "\x1b[2J<evil>&\"'", "ADD", "ADD", "ADD", "SOFTMAX"),
    )
    made = replace(made, cuts=tuple(replace(cut, codecs=KNOWN) for cut in made.cuts))
    changed: Profile = replace(made, **fields)
    return changed


CHAINS: dict[str, Chain] = {
    "two devices": chain((2, "cam"), (6, "board"), moves=(Move(), LZ4, Move())),
    "replicas": chain((2, "cam"), (4, "gate+board"), (6, "board")),
    "one device": chain((6, "board")),
    "long names": chain((1, CAMERA), (6, "board")),
    "six stages": chain((1, "cam"), (2, "board"), (3, "gate"), (4, "board"), (5, "cam"), (6, "board")),
}
