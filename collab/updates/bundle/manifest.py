"""``manifest.json`` of a packaged model: what is in it, with the SHA-256 of every file.

The manifest's own SHA-256 is the digest of the whole: who trusts it trusts all files.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.ids import check_digest, check_name
from collab.core.plan import Frozen
from collab.core.preprocessing import Quantisation
from collab.core.tensor import TensorSpec
from collab.errors import InputError, ModelError, TensorError

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".collab"

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_FILES: Final = 64
MAX_FILE_BYTES: Final = 4 << 30
MAX_SIDE_BYTES: Final = 16 << 20
"""Of preprocessing, labels, card and reference."""
MAX_GOLDEN_BYTES: Final = 256 << 20
MAX_VARIANTS: Final = 16
MAX_LABELS: Final = 100_000
MAX_TEXT: Final = 1024
MAX_NOTES: Final = 64
"""Devices, and entries of the provenance."""

QUANTISED: Final = ("int8", "uint8", "int16")
"""Types of tensors whose integers may stand for real numbers."""

_PATH: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}(/[a-z0-9][a-z0-9_.-]{0,99}){0,2}")


class File(Frozen, frozen=True, kw_only=True):
    """One file of the bundle."""

    file: str
    sha256: str
    bytes: int


class Port(Frozen, frozen=True, kw_only=True):
    """An input or output of the model."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantisation: Quantisation | None = None

    @property
    def spec(self) -> TensorSpec:
        """As plans say it."""
        return TensorSpec(self.name, self.shape, self.dtype)


class Variant(Frozen, frozen=True, kw_only=True):
    """The same model for another back end."""

    backend: str
    file: File
    note: str = ""


class Golden(Frozen, frozen=True, kw_only=True):
    """Inputs with the answers that the model gave when it was packaged, one raw file for each tensor."""

    count: int
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    runtime_class: str
    """Answers are equal within it and close elsewhere."""


class About(Frozen, frozen=True, kw_only=True):
    """What people and rollouts want to know."""

    name: str
    version: str = ""
    devices: tuple[str, ...] = ()
    """Profiles of devices that it was checked for; empty says nothing."""
    provenance: dict[str, str] = msgspec.field(default_factory=dict)
    """Where it comes from: digests of data and training, licence, commit."""


class Manifest(Frozen, frozen=True, kw_only=True):
    """The file."""

    version: int = VERSION
    about: About
    model: File
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: File | None = None
    labels: File | None = None
    card: File | None = None
    reference: File | None = None
    golden: Golden | None = None
    variants: tuple[Variant, ...] = ()

    @property
    def files(self) -> tuple[File, ...]:
        """All that it names."""
        single = (self.model, self.preprocessing, self.labels, self.card, self.reference)
        golden = () if self.golden is None else (*self.golden.inputs, *self.golden.outputs)
        return (*(one for one in single if one is not None), *golden, *(v.file for v in self.variants))

    def check(self) -> Manifest:
        """Return self, or raise `ModelError` that names the field."""
        if self.version != VERSION:
            raise ModelError(
                f"{MANIFEST}: version {self.version}, this collab reads {VERSION}; use a newer collab"
            )
        if len(self.files) > MAX_FILES:
            raise ModelError(f"{MANIFEST}: {len(self.files)} files are over {MAX_FILES}")
        _check_files(self)
        if not self.inputs or not self.outputs:
            raise ModelError(f"{MANIFEST}: inputs and outputs must be there")
        for port in (*self.inputs, *self.outputs):
            _check_port(port)
        _check_about(self.about)
        if len(self.variants) > MAX_VARIANTS:
            raise ModelError(f"{MANIFEST}: {len(self.variants)} variants are over {MAX_VARIANTS}")
        if len({variant.backend for variant in self.variants}) != len(self.variants):
            raise ModelError(f"{MANIFEST}: two variants are for one back end")
        if self.golden is not None:
            _check_golden(self, self.golden)
        return self


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's bytes: the same for the same content."""
    fields = {"version": manifest.version} | msgspec.to_builtins(manifest)
    return msgspec.json.format(msgspec.json.encode(fields, order="deterministic"), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Read and check the file; raises `ModelError`."""
    try:
        return msgspec.json.decode(data, type=Manifest).check()
    except (InputError, TensorError) as error:
        raise error if isinstance(error, ModelError) else ModelError(f"{MANIFEST}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{MANIFEST}: {error}") from error


def _check_files(manifest: Manifest) -> None:
    names = [entry.file for entry in manifest.files]
    side = (manifest.preprocessing, manifest.labels, manifest.card, manifest.reference)
    small = {one.file for one in side if one is not None}
    for entry in manifest.files:
        if not _PATH.fullmatch(entry.file) or ".." in entry.file or entry.file == MANIFEST:
            raise ModelError(f"{MANIFEST}: {entry.file[:80]!r} cannot be the name of a file in it")
        if names.count(entry.file) > 1:
            raise ModelError(f"{MANIFEST}: {entry.file!r} stands there twice")
        check_digest(entry.sha256, f"{MANIFEST}: sha256 of {entry.file}:")
        most = MAX_SIDE_BYTES if entry.file in small else MAX_FILE_BYTES
        if not 0 <= entry.bytes <= most:
            raise ModelError(f"{MANIFEST}: {entry.file} has {entry.bytes} bytes, over {most}")


def _check_port(port: Port) -> None:
    port.spec.check()
    quantisation = port.quantisation
    if quantisation is None:
        return
    if port.dtype not in QUANTISED:
        raise ModelError(f"{MANIFEST}: tensor {port.name!r} is {port.dtype} and has a quantisation")
    if not (math.isfinite(quantisation.scale) and quantisation.scale > 0):
        raise ModelError(f"{MANIFEST}: tensor {port.name!r} has scale {quantisation.scale}")


def _check_about(about: About) -> None:
    check_name(about.name, f"{MANIFEST}: name")
    if len(about.devices) > MAX_NOTES or len(about.provenance) > MAX_NOTES:
        raise ModelError(f"{MANIFEST}: over {MAX_NOTES} devices, or entries of the provenance")
    texts = (about.version, *about.devices, *about.provenance, *about.provenance.values())
    if any(len(text) > MAX_TEXT for text in texts):
        raise ModelError(f"{MANIFEST}: about: a text is over {MAX_TEXT} characters")


def _check_golden(manifest: Manifest, golden: Golden) -> None:
    for what, files, ports in (
        ("inputs", golden.inputs, manifest.inputs),
        ("outputs", golden.outputs, manifest.outputs),
    ):
        if len(files) != len(ports):
            raise ModelError(f"{MANIFEST}: golden.{what}: {len(files)} files for {len(ports)} tensors")
        for file, port in zip(files, ports, strict=True):
            if file.bytes != golden.count * port.spec.nbytes or file.bytes > MAX_GOLDEN_BYTES:
                raise ModelError(
                    f"{MANIFEST}: golden.{what}: {file.file} has {file.bytes} bytes, not those of "
                    f"{golden.count} times {port.dtype}{list(port.shape)}"
                )


prepare(Manifest)
