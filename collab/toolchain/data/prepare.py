"""From a source to a prepared folder: collect, clean, split, fit, store, describe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import Preprocessing
from collab.toolchain.data.card import Card, ClassCount, FaultCount, Range, card_json, card_text, versions
from collab.toolchain.data.collected import Collected, check_classes, without_duplicates
from collab.toolchain.data.findings import Findings, Policies
from collab.toolchain.data.prepared import Prepared, Raw, prepared_files, write_folder
from collab.toolchain.data.splitting import Rows, check_shares, split_rows

LEAST: Final = 3
"""Examples of a class: one for each split."""


class Kind(Protocol):
    """Images, tables or windows: what differs between them."""

    @property
    def name(self) -> str:
        """As the card says it."""
        ...

    def collect(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        """All examples, cleaned."""
        ...

    def fit(self, found: Collected, rows: Rows, policies: Policies) -> Preprocessing:
        """Statistics of the examples that are trained on, and of no others."""
        ...

    def store(self, found: Collected, preprocessing: Preprocessing) -> NDArray[Any]:
        """What a folder keeps of examples."""
        ...

    def ranges(self, found: Collected, rows: Rows) -> list[Range]:
        """For the card."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What a user says of the data, for the card."""

    title: str = ""
    about: str = ""
    licence: str = ""


def prepare(
    source: Path,
    kind: Kind,
    out: Path,
    *,
    policies: Policies = Policies(),
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    told: Told = Told(),
) -> Prepared:
    """Prepare a source; the same source, kind and seed give the same bytes.

    Args:
        source: a folder or a file.
        kind: `ImageKind`, `TableKind` or `WindowKind`.
        out: the folder to make; it must not be there yet.
        policies: what is done about faults.
        validation: share of examples, where the source names no such split.
        test: the same.
        seed: of the splits.
        told: for the card.

    Raises:
        InputError: the source is missing or faulty; names the file and row. Nothing is written.
        LimitExceeded: it is too large.
        BackendError: scikit-learn or Pillow is missing.
    """
    check_shares(validation, test)
    findings = Findings()
    every = kind.collect(source, policies, findings)
    count = len(every) + sum(findings.dropped.values())
    found = without_duplicates(every, policies, findings)
    check_classes(found, LEAST if not found.given else 1)
    rows = split_rows(found, validation, test, seed)
    preprocessing = kind.fit(found, rows["train"], policies).check()
    stored = kind.store(found, preprocessing)
    files = prepared_files(
        {name: Raw(stored[part], found.labels[part]) for name, part in rows.items()},
        found.classes,
        preprocessing,
        seed,
    )
    card = Card(
        title=told.title or source.name,
        kind=kind.name,
        source=source.name,
        about=told.about,
        licence=told.licence,
        seed=seed,
        found=count,
        kept=len(found),
        classes=_counted(found, rows),
        faults=_faults(findings, source),
        policies={name: str(value) for name, value in _fields(policies).items()},
        split_by=_split_by(found),
        groups=len(set(found.groups)),
        shares={name: len(part) / len(found) for name, part in rows.items()},
        ranges=tuple(kind.ranges(found, rows["train"])),
        remarks=tuple(_remarks(found, rows)),
        source_sha256=found.source_sha256,
        preprocessing_sha256=hashlib.sha256(files["preprocessing.json"]).hexdigest(),
        prepared_sha256=hashlib.sha256(files["prepared.json"]).hexdigest(),
        versions=versions(),
    )
    files["card.json"], files["card.md"] = card_json(card), card_text(card).encode()
    for name, part in rows.items():
        origins = [_relative(found.origins[row], source) for row in part]
        files[f"{name}.origins.json"] = msgspec.json.encode(origins)
    write_folder(out, files)
    return Prepared.load(out)


def _fields(policies: Policies) -> Mapping[str, object]:
    return {name: getattr(policies, name) for name in policies.__slots__}


def _relative(text: str, source: Path) -> str:
    """Without the place on this machine."""
    return text.replace(f"{source if source.is_dir() else source.parent}/", "")


def _counted(found: Collected, rows: Mapping[str, Rows]) -> tuple[ClassCount, ...]:
    counts = {
        name: np.bincount(found.labels[part], minlength=len(found.classes)).tolist()
        for name, part in rows.items()
    }
    return tuple(
        ClassCount(name=name, **{split: counts[split][i] for split in counts})
        for i, name in enumerate(found.classes)
    )


def _faults(findings: Findings, source: Path) -> dict[str, FaultCount]:
    return {
        fault: FaultCount(
            dropped=findings.dropped[fault],
            mended=findings.mended[fault],
            listed=tuple((_relative(one.where, source), _relative(one.why, source)) for one in listed),
        )
        for fault, listed in sorted(findings.listed.items())
    }


def _split_by(found: Collected) -> str:
    if found.given:
        return "as the source names it, the rest by class"
    return "by group, classes in proportion as far as groups go" if found.groups else "by class"


def _remarks(found: Collected, rows: Mapping[str, Rows]) -> list[str]:
    remarks = []
    for split in ("validation", "test"):
        absent = set(range(len(found.classes))) - set(found.labels[rows[split]].tolist())
        remarks += [f"class {found.classes[i]} has no example in {split}" for i in sorted(absent)]
    counts = np.bincount(found.labels, minlength=len(found.classes))
    if counts.max() > 10 * counts.min():
        remarks.append(
            f"the largest class has {counts.max() / counts.min():.0f} times the examples of the smallest"
        )
    return remarks
