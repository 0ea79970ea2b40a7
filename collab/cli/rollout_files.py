"""A rollout's file as people write it: plans found, the release read or fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from collab.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from collab.coordinator.rollout_folder import RolloutFolder
    from collab.updates.fetch.client import Releases
    from collab.updates.release import Release
    from collab.updates.rollout.definition import Labels, Rollout, Source

_CURRENT = ".current"
"""How the name of a file ends that says what took a plan's place; it is no target of its own."""


def begin_rollout(definition: Path, folder: RolloutFolder, now_s: float) -> None:
    """Read a rollout's file and keep all of it in a folder.

    Raises `ConfigError` or `InputError` for what is wrong, `UsageError` where there is a rollout
    already, and what fetching the release raises.
    """
    from collab.coordinator.rollout_folder import About
    from collab.updates.rollout.state import begin

    rollout = read_rollout(definition)
    base = definition.absolute().parent
    found = find_targets(rollout, base)
    _check_labels(rollout, [labels for _, labels in found.values()])
    source = _placed(rollout.release, base)
    release, data = _release(source)
    about = About(rollout=msgspec.structs.replace(rollout, release=source), release=release)
    folder.create(about, data, begin(rollout, found, now_s))


def read_rollout(path: Path) -> Rollout:
    """A checked rollout; raises `ConfigError` or `InputError`."""
    from collab.cli.files import read_yaml
    from collab.updates.rollout.definition import MAX_ROLLOUT_BYTES, rollout_of

    tree: Any = read_yaml("rollout", path, MAX_ROLLOUT_BYTES)
    try:
        return rollout_of(tree)
    except ConfigError as error:
        raise ConfigError(f"rollout {path}: {error}") from error


def find_targets(rollout: Rollout, base: Path) -> dict[str, tuple[str, Labels]]:
    """File and labels of each target by its plan's name; raises what is wrong with a file."""
    from collab.cli.files import read_plan
    from collab.updates.rollout.definition import MAX_TARGETS

    labels: dict[Path, Labels] = {}
    for number, one in enumerate(rollout.targets):
        paths = [path for path in sorted(_matching(base, one.plans)) if not path.stem.endswith(_CURRENT)]
        if not paths:
            raise ConfigError(f"targets.{number}.plans: {one.plans!r} is no file in {base}")
        for path in paths:
            labels[path] = {**labels.get(path, {}), **one.labels}
        if len(labels) > MAX_TARGETS:
            raise ConfigError(f"targets: over {MAX_TARGETS}; make it several rollouts")
    found: dict[str, tuple[str, Labels]] = {}
    for path, own in labels.items():
        plan = read_plan(path)
        if plan.name in found:
            raise ConfigError(
                f"targets: {path} and {found[plan.name][0]} are both of a plan named {plan.name!r}; "
                "give each a name of its own (collab plan --name)"
            )
        if len(plan.models) != 1:
            raise ConfigError(f"targets: {path}: is of {len(plan.models)} models; one can be updated")
        found[plan.name] = (str(path), own)
    return found


def _check_labels(rollout: Rollout, known: list[Labels]) -> None:
    """A wave that a typing error leaves empty would let the next one begin unseen."""
    for number, wave in enumerate(rollout.selections):
        if not any(wave.where.items() <= labels.items() for labels in known):
            raise ConfigError(
                f"waves.{number}.where: no target has the labels {wave.where}; name those of targets"
            )


def _matching(base: Path, pattern: str) -> list[Path]:
    if not any(mark in pattern for mark in "*?["):
        path = base / pattern
        return [path] if path.is_file() else []
    try:
        rest = Path(pattern)
        root, inner = (
            (Path(rest.anchor), rest.relative_to(rest.anchor)) if rest.is_absolute() else (base, rest)
        )
        return [path for path in root.glob(str(inner)) if path.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"targets: {pattern!r}: {error}") from error


def _placed(source: Source, base: Path) -> Source:
    """With whole paths, so that another process finds the same."""
    if source.bundle:
        return msgspec.structs.replace(source, bundle=str(base / source.bundle))
    place = source.source if "://" in source.source else str(base / source.source)
    return msgspec.structs.replace(source, source=place, store=str(base / source.store))


def _release(source: Source) -> tuple[Release, bytes]:
    """What is rolled out, and its file."""
    from collab.updates.release import Release, ReleaseInfo

    if source.bundle:
        data = _bytes(Path(source.bundle))
        made = Release(
            name=f"{source.family}/{source.channel}/{source.version}.collab",
            version=source.version,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            custom=ReleaseInfo(family=source.family, version=source.version),
        )
        return made, data
    releases = _releases(source)
    release = releases.newest(source.family, source.channel, source.version or None)
    if release is None:
        wanted = f"no version {source.version}" if source.version else "nothing"
        raise ConfigError(
            f"release: {source.source}: {source.channel} of {source.family} offers {wanted} for these devices"
        )
    return release, _bytes(releases.fetch(release, releases.bases(())).path)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"release: {path}: {error.strerror}") from error


def gone(source: Source, release: Release) -> Callable[[], str] | None:
    """Says why a release is offered no longer, or nothing; None where it came from no repository."""
    if not source.source:
        return None

    def look() -> str:
        newest = _releases(source).newest(source.family, source.channel)
        if newest is None:
            return f"{source.channel} of {source.family} offers nothing any more"
        if newest.version <= release.version:
            return ""
        if newest.custom.content_of:
            return f"it was taken back: version {newest.version} repeats {newest.custom.content_of}"
        return f"version {newest.version} is offered by now"

    return look


def _releases(source: Source) -> Releases:
    from collab.client.releases import is_link, open_source
    from collab.updates.fetch.client import Device, Releases

    if is_link(source.source):
        raise ConfigError(
            "release.source: is a node's; fetch it first (collab release fetch) and give the file as bundle"
        )
    return Releases(Path(source.store), open_source(source.source), Device(source.kinds))
