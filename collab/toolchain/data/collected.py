"""Examples as they were found: their content, labels, where each came from, and what belongs together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError
from collab.toolchain.data.findings import Findings, Listed, Policies, refuse


@dataclass(frozen=True, slots=True)
class Collected:
    """Raw examples.

    Attributes:
        content: ``[n, …]``: pixels, windows, or rows of a table as text.
        labels: places in `classes`.
        origins: file, and line or row where there is one.
        groups: what may not be torn apart by a split; empty where nothing is said.
        given: the split that the source itself names for each; empty where it names none.
        source_sha256: digest of all bytes that were read.
        names: of the channels of windows.
    """

    content: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    origins: Sequence[str]
    groups: Sequence[str] = ()
    given: Sequence[str] = ()
    source_sha256: str = ""
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Collected:
        """Some of them."""
        return replace(
            self,
            content=self.content[rows],
            labels=self.labels[rows],
            origins=[self.origins[row] for row in rows],
            groups=[self.groups[row] for row in rows] if self.groups else (),
            given=[self.given[row] for row in rows] if self.given else (),
        )


def without_duplicates(found: Collected, policies: Policies, findings: Findings) -> Collected:
    """Leave one of each content, that of the test split if the source names one.

    Raises:
        InputError: `policies` allow none.
    """
    if policies.duplicates == "keep":
        return found
    same: dict[bytes, list[int]] = defaultdict(list)
    for row in range(len(found)):
        same[_key(found.content[row])].append(row)
    dropped: list[tuple[bool, int, str]] = []
    for rows in same.values():
        if len(rows) > 1:
            dropped += _to_drop(found, rows)
    if dropped and policies.duplicates == "fail":
        listed = [Listed(found.origins[row], why) for _, row, why in sorted(dropped, key=lambda d: d[1])]
        raise refuse("duplicate", listed, "remove them, or give --duplicates drop")
    for conflict, row, why in sorted(dropped, key=lambda d: d[1]):
        findings.drop("conflict" if conflict else "duplicate", found.origins[row], why)
    gone = {row for _, row, _ in dropped}
    return found.take(np.array([row for row in range(len(found)) if row not in gone], np.int64))


def _key(content: NDArray[Any] | Mapping[str, str]) -> bytes:
    data = content.tobytes() if isinstance(content, np.ndarray) else repr(sorted(content.items())).encode()
    return hashlib.sha256(data).digest()


def _to_drop(found: Collected, rows: list[int]) -> list[tuple[bool, int, str]]:
    """Whether it is a conflict of labels, the row, and why it goes."""
    tested = [row for row in rows if found.given and found.given[row] == "test"]
    if len({int(found.labels[row]) for row in rows}) == 1:
        kept = tested or rows[:1]
        return [(False, row, f"the same as {found.origins[kept[0]]}") for row in rows if row not in kept]
    names = sorted({found.classes[found.labels[row]] for row in rows})
    others = {row: next(r for r in rows if found.labels[r] != found.labels[row]) for row in rows}
    return [
        (True, row, f"the same as {found.origins[others[row]]}, in classes {' and '.join(names[:3])}")
        for row in rows
        # What others measure on stays as it is.
        if row not in tested
    ]


def class_labels(
    names: Sequence[str], origins: Sequence[str], classes: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels from names, or from numbers that stand for `classes`; all names in order if none are given.

    Raises:
        InputError: a label is none of the classes; names where it stands.
    """
    if not classes:
        found = sorted(
            set(names), key=lambda name: (not _whole(name), int(name) if _whole(name) else 0, name)
        )
        place = {name: i for i, name in enumerate(found)}
        return np.array([place[name] for name in names], np.int64), tuple(found)
    place = {name: i for i, name in enumerate(classes)}
    # Numbers count as places only where no class is itself called by a number.
    numbered = not any(_whole(name) for name in classes)
    labels = np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        if name in place:
            labels[row] = place[name]
        elif numbered and _whole(name) and int(name) < len(classes):
            labels[row] = int(name)
        else:
            raise InputError(
                f"{origins[row]}: label {name[:40]!r} is none of the {len(classes)} of --classes "
                f"({', '.join(classes[:5])}…); correct it, or name all classes in order"
            )
    return labels, tuple(classes)


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def check_classes(found: Collected, least: int) -> None:
    """Make sure that each class has examples enough; raises `InputError`."""
    if len(found.classes) < 2:
        raise InputError(
            f"the data has one class, {found.classes[0]!r}; a classifier needs two"
            if found.classes
            else "the data has no examples"
        )
    counts = np.bincount(found.labels, minlength=len(found.classes))
    for name, count in zip(found.classes, counts, strict=True):
        if not count:
            raise InputError(f"class {name!r} is empty; add examples, or leave the class out")
        if count < least:
            raise InputError(
                f"class {name!r} has {count} examples for {least} splits; add some, or leave the class out"
            )
