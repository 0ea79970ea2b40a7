"""The catalogue of devices and delegates: a YAML file that ships, and those that users add."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import yaml

from collab import assets
from collab.core.plan import Frozen
from collab.errors import ConfigError, UsageError

SHIPPED: Final = "devices.yaml"
MAX_CATALOGUE_BYTES: Final = 1 << 20

Positive = Annotated[int, msgspec.Meta(gt=0)]


class OperatorRule(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a delegate takes an operator; what is left out does not matter to it."""

    dtypes: tuple[str, ...] = ()
    """Of its activations, where they are fewer than the delegate's."""
    constant: tuple[int, ...] = ()
    """Positions of inputs that must be constants."""
    fused: tuple[str, ...] = ()
    """Fused activations beside NONE; empty takes any."""
    max_rank: int | None = None
    keep_dims: bool | None = None
    inputs: int | None = None
    """Most inputs that are not constant."""


class Delegate(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs parts of a model in place of LiteRT's own kernels, or in place of LiteRT itself."""

    title: str
    source: str
    """Where the operators and limits are from."""
    operators: dict[str, OperatorRule]
    dtypes: tuple[str, ...]
    """Of activations."""
    max_rank: int | None = None
    first_only: bool = False
    """Whether only operators before the first that it cannot take run on it."""
    whole_only: bool = False
    """Whether nothing runs what it cannot take, as on a microcontroller."""
    cache_bytes: int | None = None
    """Weights that its own memory holds; more travel at each inference."""
    library: str | None = None
    """Name for ``[runtime] delegate`` of a node."""


class Yardstick(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published or assumed time, from which a speed follows."""

    model: str
    macs: Positive
    ms: Annotated[float, msgspec.Meta(gt=0)]
    threads: Positive = 1
    source: str
    assumed: bool = False
    """Whether nobody measured it on this device."""

    @property
    def macs_per_ms(self) -> float:
        """Multiplications a millisecond."""
        return self.macs / self.ms


class Device(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of device."""

    title: str
    kind: str
    """linux, android, ios or micro."""
    memory_bytes: Positive
    """Memory that a program can have."""
    cores: Positive
    flash_bytes: Positive | None = None
    """Where weights lie, if not in memory."""
    runtime_bytes: int = 0
    """Memory that a node or firmware takes beside the model."""
    int8: bool = True
    fp16: bool = False
    """Whether its processor computes in float16."""
    delegates: tuple[str, ...]
    """Best first; a model gets the first that takes its heaviest operators."""
    speed: dict[str, Yardstick]
    """By delegate; ``cpu`` is what runs the rest."""
    unsupported: str | None = None
    """Why no current software runs on it."""
    notes: str = ""


class Catalogue(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices and delegates by name."""

    delegates: dict[str, Delegate] = msgspec.field(default_factory=dict)
    devices: dict[str, Device] = msgspec.field(default_factory=dict)

    def device(self, name: str) -> Device:
        """A device; raises `UsageError` that names the nearest."""
        if name in self.devices:
            return self.devices[name]
        near = difflib.get_close_matches(name, self.devices, 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"there is {', '.join(self.devices)}"
        raise UsageError(f"--device {name}: is not known; {hint} Your own go into a file for --catalogue")


@functools.cache
def shipped() -> Catalogue:
    """The catalogue that ships."""
    return _parse(assets.path(SHIPPED).read_bytes(), SHIPPED, {})


def with_file(known: Catalogue, path: Path) -> Catalogue:
    """A catalogue with a user's devices and delegates added; theirs win.

    Raises:
        ConfigError: the file cannot be read, or a field is wrong; it names which.
    """
    try:
        if path.stat().st_size > MAX_CATALOGUE_BYTES:
            raise ConfigError(f"--catalogue {path}: is over {MAX_CATALOGUE_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--catalogue {path}: {error.strerror}") from error
    more = _parse(data, f"--catalogue {path}", known.delegates)
    return Catalogue(delegates=known.delegates | more.delegates, devices=known.devices | more.devices)


def _parse(data: bytes, what: str, delegates: Mapping[str, Any]) -> Catalogue:
    try:
        text = data.decode()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ConfigError(f"{what}: has aliases; write it out")
        found = msgspec.convert(yaml.load(text, loader), Catalogue)  # noqa: S506 - a safe one either way
    except ConfigError:
        raise
    except (msgspec.ValidationError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())[:300]}") from error
    for name, device in found.devices.items():
        for delegate in device.delegates:
            if delegate not in found.delegates and delegate not in delegates:
                raise ConfigError(f"{what}: devices.{name}.delegates: {delegate!r} is not described")
        if "cpu" not in device.speed:
            raise ConfigError(f"{what}: devices.{name}.speed: has no cpu")
    return found
