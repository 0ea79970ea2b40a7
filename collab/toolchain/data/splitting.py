"""Training, validation and test: by a seed, stratified by class, groups kept whole; scikit-learn draws."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, UsageError
from collab.toolchain.data.collected import Collected
from collab.toolchain.extras import needed

Rows = NDArray[np.int64]


def check_shares(validation: float, test: float) -> None:
    """Make sure that something is left to train on; raises `UsageError`."""
    for option, share in (("--validation", validation), ("--test", test)):
        if not 0 < share < 1:
            raise UsageError(f"{option} {share:g}: give a share above 0 and below 1")
    if validation + test >= 0.9:
        raise UsageError(f"--validation {validation:g} --test {test:g}: leave more than a tenth to train on")


def split_rows(found: Collected, validation: float, test: float, seed: int) -> Mapping[str, Rows]:
    """Rows of each split, in rising order; what the source itself names stays as it is.

    Raises:
        InputError: there are too few groups, or examples of a class.
    """
    given = np.array(found.given or [""] * len(found))
    rows = {name: np.flatnonzero(given == name) for name in ("train", "validation", "test")}
    free = np.flatnonzero(given == "")
    if not len(rows["test"]):
        pool = np.concatenate([free, rows["train"]])
        drawn = _draw(found, pool, test, seed, "test")
        rows["test"] = drawn
        rows["train"], free = (np.setdiff1d(part, drawn) for part in (rows["train"], free))
        validation = validation / (1 - test)
    pool = np.concatenate([free, rows["train"]])
    if not len(rows["validation"]):
        rows["validation"] = _draw(found, pool, validation, seed + 1, "validation")
    rows["train"] = np.setdiff1d(pool, rows["validation"])
    for name in ("train", "validation", "test"):
        rows[name] = np.sort(rows[name]).astype(np.int64)
    _check_train(found, rows["train"])
    return rows


def _draw(found: Collected, pool: Rows, share: float, seed: int, name: str) -> Rows:
    labels = found.labels[pool]
    if found.groups:
        return pool[_groups(found, pool, share, seed, name)]
    count = max(round(len(pool) * share), len(set(labels.tolist())))
    try:
        _, drawn = needed("sklearn.model_selection").train_test_split(
            np.arange(len(pool)), test_size=count, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise InputError(f"the {name} split cannot be drawn: {error}; give more examples") from error
    rows: Rows = pool[drawn]
    return rows


def _groups(found: Collected, pool: Rows, share: float, seed: int, name: str) -> Sequence[int]:
    """Whole groups, classes in proportion as far as they go."""
    groups = np.array([found.groups[row] for row in pool])
    folds = max(2, round(1 / share))
    least = 3 if name == "test" else 2
    if (count := len(set(groups.tolist()))) < least:
        raise InputError(
            f"{count} groups are too few to draw the {name} split from; record more, or group otherwise"
        )
    folds = min(folds, count)
    splitter = needed("sklearn.model_selection").StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    labels = found.labels[pool]
    try:
        with warnings.catch_warnings():
            # It warns of classes with fewer examples than folds; what comes of it is checked below.
            warnings.simplefilter("ignore", UserWarning)
            parts = [drawn for _, drawn in splitter.split(pool, labels, groups)]
    except ValueError as error:
        raise InputError(f"the {name} split cannot be drawn: {error}; record more groups") from error

    def badness(drawn: Sequence[int]) -> tuple[int, float]:
        missing = len(set(labels.tolist()) - set(labels[drawn].tolist()))
        rest = np.delete(labels, drawn)
        lost = len(set(labels.tolist()) - set(rest.tolist()))
        return missing + 100 * lost, abs(len(drawn) / len(pool) - share)

    best: Sequence[int] = min(parts, key=badness)
    return best


def _check_train(found: Collected, rows: Rows) -> None:
    absent = set(range(len(found.classes))) - set(found.labels[rows].tolist())
    if absent:
        name = found.classes[min(absent)]
        raise InputError(
            f"class {name!r} has no example left to train on; add groups of it, or use another --seed"
        )
