"""What travels over a plan's edges, independent of how it is encoded.

Every edge of an admitted attempt carries exactly one of value, absent or error.
Two more kinds keep house: a cancel follows the edges downstream from the
requester, and a failure goes back upstream to it when an edge's consumer cannot
be reached or refuses.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.errors import CollabError, from_wire


class Kind(IntEnum):
    """Kinds of tokens; the numbers are those of ``envelope.proto``."""

    VALUE = 1
    ABSENT = 2
    ERROR = 3
    CANCEL = 4
    FAILED = 5


class Priority(IntEnum):
    """Classes of requests, who goes first last; the numbers are those of ``envelope.proto``."""

    LOW = 1
    NORMAL = 2
    HIGH = 3


class Key(NamedTuple):
    """Joins are keyed by this; tokens of different keys never meet."""

    plan: PlanName
    epoch: Epoch
    request: RequestId
    attempt: Attempt


class Fault(msgspec.Struct, frozen=True, gc=False):
    """An error as it travels: wire code, one-line message, and where it happened."""

    code: str
    message: str
    node: str = ""
    stage: str = ""
    granted: int | None = None
    """Of a refusal for lack of a credit: how many the requester holds there by now."""

    def to_error(self) -> CollabError:
        """The exception that the requester raises."""
        named = repr(self.node) in self.message and repr(self.stage) in self.message
        where = (
            f"node {self.node!r}, stage {self.stage!r}: " if self.node and self.stage and not named else ""
        )
        return from_wire(self.code, where + self.message)


class Hop(msgspec.Struct, frozen=True, gc=False):
    """Durations of one stage's work, each measured on that node's own clock, in µs."""

    stage: int
    """Index of the stage in the plan."""
    node: NodeName
    queue_us: int = 0
    decode_us: int = 0
    compute_us: int = 0
    encode_us: int = 0
    raw_bytes: int = 0
    """Of all tensors that the stage sent, as raw."""
    sent_bytes: int = 0
    """Of all tensors that the stage sent, as they travelled."""
    codec_error: float | None = None
    """Largest error of a lossy codec, relative to its tensor's range; None where it was not measured."""
    codec_fallbacks: int = 0
    """Tensors sent without loss because a lossy codec could not keep them within the plan's error."""

    @property
    def total_us(self) -> int:
        """Time in the node."""
        return self.queue_us + self.decode_us + self.compute_us + self.encode_us


class Token(msgspec.Struct, frozen=True, gc=False):
    """One token on one edge of one attempt."""

    key: Key
    edge: EdgeId
    """CANCEL and FAILED name the edge that they travel along, too."""
    kind: Kind
    requester: NodeName
    route: tuple[NodeName, ...]
    """The node that runs each stage in this attempt, by stage index."""
    deadline_us: int
    """On the local monotonic clock; the wire carries the remaining budget."""
    payload: Any = None
    """Of a VALUE: tensors by name, opaque to state machines."""
    fault: Fault | None = None
    """Of ERROR and FAILED."""
    reason: str = ""
    """Of ABSENT."""
    hops: tuple[Hop, ...] = ()
    """Work done on the critical path so far."""
    trace: bytes = b""
    sequence: int = 0
    """Number of this answer in its request; later kinds of plans stream several."""
    last: bool = True
    priority: Priority = Priority.NORMAL
