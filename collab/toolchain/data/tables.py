"""Tables: CSV files with column names, or rows of numbers in an ``.npz`` file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import MAX_CATEGORIES, Category, Number, Preprocessing, TableSteps
from collab.errors import InputError, UsageError
from collab.runtime.preprocessing.tables import Table, is_missing, number, numbers, read_table, table_inputs
from collab.toolchain.data.archives import read_archive
from collab.toolchain.data.card import Range
from collab.toolchain.data.collected import Collected, class_labels
from collab.toolchain.data.findings import Fault, Findings, Listed, Policies, refuse
from collab.toolchain.data.splitting import Rows
from collab.toolchain.extras import needed

NUMERIC_SHARE: Final = 0.9
"""A column of which so much is numbers is one of numbers; what else stands in it is a fault."""

Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class TableKind:
    """How a table is prepared.

    Attributes:
        label: the label's column; the last one if empty.
        columns: which ones are inputs; all others if empty.
        categories: columns of names, also where they look like numbers.
        group: a column whose rows of one value stay in one split; it is no input.
        bounds: least and greatest value that a column may have.
        fill: what stands for a missing number where `Policies.missing` is ``fill``.
    """

    label: str = ""
    columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    group: str = ""
    bounds: Bounds = field(default_factory=dict)
    fill: Literal["median", "mean", "most_frequent"] = "median"
    encoding: Literal["one_hot", "ordinal"] = "one_hot"
    normalise: Literal["none", "standard", "min_max"] = "standard"
    classes: tuple[str, ...] = ()
    name: str = field(default="table", init=False)

    def collect(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        """All rows, cleaned; their content is the inputs' text."""
        if source.suffix.lower() == ".npz":
            return self._archive(source, policies, findings)
        table = read_table(source)
        label = self.label or list(table.columns)[-1]
        names = self._inputs(table, label)
        kept = self._clean(table, names, table.column(label), policies, findings)
        labels = table.column(label)
        # Numbers written as 1 and 1.0 are one class.
        where = [table.where(row) for row in kept]
        found, known = class_labels([_class_name(labels[row]) for row in kept], where, self.classes)
        groups = [table.column(self.group)[row] for row in kept] if self.group else ()
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        return Collected(_content(table, names, kept), found, known, where, groups, (), digest)

    def fit(self, found: Collected, rows: Rows, policies: Policies) -> Preprocessing:
        """Statistics and categories of the rows that are trained on."""
        whole, trained = _table(found), _table(found.take(rows))
        columns: list[Number | Category] = []
        for name in whole.columns:
            if self._is_category(whole, name):
                columns.append(self._category(trained, name, policies))
            else:
                columns.append(self._number(trained, name, policies))
        return Preprocessing(steps=TableSteps(columns=tuple(columns)))

    def store(self, found: Collected, preprocessing: Preprocessing) -> NDArray[Any]:
        """Finished inputs."""
        assert isinstance(preprocessing.steps, TableSteps)
        return table_inputs(_table(found), preprocessing.steps)

    def ranges(self, found: Collected, rows: Rows) -> list[Range]:
        """Of each column."""
        whole, trained = _table(found), _table(found.take(rows))
        made = []
        for name in whole.columns:
            texts = trained.columns[name]
            missing = sum(map(is_missing, texts))
            if self._is_category(whole, name):
                made.append(Range(name=name, missing=missing, values=len({*texts})))
                continue
            values = numbers(trained, name)
            values = values[~np.isnan(values)]
            figures = (
                (values.min(), values.max(), values.mean(), values.std()) if len(values) else (None,) * 4
            )
            least, greatest, mean, std = (None if one is None else float(one) for one in figures)
            made.append(Range(name=name, least=least, greatest=greatest, mean=mean, std=std, missing=missing))
        return made

    def _inputs(self, table: Table, label: str) -> list[str]:
        table.column(label)
        wanted = [*self.columns, *self.categories, *self.bounds, *([self.group] if self.group else [])]
        for name in wanted:
            table.column(name)
        names = [name for name in self.columns or table.columns if name not in (label, self.group)]
        if not names:
            raise InputError(f"{table.path}: has no column of inputs beside the label {label!r}")
        return names

    def _is_category(self, table: Table, name: str) -> bool:
        if name in self.categories:
            return True
        texts = [text for text in table.columns[name] if not is_missing(text)]
        parsed = sum(_is_number(text) for text in texts)
        return bool(texts) and parsed < NUMERIC_SHARE * len(texts)

    def _clean(
        self,
        table: Table,
        names: Sequence[str],
        labels: Sequence[str],
        policies: Policies,
        findings: Findings,
    ) -> list[int]:
        """Rows that are kept; faults are counted, or refused all at once."""
        numeric = {name for name in names if not self._is_category(table, name)}
        refused: dict[Fault, list[Listed]] = {}
        kept = []
        for row in range(len(table)):
            judged = [
                (_policy(policies, fault, why), fault, why)
                for fault, why in self._faults(table, names, numeric, labels[row], row)
            ]
            for policy, fault, why in judged:
                if policy == "fail":
                    refused.setdefault(fault, []).append(Listed(table.where(row), why))
            if dropped := next((one for one in judged if one[0] == "drop"), None):
                findings.drop(dropped[1], table.where(row), dropped[2])
                continue
            for _, fault, why in judged:
                findings.mend(fault, table.where(row), why)
            kept.append(row)
        for fault, listed in refused.items():
            raise refuse(fault, listed, REMEDIES[fault])
        if not kept:
            raise InputError(f"{table.path}: no row is left; see what was dropped with --json")
        return kept

    def _faults(
        self, table: Table, names: Sequence[str], numeric: set[str], label: str, row: int
    ) -> Sequence[tuple[Fault, str]]:
        found: list[tuple[Fault, str]] = []
        if is_missing(label):
            found.append(("missing", LABEL_MISSING))
        for name in names:
            text = table.columns[name][row]
            if name in numeric:
                fault = value_fault(name, text, *self.bounds.get(name, (-math.inf, math.inf)))
            else:
                fault = ("missing", f"column {name!r} is missing") if is_missing(text) else None
            if fault is not None:
                found.append(fault)
        return found

    def _number(self, trained: Table, name: str, policies: Policies) -> Number:
        values = numbers(trained, name)[:, None]
        low, high = self.bounds.get(name, (None, None))
        fill: float | None = None
        if policies.missing == "fill":
            if np.isnan(values).all():
                raise InputError(f"column {name!r} has no value to train on; leave it out with --columns")
            imputer = needed("sklearn.impute").SimpleImputer(strategy=self.fill)
            values = imputer.fit_transform(values)
            fill = float(imputer.statistics_[0])
        if low is not None or high is not None:
            values = np.clip(values, low, high)
        shift, width = 0.0, 1.0
        if self.normalise == "standard":
            scaler = needed("sklearn.preprocessing").StandardScaler().fit(values)
            shift, width = float(scaler.mean_[0]), float(scaler.scale_[0])
        elif self.normalise == "min_max":
            scaler = needed("sklearn.preprocessing").MinMaxScaler().fit(values)
            shift = float(scaler.data_min_[0])
            width = float(scaler.data_range_[0]) or 1.0
        return Number(name=name, fill=fill, low=low, high=high, shift=shift, width=width)

    def _category(self, trained: Table, name: str, policies: Policies) -> Category:
        texts = [text for text in trained.columns[name] if not is_missing(text)]
        if not texts:
            raise InputError(f"column {name!r} has no value to train on; leave it out with --columns")
        values, counts = np.unique(np.array(texts, object).astype(str), return_counts=True)
        if len(values) > MAX_CATEGORIES:
            raise InputError(
                f"column {name!r} has {len(values)} names, over {MAX_CATEGORIES}; leave it out with --columns"
            )
        fill = str(values[counts.argmax()]) if policies.missing == "fill" else None
        return Category(name=name, values=tuple(map(str, values)), encoding=self.encoding, fill=fill)

    def _archive(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        archive = read_archive(source)
        if archive.x.ndim != 2:
            raise InputError(f"{source}: a table has inputs [rows, columns], these are {archive.x.shape}")
        names = self.columns or tuple(f"x{i}" for i in range(archive.x.shape[1]))
        if len(names) != archive.x.shape[1]:
            raise UsageError(f"--columns: {len(names)} names for {archive.x.shape[1]} columns")
        columns = {name: [repr(v) for v in archive.x[:, i].tolist()] for i, name in enumerate(names)}
        table = Table(source, columns, range(len(archive.x)))
        kept = self._clean(table, names, archive.labels, policies, findings)
        origins = [archive.origins[row] for row in kept]
        labels, known = class_labels([archive.labels[row] for row in kept], origins, self.classes)
        groups = [archive.groups[row] for row in kept] if archive.groups else ()
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        return Collected(_content(table, names, kept), labels, known, origins, groups, (), digest)


REMEDIES: Final[Mapping[str, str]] = {
    "corrupt": "correct them, or give --corrupt drop",
    "missing": "fill them in, or give --missing fill or drop",
    "out_of_range": "correct them, or give --out-of-range clip or drop",
}


def value_fault(name: str, text: str, low: float, high: float) -> tuple[Fault, str] | None:
    """What is wrong with a value of a column of numbers."""
    if is_missing(text):
        return "missing", f"column {name!r} is missing"
    value = number(text)
    if value is None:
        return "corrupt", f"column {name!r} has {text[:40]!r}, no finite number"
    if not low <= value <= high:
        return "out_of_range", f"column {name!r} has {text}, not {low:g} to {high:g}"
    return None


LABEL_MISSING: Final = "the label is missing"


def _policy(policies: Policies, fault: Fault, why: str) -> str:
    policy: str = getattr(policies, fault)
    # Nothing stands for a label.
    return "drop" if policy == "fill" and why == LABEL_MISSING else policy


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _class_name(text: str) -> str:
    value = number(text)
    return str(int(value)) if value is not None and math.floor(value) == value >= 0 else text


def _content(table: Table, names: Sequence[str], rows: Sequence[int]) -> NDArray[Any]:
    """Rows as text by column."""
    content = np.empty(len(rows), object)
    for place, row in enumerate(rows):
        content[place] = {name: table.columns[name][row] for name in names}
    return content


def _table(found: Collected) -> Table:
    names = list(found.content[0]) if len(found) else []
    columns = {name: [row[name] for row in found.content] for name in names}
    return Table(Path("prepared"), columns, range(1, len(found) + 1))
