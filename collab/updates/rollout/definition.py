"""What a rollout is: a release, plans in waves, and how much may go wrong.  Checked as a whole."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil
from typing import Any, Final, Literal, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import check_name
from collab.core.plan import Frozen
from collab.errors import ConfigError, InputError
from collab.updates.health.bounds import read_bounds
from collab.updates.health.gate import Bounds
from collab.updates.policies.clauses import Day
from collab.updates.policies.windows import minutes_of, zone
from collab.updates.release import MAX_VERSION

MAX_ROLLOUT_BYTES: Final = 256 << 10
MAX_TARGETS: Final = 4_096
MAX_WAVES: Final = 64
MAX_SETS: Final = 256
MAX_LABELS: Final = 16
MAX_WINDOWS: Final = 16
MAX_PARALLEL: Final = 64
MAX_S: Final = 366 * 86_400.0
_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)\s*%")

Amount = Union[int, str]
"""A number of targets, or a share of them such as ``10%``."""
Labels = dict[str, str]


class Source(Frozen, frozen=True, kw_only=True):
    """The release: a packaged model's file, or one of a repository.

    Attributes:
        bundle: the file, seen from the definition's folder; then family and version say what it is.
        source: else the repository: an address, a folder or an exported archive.
        store: what this machine trusts and has seen of it, as `collab release fetch --store` takes it.
        family, channel: where in the repository it is.
        version: 0 is the newest when the rollout starts.
        kinds: what the devices are, where releases are for kinds of device.
    """

    bundle: str = ""
    source: str = ""
    store: str = ""
    family: str = ""
    channel: str = "stable"
    version: int = 0
    kinds: tuple[str, ...] = ()


class TargetSet(Frozen, frozen=True, kw_only=True):
    """Plans that the release goes into.

    Attributes:
        plans: a plan file or a glob of them, seen from the definition's folder.
        labels: what waves can choose them by.
    """

    plans: str
    labels: Labels = msgspec.field(default_factory=dict)


class Wave(Frozen, frozen=True, kw_only=True):
    """How many targets have their turn when the wave is over.

    Attributes:
        to: that many, those of earlier waves included.
        where: only targets with all of these labels, and ``to`` counts only them.
    """

    to: Amount
    where: Labels = msgspec.field(default_factory=dict)


class Open(Frozen, frozen=True, kw_only=True, rename={"start": "from"}):
    """A maintenance window: updates begin within it only."""

    start: str
    """Such as ``01:30``."""
    to: str
    """At or before ``from``: on the next day."""
    days: tuple[Day, ...] = ()
    """On which it opens; none means each."""
    zone: str = "UTC"


class Rollout(Frozen, frozen=True, kw_only=True):
    """A rollout as its file says it.

    Attributes:
        success: share of a wave's targets that must be healthy before the next wave.
        errors: so many targets that were dropped, rolled back or failed halt everything; a share is of all.
        on_failure: what halting does with targets that have the release by then.
        seed: of the order of targets; the same gives the same waves.
        soak_s: seconds of rest after each wave but the last.
        parallel: most targets under way at a time.
        deadline_s: longest time of one target's update.
        close_after_s: how long targets that are offline are waited for after the last wave.
        bounds: how good the release has to be in each plan.
        trial: whether requesters try it in each plan before it takes over there.
        patience_s: longest time without any request of a plan; None: as the bounds say.
    """

    name: str
    release: Source
    targets: tuple[TargetSet, ...]
    waves: tuple[Union[int, str, Wave], ...] = (1, "10%", "50%", "100%")
    seed: int = 0
    success: str = "90%"
    errors: Amount = 1
    on_failure: Literal["pause", "rollback"] = "pause"
    soak_s: float = 0.0
    parallel: int = 4
    deadline_s: float = 2 * 86_400.0
    close_after_s: float = 7 * 86_400.0
    windows: tuple[Open, ...] = ()
    bounds: Bounds = Bounds()
    trial: bool = True
    patience_s: Union[float, None] = None

    @property
    def selections(self) -> tuple[Wave, ...]:
        """The waves, each written out."""
        return tuple(wave if isinstance(wave, Wave) else Wave(to=wave) for wave in self.waves)


def count_of(amount: Amount, total: int) -> int:
    """Of so many; a share is rounded up."""
    return amount if isinstance(amount, int) else ceil(share_of(amount) * total)


def share_of(text: str) -> Fraction:
    """Read ``10%``; raises `ConfigError`."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or (found := Fraction(match[1]) / 100) > 1:
        raise ConfigError(f"{text[:20]!r} is no share; write one such as 10%")
    return found


