"""Recordings of sensors, cut into windows; those of one recording never sit in two splits."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import Preprocessing, Scaling, WindowSteps
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing.raw import raw_files
from collab.runtime.preprocessing.tables import Table, is_missing, numbers, read_table
from collab.runtime.preprocessing.windows import Samples, read_samples, window_input, window_starts
from collab.toolchain.data.archives import read_archive
from collab.toolchain.data.card import Range
from collab.toolchain.data.collected import Collected, class_labels
from collab.toolchain.data.findings import Fault, Findings, Listed, Policies, refuse
from collab.toolchain.data.splitting import Rows
from collab.toolchain.data.tables import REMEDIES, Bounds, value_fault
from collab.toolchain.extras import needed

MAX_BYTES: Final = 4 << 30
"""Of all windows together."""


@dataclass(frozen=True, slots=True)
class WindowKind:
    """How recordings are prepared.

    Attributes:
        channels: columns of samples; all but label and group if empty.
        label: column of the label; the folder's name if empty.
        group: column that tells recordings apart; each file is one if empty.
        bounds: least and greatest value that a channel may have.
    """

    length: int
    step: int
    channels: tuple[str, ...] = ()
    label: str = ""
    group: str = ""
    bounds: Bounds = field(default_factory=dict)
    feature: Literal["raw", "spectrum", "moments"] = "raw"
    normalise: Literal["none", "standard", "min_max"] = "standard"
    classes: tuple[str, ...] = ()
    name: str = field(default="windows", init=False)

    def steps(self, channels: Sequence[str], policies: Policies) -> WindowSteps:
        """What a recording goes through, before statistics are known."""
        low = tuple(self.bounds[name][0] if name in self.bounds else None for name in channels)
        high = tuple(self.bounds[name][1] if name in self.bounds else None for name in channels)
        bounded = bool(self.bounds)
        steps = WindowSteps(
            channels=tuple(channels),
            length=self.length,
            step=self.step,
            low=low if bounded else (),
            high=high if bounded else (),
            feature=self.feature,
            gap="previous" if policies.missing == "fill" else "refuse",
        )
        Preprocessing(steps=steps).check()
        return steps

    def collect(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        """All windows of all recordings."""
        if source.suffix.lower() == ".npz":
            return self._archive(source)
        windows: list[Samples] = []
        names: list[str] = []
        origins: list[str] = []
        groups: list[str] = []
        digest = hashlib.sha256()
        size = 0
        channels: Sequence[str] = self.channels
        for recording in self._recordings(source):
            channels = channels or self._channels(recording.table)
            steps = self.steps(channels, policies)
            digest.update(repr(sorted(recording.table.columns.items())).encode())
            for at, window in self._windows(recording, steps, policies, findings):
                size += window.nbytes
                if size > MAX_BYTES:
                    raise LimitExceeded(f"{source}: windows take over {MAX_BYTES} bytes; make --step larger")
                windows.append(window)
                names.append(recording.labels[at])
                origins.append(f"{recording.name}, samples {at}..{at + self.length}")
                groups.append(recording.name)
        if not windows:
            raise InputError(f"{source}: no recording is as long as a window of {self.length} samples")
        labels, known = class_labels(names, origins, self.classes)
        content = np.stack(windows)
        return Collected(content, labels, known, origins, groups, (), digest.hexdigest(), channels)

    def fit(self, found: Collected, rows: Rows, policies: Policies) -> Preprocessing:
        """Statistics of each channel over the windows that are trained on."""
        steps = self.steps(found.names, policies)
        if self.normalise == "none":
            return Preprocessing(steps=steps)
        preprocessing = needed("sklearn.preprocessing")
        scaler = (
            preprocessing.StandardScaler() if self.normalise == "standard" else preprocessing.MinMaxScaler()
        )
        clipped = msgspec.structs.replace(steps, feature="raw")
        for row in rows:
            scaler.partial_fit(window_input(found.content[row], clipped).astype(np.float64))
        if self.normalise == "standard":
            shift, width = scaler.mean_, scaler.scale_
        else:
            shift, width = scaler.data_min_, scaler.data_range_
        width = np.where(width > 0, width, 1.0)
        scaling = Scaling(method=self.normalise, shift=tuple(shift.tolist()), width=tuple(width.tolist()))
        return Preprocessing(steps=msgspec.structs.replace(steps, scaling=scaling))

    def store(self, found: Collected, preprocessing: Preprocessing) -> NDArray[Any]:
        """Finished inputs."""
        steps = preprocessing.steps
        assert isinstance(steps, WindowSteps)
        shape = (len(found), *preprocessing.input_shape)
        return np.stack([window_input(window, steps) for window in found.content]).reshape(shape)

    def ranges(self, found: Collected, rows: Rows) -> list[Range]:
        """Of each channel's samples."""
        values = found.content[rows]
        return [
            Range(
                name=name,
                least=float(values[..., channel].min()),
                greatest=float(values[..., channel].max()),
                mean=float(values[..., channel].mean()),
                std=float(values[..., channel].std()),
            )
            for channel, name in enumerate(found.names)
        ]

    def _channels(self, table: Table) -> Sequence[str]:
        return [name for name in table.columns if name not in (self.label, self.group)]

    def _recordings(self, source: Path) -> Iterator[_Recording]:
        for file in raw_files(source, frozenset({".csv"})):
            table = read_table(file)
            if not self.label and file == source:
                raise InputError(f"{source}: name the label's column with --label")
            labels = table.column(self.label) if self.label else [file.parent.name] * len(table)
            if not self.group:
                yield _Recording(str(file), table, labels)
                continue
            # A recording is a run of rows, so that a window never spans what was not recorded at once.
            group = table.column(self.group)
            edges = [0, *(i for i in range(1, len(group)) if group[i] != group[i - 1]), len(group)]
            for start, stop in itertools.pairwise(edges):
                part = Table(
                    file,
                    {name: values[start:stop] for name, values in table.columns.items()},
                    table.lines[start:stop],
                )
                yield _Recording(group[start], part, labels[start:stop])

    def _windows(
        self, recording: _Recording, steps: WindowSteps, policies: Policies, findings: Findings
    ) -> Iterator[tuple[int, Samples]]:
        """First sample and content of each window that is kept."""
        faulty = self._faulty(recording, steps, policies, findings)
        if policies.missing == "fill":
            samples = read_samples(recording.table, steps)
        else:
            samples = _numbers(recording.table, steps)
        for at in window_starts(len(samples), steps):
            where = f"{recording.name}, samples {at}..{at + steps.length}"
            stop = at + steps.length
            if len({*recording.labels[at:stop]}) > 1:
                findings.drop("mixed", where)
                continue
            if is_missing(recording.labels[at]):
                findings.drop("missing", where, "the label is missing")
                continue
            fault = next((row for row in faulty if at <= row < stop), None)
            if fault is not None:
                findings.drop(
                    "missing" if np.isnan(samples[fault]).any() else "out_of_range", where, faulty[fault]
                )
                continue
            yield at, samples[at:stop]

    def _faulty(
        self, recording: _Recording, steps: WindowSteps, policies: Policies, findings: Findings
    ) -> dict[int, str]:
        """Rows whose windows are dropped, and why; raises for those that may not be."""
        found: dict[Fault, list[Listed]] = {"corrupt": [], "missing": [], "out_of_range": []}
        drop: dict[int, str] = {}
        for name in steps.channels:
            low, high = self.bounds.get(name, (-np.inf, np.inf))
            for row, text in enumerate(recording.table.column(name)):
                fault = value_fault(name, text, low, high)
                if fault is None:
                    continue
                kind, why = fault
                # A broken sample has no value that could stand for it, so it is always refused.
                policy = "fail" if kind == "corrupt" else getattr(policies, kind)
                if policy == "fail":
                    found[kind].append(Listed(recording.table.where(row), why))
                elif policy == "drop":
                    drop.setdefault(row, why)
                else:
                    findings.mend(kind, recording.table.where(row), why)
        for kind, listed in found.items():
            if listed:
                raise refuse(kind, listed, "correct them" if kind == "corrupt" else REMEDIES[kind])
        return drop

    def _archive(self, source: Path) -> Collected:
        found = read_archive(source)
        if found.x.ndim != 3 or found.x.shape[1] != self.length:
            raise InputError(
                f"{source}: windows are [n, {self.length}, channels], these are {list(found.x.shape)}"
            )
        bad = ~np.isfinite(found.x).all(axis=(1, 2))
        if bad.any():
            row = int(bad.argmax())
            raise InputError(f"{found.origins[row]}: has values that are not finite; leave such windows out")
        labels, known = class_labels(found.labels, found.origins, self.classes)
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        names = self.channels or tuple(f"c{i}" for i in range(found.x.shape[2]))
        content = found.x.astype(np.float64)
        return Collected(content, labels, known, found.origins, found.groups, (), digest, names)


@dataclass(frozen=True, slots=True)
class _Recording:
    name: str
    table: Table
    labels: Sequence[str]


def _numbers(table: Table, steps: WindowSteps) -> Samples:
    """Samples with NaN where one is missing."""
    return np.stack([numbers(table, name) for name in steps.channels], axis=1)
