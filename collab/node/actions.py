"""What the session asks its caller to do, and what comes back from workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Union

import msgspec

from collab.client.actions import Send
from collab.core.ids import EdgeId, Epoch, NodeName, PlanName
from collab.core.token import Hop, Key, Priority


class Work(NamedTuple):
    """Names one run of one stage for one attempt; opaque to workers."""

    key: Key
    stage: int


class Compute(msgspec.Struct, frozen=True, gc=False):
    """Run a stage and hand the result to `Session.computed`."""

    work: Work
    plan: PlanName
    epoch: Epoch
    stage: int
    """Index of the stage in the plan."""
    inputs: tuple[tuple[EdgeId, Any], ...]
    """What came on each in-edge, in edge order; None where a quorum fires without it, () where the guard
    of a member's numbers kept them back."""
    out_edges: tuple[EdgeId, ...]
    """The result has a payload for each, or says that its guard kept it back."""
    deadline_us: int
    priority: Priority
    requester: NodeName


class Drop(msgspec.Struct, frozen=True, gc=False):
    """A `Compute` whose result is not wanted any more; it may be done all the same."""

    work: Work


class Computed(msgspec.Struct, frozen=True, gc=False):
    """A stage's result, encoded for each out-edge."""

    payloads: Mapping[EdgeId, Any]
    skipped: frozenset[EdgeId]
    """Edges whose guard said no; they carry ABSENT."""
    hop: Hop


class Free(msgspec.Struct, frozen=True, gc=False):
    """Stop the workers of an epoch that was dropped; their results are no longer wanted."""

    plan: PlanName
    epoch: Epoch


Action = Union[Send, Compute, Drop, Free]