def rollout_of(tree: Any) -> Rollout:
    """A rollout from parsed YAML; raises `ConfigError` that names the field and the remedy."""
    try:
        made = msgspec.convert(tree, Rollout)
    except (msgspec.ValidationError, RecursionError) as error:
        what, mark, where = str(error).rpartition(" - at `")
        path = where.rstrip("`").removeprefix("$").removeprefix(".") if mark else ""
        raise ConfigError(f"{path or 'rollout'}: {what if mark else error}") from error
    try:
        check_name(made.name, "name:")
    except InputError as error:
        raise ConfigError(str(error)) from error
    _check_release(made.release)
    for field, found, most in (
        ("targets", len(made.targets), MAX_SETS),
        ("waves", len(made.waves), MAX_WAVES),
    ):
        if not 1 <= found <= most:
            raise ConfigError(f"{field}: {found} entries; give 1 to {most}")
    for number, one in enumerate(made.targets):
        _check_labels(one.labels, f"targets.{number}.labels")
    for number, wave in enumerate(made.selections):
        _check_amount(wave.to, f"waves.{number}")
        _check_labels(wave.where, f"waves.{number}.where")
    _check_amount(made.success, "success")
    _check_amount(made.errors, "errors")
    _within(made.parallel, 1, MAX_PARALLEL, "parallel")
    for field, least in (("soak_s", 0.0), ("deadline_s", 1.0), ("close_after_s", 0.0)):
        _within(getattr(made, field), least, MAX_S, field)
    read_bounds(msgspec.to_builtins(made.bounds), "bounds")
    if made.patience_s is not None:
        _within(made.patience_s, 0, MAX_S, "patience_s")
    _check_windows(made.windows)
    return made


def _check_release(release: Source) -> None:
    if bool(release.bundle) == bool(release.source):
        raise ConfigError("release: give bundle, a file, or source, a repository; one of them")
    if release.source and not (release.family and release.store):
        raise ConfigError("release: source needs family, and store: the folder with what this machine trusts")
    if release.bundle and not (release.family and release.version):
        raise ConfigError("release: bundle needs family and version: nodes say by them what they run")
    _within(release.version, 0, MAX_VERSION, "release.version")
    if release.family:
        try:
            check_name(release.family, "release.family:")
        except InputError as error:
            raise ConfigError(str(error)) from error


def _check_amount(amount: Amount, field: str) -> None:
    if isinstance(amount, int):
        _within(amount, 1, MAX_TARGETS, field)
        return
    try:
        if not share_of(amount):
            raise ConfigError("0% is nothing; write a share such as 10%")
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from error


def _check_labels(labels: Labels, field: str) -> None:
    if len(labels) > MAX_LABELS:
        raise ConfigError(f"{field}: {len(labels)} are over {MAX_LABELS}")
    for text in (*labels, *labels.values()):
        if len(text) > 64:
            raise ConfigError(f"{field}: {text[:20]!r}: over 64 characters")


def _check_windows(windows: tuple[Open, ...]) -> None:
    if len(windows) > MAX_WINDOWS:
        raise ConfigError(f"windows: {len(windows)} are over {MAX_WINDOWS}")
    for number, window in enumerate(windows):
        for field, text in (("from", window.start), ("to", window.to)):
            if minutes_of(text) is None:
                raise ConfigError(
                    f"windows.{number}.{field}: {text[:20]!r} is no time; write HH:MM, such as 01:30"
                )
        if zone(window.zone) is None:
            raise ConfigError(
                f"windows.{number}.zone: {window.zone[:40]!r} is unknown here; write Europe/Berlin, say"
            )


def _within(value: float, low: float, high: float, field: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{field}: {value:g} is not within {low:g} to {high:g}")


prepare(Rollout)
