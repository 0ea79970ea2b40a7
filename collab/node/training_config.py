"""Settings of training on a node: whose data, how much of the device, and when."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from collab.errors import ConfigError
from collab.federated.children import MAX_CHILDREN

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(gt=0)]

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY_MINUTES: Final = 24 * 60


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[training]`` of a node's settings; without ``data`` the node does not train."""

    data: str = ""
    """Where the examples are: a folder or a file, or ``NAME:…`` of an entry point."""
    trainer: str = "litert"
    gateways: tuple[str, ...] = ()
    """Nodes that may have this one train, by name; operators may always."""
    children: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_CHILDREN)] = ()
    """Addresses of nodes that train in this one's place: it is their gateway, and sends one sum on."""
    masked: bool = False
    """Whether to train only where secure aggregation hides the update."""
    samples: Count | None = None
    """Most examples that it enrols with."""
    seconds: Positive = 3600.0
    """Most time of one training."""
    memory_mb: Positive | None = None
    """Most that the process may grow while it trains, in 10^6 bytes."""
    energy_j: Positive | None = None
    """Most energy of one training, in J; only where the processors count it."""
    idle: bool = False
    """Whether to train only while the device has little else to do."""
    idle_load: Annotated[float, msgspec.Meta(gt=0, le=64)] = 0.5
    """What little is: load average of one minute by cores."""
    charging: bool = False
    """Whether to train only on external power."""
    unmetered: bool = False
    """Whether to train only while the default route is over an unmetered network."""
    metered_devices: tuple[str, ...] = ("wwan", "ppp", "rmnet", "usb")
    """How the names of metered network devices begin."""
    hours: str = ""
    """When to train, local time: ``22:00-06:00``; empty for always."""


def minutes_of(hours: str) -> tuple[int, int] | None:
    """Minutes of the day, ``[start, stop)``, which may go past midnight; None for always.

    Raises `ConfigError`.
    """
    if not hours:
        return None
    found = _HOURS.fullmatch(hours)
    if found is None:
        raise ConfigError(f"training.hours: {hours!r}; write HH:MM-HH:MM, such as 22:00-06:00")
    numbers = [int(group) for group in found.groups()]
    return numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]


def within(hours: tuple[int, int] | None, minute: int) -> bool:
    """Whether a minute of the day is within hours; equal ends stand for the whole day."""
    if hours is None or hours[0] == hours[1]:
        return True
    start, stop = hours
    return (minute - start) % _DAY_MINUTES < (stop - start) % _DAY_MINUTES
