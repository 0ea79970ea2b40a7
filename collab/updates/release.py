"""What is signed about a release beside its size and digest: for whom it is and where it comes from."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import check_digest, check_name
from collab.core.plan import Frozen
from collab.errors import InputError, ProtocolError

FORMAT: Final = 1
MAX_DELTAS: Final = 16
MAX_DEVICES: Final = 64
MAX_CUTS: Final = 256
MAX_PARTS: Final = 256
MAX_TEXT: Final = 256
MAX_VERSION: Final = 2**53
"""Larger numbers do not survive every reader of JSON."""
MAX_RELEASE_BYTES: Final = 4 << 30

DeltaKind = Literal["zstd", "bsdiff", "planes"]


class Delta(Frozen, frozen=True, kw_only=True):
    """A file that makes a release of one that a device already has."""

    base_sha256: str
    kind: DeltaKind
    size: int
    sha256: str

    def check(self) -> None:
        """Raise `InputError` that names the field."""
        check_digest(self.base_sha256, "deltas: base_sha256:")
        check_digest(self.sha256, "deltas: sha256:")
        if not 0 < self.size <= MAX_RELEASE_BYTES:
            raise InputError(f"deltas: size: {self.size} is not within 1 to {MAX_RELEASE_BYTES}")


class Provenance(Frozen, frozen=True, kw_only=True):
    """Where a release comes from; empty says nothing."""

    card_sha256: str = ""
    """Digest of the training data's card."""
    federated_task: str = ""
    federated_round: int = 0


class ReleaseInfo(Frozen, frozen=True, kw_only=True):
    """The signed custom metadata of a release.

    Attributes:
        family: releases of one family replace each other.
        version: grows with each release of a family; what was withdrawn comes back under a new one.
        devices: kinds of devices that it is for; empty means all.
        runtime: what the runtime class has to start with, such as ``litert``; empty means any.
        plan_sha256: digest of the plan that it is for; empty for a whole model.
        cuts: cuts of that plan.
        deltas: ways to make it of an older release, smallest first.
        accuracy: on examples held out, as its publisher measured it; None where nobody said.
        content_of: version whose content it repeats, 0 if it is new.
        parts: SHA-256 of each part of the file, so that a node nearby that lies is found at once; see
            `collab.updates.fetch.parts`.
    """

    format: int = FORMAT
    family: str
    version: int
    devices: tuple[str, ...] = ()
    runtime: str = ""
    plan_sha256: str = ""
    cuts: tuple[int, ...] = ()
    preprocessing_sha256: str = ""
    provenance: Provenance = Provenance()
    golden_inputs_sha256: str = ""
    golden_outputs_sha256: str = ""
    accuracy: float | None = None
    deltas: tuple[Delta, ...] = ()
    content_of: int = 0
    parts: tuple[str, ...] = ()

    def check(self) -> ReleaseInfo:
        """Return self, or raise `InputError` that names the field."""
        if self.format != FORMAT:
            raise InputError(f"format: {self.format}, this collab reads {FORMAT}; use a newer collab")
        check_name(self.family, "family:")
        if not 1 <= self.version <= MAX_VERSION:
            raise InputError(f"version: {self.version} is not within 1 to {MAX_VERSION}")
        for field, found, most in (
            ("devices", len(self.devices), MAX_DEVICES),
            ("cuts", len(self.cuts), MAX_CUTS),
            ("deltas", len(self.deltas), MAX_DELTAS),
            ("parts", len(self.parts), MAX_PARTS),
        ):
            if found > most:
                raise InputError(f"{field}: {found} are over {most}")
        for text in (self.runtime, self.provenance.federated_task, *self.devices):
            if len(text) > MAX_TEXT:
                raise InputError(f"{text[:40]!r}: over {MAX_TEXT} characters")
        for field, digest in (
            ("plan_sha256", self.plan_sha256),
            ("preprocessing_sha256", self.preprocessing_sha256),
            ("golden_inputs_sha256", self.golden_inputs_sha256),
            ("golden_outputs_sha256", self.golden_outputs_sha256),
            ("provenance.card_sha256", self.provenance.card_sha256),
        ):
            if digest:
                check_digest(digest, f"{field}:")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise InputError(f"accuracy: {self.accuracy} is not within 0 to 1")
        for digest in self.parts:
            check_digest(digest, "parts:")
        for delta in self.deltas:
            delta.check()
        return self


class Release(Frozen, frozen=True, kw_only=True):
    """One release as it was signed.

    Attributes:
        name: its path in the repository, ``FAMILY/CHANNEL/VERSION.collab``.
        sha256: of the whole file.
    """

    name: str
    version: int
    sha256: str
    size: int
    custom: ReleaseInfo


def to_custom(info: ReleaseInfo) -> dict[str, Any]:
    """As plain values, for a target's ``custom`` field."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(info))
    return {"format": info.format} | fields


def from_custom(custom: object, what: str) -> ReleaseInfo:
    """Read a target's ``custom`` field; raises `ProtocolError`."""
    try:
        return msgspec.convert(custom, ReleaseInfo).check()
    except (msgspec.ValidationError, InputError, RecursionError) as error:
        raise ProtocolError(f"{what}: custom: {error}") from error


prepare(ReleaseInfo)
