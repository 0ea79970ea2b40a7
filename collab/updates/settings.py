"""Settings of whoever keeps plans at their releases: a controller, or a node for plans of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from collab.core.ids import check_name
from collab.errors import ConfigError
from collab.updates.health.bounds import read_bounds
from collab.updates.health.gate import Bounds

MAX_PLANS: Final = 64
MAX_WORDS: Final = 64

Cadence = Annotated[float, msgspec.Meta(ge=0.05, le=86_400)]
Hours = Annotated[float, msgspec.Meta(ge=0, le=24 * 366)]


class ReleaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One family of releases, and the plans that run it; without a source nothing is done."""

    source: str = ""
    """Where releases come from: an address, a folder, or an exported archive."""
    family: str = ""
    channel: str = "stable"
    plans: tuple[Path, ...] = ()
    """Files of the plans that run the family's newest release."""
    store: Path | None = None
    """Folder of the store of releases; a node has one in its own store."""
    trust: Path | None = None
    """The repository's first root, taken at the first start."""
    kind: tuple[str, ...] = ()
    """Kinds of device that the plans' nodes are; releases for others are not taken."""
    runtime: str = ""
    """Runtime class that releases may ask for."""
    policy: Path | None = None
    """What decides: a policy file."""
    policy_kind: str = "rules"
    """What reads the file: ``rules``, or a name of the entry point group ``collab.policies``."""
    rate_kb_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Most kB a second that a download takes; 0 does not limit."""
    cadence_s: Cadence = 60.0
    """Seconds between two looks at what the nodes report."""
    nearby: tuple[str, ...] = ()
    """HOST:PORT of nodes that are asked for a release's content first."""
    trial: bool = True
    """Whether requesters try a release before it is put in; without, its golden inputs decide."""
    bounds: Bounds = Bounds()
    """How good a release has to be."""
    round: tuple[str, ...] = ()
    """Words after ``collab`` of the command that runs a federated round; ``{n}`` in them is its number."""
    round_pause_h: Hours = 24.0
    """Hours after a round before the policy gets another."""

    def check(self) -> ReleaseSettings:
        """Return self, or raise `ConfigError` that names the setting."""
        missing = [name for name in ("source", "family", "plans", "policy") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"settings: releases.{missing[0]} is missing; see docs/releases/devices.md")
        for name, found, most in (
            ("plans", len(self.plans), MAX_PLANS),
            ("nearby", len(self.nearby), MAX_PLANS),
            ("round", len(self.round), MAX_WORDS),
        ):
            if found > most:
                raise ConfigError(f"settings: releases.{name}: {found} are over {most}")
        check_name(self.family, "settings: releases.family:")
        read_bounds(msgspec.to_builtins(self.bounds), "settings: releases.bounds")
        return self
