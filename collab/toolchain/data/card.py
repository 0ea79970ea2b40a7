"""The data card: what was found, what was dropped and why, what the splits hold."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Final

import msgspec

from collab.core.plan import Frozen
from collab.toolchain.data.findings import FAULTS

VERSION: Final = 1
VERSIONS_OF: Final = ("numpy", "pillow", "scikit-learn")


class Range(Frozen, frozen=True, kw_only=True):
    """Values of one channel or column, in the examples that are trained on, before they are scaled."""

    name: str
    least: float | None = None
    greatest: float | None = None
    mean: float | None = None
    std: float | None = None
    missing: int = 0
    values: int = 0
    """Different ones, of names."""


class ClassCount(Frozen, frozen=True, kw_only=True):
    """Examples of one class in each split."""

    name: str
    train: int
    validation: int
    test: int


class FaultCount(Frozen, frozen=True, kw_only=True):
    """Examples with one fault; the first ones are listed."""

    dropped: int
    mended: int = 0
    listed: tuple[tuple[str, str], ...] = ()


class Card(Frozen, frozen=True, kw_only=True):
    """``card.json``."""

    version: int = VERSION
    title: str
    kind: str
    source: str
    about: str
    licence: str
    seed: int
    found: int
    kept: int
    classes: tuple[ClassCount, ...]
    faults: dict[str, FaultCount]
    policies: dict[str, str]
    split_by: str
    groups: int
    shares: dict[str, float]
    ranges: tuple[Range, ...]
    remarks: tuple[str, ...]
    source_sha256: str
    preprocessing_sha256: str
    prepared_sha256: str
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Of the packages that had a part in it."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def card_json(card: Card) -> bytes:
    """The file."""
    fields = {"version": card.version} | msgspec.to_builtins(card)
    return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def card_text(card: Card) -> str:
    """The same for people, as Markdown."""
    faults = [
        (fault.replace("_", " "), FAULTS[fault], told.dropped, told.mended)
        for fault in FAULTS
        if (told := card.faults.get(fault)) is not None
    ]
    listed = [f"- {where}: {why}" for fault in card.faults.values() for where, why in fault.listed[:20]]
    lines = [
        f"# {card.title}",
        "",
        card.about or "No description was given.",
        "",
        *_table(
            ("", ""),
            [
                ("source", card.source),
                ("licence", card.licence or "not stated"),
                ("kind", card.kind),
                ("examples found, kept", f"{card.found}, {card.kept}"),
                ("split", f"{card.split_by}, seed {card.seed}"),
                ("SHA-256 of the source", card.source_sha256),
                ("SHA-256 of the preprocessing", card.preprocessing_sha256),
                ("SHA-256 of the prepared data", card.prepared_sha256),
                ("made with", ", ".join(f"{name} {found}" for name, found in card.versions.items())),
            ],
        ),
        "",
        "## Classes",
        "",
        *_table(
            ("class", "train", "validation", "test"),
            [(one.name, one.train, one.validation, one.test) for one in card.classes],
        ),
        "",
        "## What was wrong",
        "",
        *(
            [*_table(("fault", "what it is", "dropped", "mended"), faults), "", *listed]
            if faults
            else ["Nothing."]
        ),
        "",
        "## Ranges of what is trained on",
        "",
        *_table(
            ("", "least", "greatest", "mean", "std", "missing", "values"),
            [
                (
                    r.name,
                    _cell(r.least),
                    _cell(r.greatest),
                    _cell(r.mean),
                    _cell(r.std),
                    r.missing,
                    r.values or "",
                )
                for r in card.ranges
            ],
        ),
        *(["", "## Remarks", "", *(f"- {text}" for text in card.remarks)] if card.remarks else []),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(heads), line(["---"] * len(heads)), *map(line, rows)]
