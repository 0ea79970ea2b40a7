"""A profile and a chain small enough to work out by hand."""

from __future__ import annotations

from collab.core.profile import (
    CodecAt,
    CodecSpeed,
    CutProfile,
    DeviceProfile,
    LinkEntry,
    Profile,
    ThreadedTimes,
)
from collab.planner.chains import Chain, Move, StageChoice
from tests.unit.core.trees import SHA

RAW, FP16 = Move(), Move(codec="fp16")


def profile(**changes) -> Profile:
    """Two devices of five operators and a requester outside; every link has 1 ms and 8 Mbit/s."""
    speed = CodecSpeed(codec="fp16", encode_mb_s=1.0, decode_mb_s=2.0)
    fields = {
        "model_sha256": SHA,
        "requester": "me",
        "input_bytes": 1000,
        "output_bytes": 2000,
        "cuts": (CutProfile(at=2, bytes=4000, codecs=(CodecAt(codec="fp16", ratio=2.0),)),),
        "devices": (
            DeviceProfile(
                name="a",
                memory_bytes=100,
                op_ms=(1.0,) * 5,
                op_bytes=(1,) * 5,
                codecs=(speed,),
                more_threads=(ThreadedTimes(threads=2, op_ms=(0.5,) * 5),),
            ),
            DeviceProfile(name="b", memory_bytes=100, op_ms=(2.0,) * 5, op_bytes=(1,) * 5, codecs=(speed,)),
        ),
        "links": tuple(
            LinkEntry(source=s, target=t, latency_ms=1.0, mbit_s=8.0)
            for s, t in (("me", "a"), ("a", "b"), ("b", "me"))
        ),
    }
    return Profile(**(fields | changes))


def two_stages(middle: Move = RAW) -> Chain:
    return Chain((StageChoice(0, 2, ("a",)), StageChoice(2, 5, ("b",))), (RAW, middle, RAW))
