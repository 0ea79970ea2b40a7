"""What the runner tells the processes that ask, and what they answer: a JSON object a line, by pipes."""

from __future__ import annotations

from typing import Final

import msgspec

from collab.core.profile import Profile
from collab.emulation.results import Asking
from collab.emulation.turns import Turns

MAX_LINE: Final = 64 << 20


class DeskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process that asks is started with."""

    host: str
    endpoints: dict[str, tuple[str, ...]]
    """Of the nodes, by name."""
    model: str
    identity: str | None = None
    """None: without encryption."""
    attempts: int = 3
    hedge: bool = False
    deadline_ms: float = 30_000.0
    seed: int = 0


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Time the model on every node."""

    codecs: tuple[str, ...] = ()


class Deploy(msgspec.Struct, frozen=True, tag=True):
    """Bring a plan up on its nodes."""

    plan: str
    """Its file."""
    folder: str
    """From which its models' paths lead."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Have links to a deployed plan's nodes, and credits."""

    plan: str
    credits: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Ask what is open, as often as the turns say."""

    turns: Turns
    begin_s: float
    """On the clock that all processes of a machine share."""
    repetition: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Let go what is open."""


class Undeploy(msgspec.Struct, frozen=True, tag=True):
    """Free the plan that was deployed here."""


Order = Measure | Deploy | Open | Ask | Close | Undeploy


class Done(msgspec.Struct, frozen=True, tag=True):
    """The order was carried out; also said when the process is ready."""

    profile: Profile | None = None
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It was not."""

    code: str
    message: str


class Asked(msgspec.Struct, frozen=True, tag=True):
    """One request has ended; the order goes on."""

    asking: Asking


Answer = Done | Failed | Asked
