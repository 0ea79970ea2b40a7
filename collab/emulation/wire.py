"""What the emulator's process and whoever started it tell each other: a JSON object a line, by pipes."""

from __future__ import annotations

from typing import Final

import msgspec

from collab.emulation.ability import BackendName, Choice
from collab.emulation.devices import Limits
from collab.emulation.network import Network
from collab.emulation.profile import LinkProfile
from collab.emulation.traces import Opportunities, RateTrace

MAX_LINE: Final = 64 << 20


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what to make."""

    network: Network
    backend: BackendName
    seed: int
    mtu: int
    offload: bool
    limits: dict[str, Limits] = {}
    traces: dict[str, RateTrace] = {}
    opportunities: dict[str, Opportunities] = {}


class Change(msgspec.Struct, frozen=True, tag=True):
    """Another profile for a link."""

    one: str
    other: str
    profile: LinkProfile


class Restart(msgspec.Struct, frozen=True, tag=True):
    """Begin anew at time 0: models as at the start, with the profiles that they have now, counters at 0."""

    seed: int | None = None
    """Another one from then on."""


class Count(msgspec.Struct, frozen=True, tag=True):
    """Ask for the counters."""


Command = Change | Restart | Count


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a command, or the set-up, led to."""

    error: str = ""
    code: str = ""
    """Of the error's class."""
    namespaces: dict[str, int] = {}
    """Descriptors in the emulator's process."""
    groups: dict[str, list[str]] = {}
    """For each limited host the files that take ids of processes."""
    choice: Choice | None = None
    counts: msgspec.Raw = msgspec.Raw(b"null")
