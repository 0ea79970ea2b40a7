"""What a repository holds, who signs it, and what somebody has to do soon."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from collab.updates.repository.keys import keys_of
from collab.updates.repository.metadata import DAYS, delegator_of
from collab.updates.repository.publishing import TOP, Repository

SOON: Final = 0.25
"""Share of a role's days that is left when its end is warned of."""


def overview(repository: Repository, now: datetime) -> dict[str, Any]:
    """Releases, roles and warnings, as JSON has them."""
    metadatas = repository.metadatas
    roles, warnings = [], []
    for role in (*TOP, *repository.roles()):
        current, staged = metadatas.current(role), metadatas.waiting(role)
        delegator = metadatas.newest(delegator_of(role)).signed
        left = None if current is None else (current.signed.expires - now).total_seconds() / 86400
        roles.append(
            {
                "role": role,
                "version": None if current is None else current.signed.version,
                "threshold": delegator.get_delegated_role(role).threshold,
                "keys": [key.keyid for key in keys_of(delegator, role)],
                "days_left": None if left is None else round(left, 2),
                "staged": None if staged is None else staged.signed.version,
            }
        )
        warnings += _warnings(repository, role, left, staged is not None)
    return {"releases": _releases(repository), "roles": roles, "warnings": warnings}


def _warnings(repository: Repository, role: str, left: float | None, staged: bool) -> list[str]:
    found = []
    days = repository.metadatas.newest("root").signed.unrecognized_fields.get(DAYS, {})
    whole = days.get(role.rpartition(".")[2], 30)
    how = "refresh" if role in ("snapshot", "timestamp") else f"refresh --role {role}"
    if left is not None and left <= 0:
        found.append(f"{role} has ended: devices refuse it; run `collab release {how}`")
    elif left is not None and left < SOON * whole:
        found.append(f"{role} ends in {left:.1f} days; run `collab release {how}`")
    if staged:
        found.append(f"{role} waits for signatures; run `collab release sign`")
    return found


def _releases(repository: Repository) -> list[dict[str, Any]]:
    found = []
    for role in repository.roles():
        family, _, channel = role.rpartition(".")
        current = repository.metadatas.current(role)
        served = set() if current is None else set(current.signed.targets)
        for file, info in repository.releases(role):
            found.append(
                {
                    "family": family,
                    "channel": channel,
                    "version": info.version,
                    "size": file.length,
                    "sha256": file.hashes["sha256"],
                    "deltas": msgspec.to_builtins(info.deltas),
                    "state": "served" if file.path in served else "waits for signatures",
                }
            )
    return found
