"""What a packaged model says of itself, as a release says it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from collab.updates.bundle.manifest import File
from collab.updates.bundle.read import is_bundle, open_bundle
from collab.updates.policies.reference import decode_reference
from collab.updates.release import Provenance, ReleaseInfo
from collab.updates.repository.publishing import content_digest


def described(path: Path, info: ReleaseInfo) -> ReleaseInfo:
    """Fill in devices, digests, accuracy and provenance of a bundle; any other file stays undescribed.

    Raises:
        ModelError: the bundle is broken.
    """
    if not is_bundle(path):
        return info
    bundle = open_bundle(path)
    manifest, reference = bundle.manifest, bundle.reference()
    golden = manifest.golden
    accuracy = None if reference is None else decode_reference(reference, str(path)).accuracy
    return msgspec.structs.replace(
        info,
        devices=manifest.about.devices,
        preprocessing_sha256="" if manifest.preprocessing is None else manifest.preprocessing.sha256,
        provenance=Provenance(card_sha256="" if manifest.card is None else manifest.card.sha256),
        accuracy=accuracy,
        golden_inputs_sha256=_digest(() if golden is None else golden.inputs),
        golden_outputs_sha256=_digest(() if golden is None else golden.outputs),
    )


def _digest(files: Sequence[File]) -> str:
    return content_digest([file.sha256 for file in files])
