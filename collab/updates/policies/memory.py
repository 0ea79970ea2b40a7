"""What a policy remembers between two looks: which levels were true, and since when another wants to be."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, Final, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import InputError
from collab.updates.policies.clauses import MAX_CLAUSES, Policy

MAX_MEMORY_BYTES: Final = 256 << 10


class Held(Frozen, frozen=True, kw_only=True):
    """One clause with hysteresis."""

    on: bool
    turning_s: Union[float, None] = None
    """Since when the measure says the opposite."""


class Memory(Frozen, frozen=True, kw_only=True):
    """Of one policy on one device; the clauses are named by their paths."""

    policy: str = ""
    """Digest of the policy that it is of: another one starts afresh."""
    held: dict[str, Held] = msgspec.field(default_factory=dict)

    def of(self, policy: Policy) -> Memory:
        """This one if it is of that policy, else an empty one."""
        digest = digest_of(policy)
        return self if self.policy == digest else Memory(policy=digest)


@functools.lru_cache(maxsize=64)
def digest_of(policy: Policy) -> str:
    """A SHA-256 in hexadecimal that changes with anything in a policy."""
    return hashlib.sha256(msgspec.json.encode(policy)).hexdigest()


def memory_of(tree: Any) -> Memory:
    """A memory from parsed JSON; raises `InputError` that names the field."""
    try:
        memory = msgspec.convert(tree, Memory)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"memory: {error}") from error
    if len(memory.held) > MAX_CLAUSES:
        raise InputError(f"memory.held: {len(memory.held)} are over {MAX_CLAUSES}")
    return memory


def turned(before: Held | None, begins: bool, stays: bool, now_s: float, hold_s: float) -> Held:
    """A Schmitt trigger whose every change has to last.

    Args:
        begins: the measure is at the bound that makes it true.
        stays: the measure is not past the bound that ends it; true wherever ``begins`` is.
        hold_s: how long the opposite must be seen without a break.  The first state counts at once.
    """
    if before is None:
        return Held(on=begins)
    wanted = stays if before.on else begins
    if wanted == before.on:
        return before if before.turning_s is None else Held(on=before.on)
    # A clock that was put back starts the wait anew.
    since = now_s if before.turning_s is None else min(before.turning_s, now_s)
    if now_s - since >= hold_s:
        return Held(on=wanted)
    return before if since == before.turning_s else Held(on=before.on, turning_s=since)


prepare(Memory)
