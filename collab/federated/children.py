"""What a gateway tells of its children, as a message and bounded as it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal, get_args

from collab.codec.pb import control_pb2 as pb
from collab.federated.records import Behind

MAX_CHILDREN: Final = 256
"""Of one gateway; more are not looked at."""
MAX_NAME: Final = 128
MAX_REASON: Final = 200
"""Characters."""

Kind = Literal["counted", "declined", "failed", "refused", "late"]
_KINDS: Final[dict[str, Kind]] = {kind: kind for kind in get_args(Kind)}


def child_message(child: Behind) -> pb.ChildState:
    """As it is told."""
    return pb.ChildState(
        name=child.client,
        kind=child.kind,
        samples=child.samples,
        seconds=child.seconds,
        loss=child.loss,
        reason=child.reason,
        field=child.field,
    )


def read_children(messages: Iterable[pb.ChildState]) -> tuple[Behind, ...]:
    """What was told; an unknown kind is a failure, and numbers that cannot be are left out."""
    return tuple(_read(message) for message, _ in zip(messages, range(MAX_CHILDREN), strict=False))


def _read(message: pb.ChildState) -> Behind:
    loss = message.loss if message.HasField("loss") and math.isfinite(message.loss) else None
    return Behind(
        client=message.name[:MAX_NAME],
        kind=_KINDS.get(message.kind, "failed"),
        samples=min(int(message.samples), 1 << 53),
        loss=loss,
        seconds=message.seconds if math.isfinite(message.seconds) else 0.0,
        reason=message.reason[:MAX_REASON],
        field=message.field[:MAX_REASON],
    )
