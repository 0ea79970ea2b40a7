"""Writes a packaged model: the same bytes for the same content."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import Preprocessing, to_json
from collab.errors import InputError
from collab.updates.bundle.manifest import (
    MANIFEST,
    About,
    File,
    Golden,
    Manifest,
    Port,
    Variant,
    encode_manifest,
)
from collab.updates.bundle.read import Bundle, open_bundle
from collab.updates.policies.reference import ReferenceFile, encode_reference

_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The least that a zip file can say; it says nothing."""
_MODE: Final = 0o100644 << 16

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What goes into a bundle.

    Attributes:
        golden: inputs and answers by tensor name, with a leading axis, and the runtime class.
        variants: model bytes, the file's name and a note by back end.
    """

    about: About
    model: bytes
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    preprocessing: Preprocessing | None = None
    labels: Sequence[str] = ()
    card: bytes | None = None
    reference: ReferenceFile | None = None
    golden: tuple[Arrays, Arrays, str] | None = None
    variants: Mapping[str, tuple[bytes, str, str]] = field(default_factory=dict)


def encode_bundle(parts: Parts) -> bytes:
    """A bundle's bytes.

    Raises:
        ModelError: what it would hold is over a bound.
    """
    files: dict[str, bytes] = {}

    def add(name: str, data: bytes) -> File:
        files[name] = data
        return File(file=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    manifest = Manifest(
        about=parts.about,
        model=add("model.tflite", parts.model),
        inputs=tuple(parts.inputs),
        outputs=tuple(parts.outputs),
        preprocessing=None
        if parts.preprocessing is None
        else add("preprocessing.json", to_json(parts.preprocessing)),
        labels=add("labels.json", msgspec.json.encode(list(parts.labels))) if parts.labels else None,
        card=None if parts.card is None else add("card.md", parts.card),
        reference=None
        if parts.reference is None
        else add("reference.json", encode_reference(parts.reference)),
        golden=None if parts.golden is None else _golden(parts, parts.golden, add),
        variants=tuple(
            Variant(backend=backend, file=add(f"variants/{backend}/{name}", data), note=note)
            for backend, (data, name, note) in sorted(parts.variants.items())
        ),
    ).check()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: encode_manifest(manifest), **files}.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, _MODE
            archive.writestr(entry, data)
    return target.getvalue()


def write_bundle(path: Path, parts: Parts) -> Bundle:
    """Write a bundle whole or not at all, and open it.

    Raises:
        ModelError: what it would hold is over a bound.
        InputError: the file cannot be written.
    """
    data = encode_bundle(parts)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return open_bundle(path)


def _golden(parts: Parts, golden: tuple[Arrays, Arrays, str], add: Any) -> Golden:
    inputs, outputs, runtime_class = golden
    files = [
        tuple(
            add(f"golden/{what}-{i}.bin", np.ascontiguousarray(arrays[port.name], port.dtype).tobytes())
            for i, port in enumerate(ports)
        )
        for what, arrays, ports in (("input", inputs, parts.inputs), ("output", outputs, parts.outputs))
    ]
    count = len(next(iter(inputs.values())))
    return Golden(count=count, inputs=files[0], outputs=files[1], runtime_class=runtime_class)
