"""What a policy is to whoever acts on it, and the one that ships: rules from a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args

from collab.errors import CollabError, ConfigError
from collab.updates.policies.clauses import MAX_CLAUSES, Action, Policy
from collab.updates.policies.decide import Decision, decide
from collab.updates.policies.memory import Memory, digest_of
from collab.updates.policies.state import DeviceState

FREE: Final[Mapping[Action, str]] = MappingProxyType({})
"""Nothing stands in the way of any action."""

MakePolicy = Callable[[Path], "UpdatePolicy"]
"""A policy from a user's file; raises `ConfigError` or `InputError`.  May block."""


class UpdatePolicy(ABC):
    """Decides what a device does about releases.

    Deciding is pure: no I/O, no clock but ``state.time_s``, no randomness, nothing kept between two
    calls.  The same arguments give the same decision, so a dry run is the same call.  It is called
    from one thread at a time, not the event loop's, and takes milliseconds.
    """

    name: str
    digest: str
    """Changes with anything in the policy: a memory of another digest is not its own."""

    def decide(
        self, state: DeviceState, memory: Memory = Memory(), cannot: Mapping[Action, str] = FREE
    ) -> Decision:
        """What to do now, why, and what to remember.

        The decision's action is never one of ``cannot``, which says for each why not; its memory is
        of this policy and bounded; its ``again_s`` is in the future or None.

        Raises `ConfigError` if the policy itself is at fault, whatever it did.
        """
        own = memory if memory.policy == self.digest else Memory(policy=self.digest)
        try:
            decision = self._decide(state, own, cannot)
        except CollabError:
            raise
        except Exception as error:
            raise ConfigError(f"policy {self.name!r} failed: {type(error).__name__}: {error}") from error
        return self._checked(decision, cannot)

    @abstractmethod
    def _decide(self, state: DeviceState, memory: Memory, cannot: Mapping[Action, str]) -> Decision:
        """As `decide` says; ``memory`` is this policy's own, or empty under its digest."""

    def _checked(self, decision: Decision, cannot: Mapping[Action, str]) -> Decision:
        fault = ""
        if decision.action not in get_args(Action):
            fault = f"action {decision.action!r} is not known"
        elif decision.action in cannot:
            fault = f"{decision.action} cannot be done: {cannot[decision.action]}"
        elif decision.memory.policy != self.digest or len(decision.memory.held) > MAX_CLAUSES:
            fault = f"its memory is another policy's, or over {MAX_CLAUSES} entries"
        if fault:
            raise ConfigError(f"policy {self.name!r} failed: {fault}")
        return decision


class RulePolicy(UpdatePolicy):
    """The rules of a policy file (`collab.updates.policies.clauses`)."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name = policy.name
        self.digest = digest_of(policy)

    def _decide(self, state: DeviceState, memory: Memory, cannot: Mapping[Action, str]) -> Decision:
        return decide(self._policy, state, memory, cannot)
