"""The gate before aggregation: every update is judged by itself, and one that fails is named.

Pure: who fails is quarantined by whoever asks.  What the relative norm is compared with
depends on the order in which updates came, so a verdict is recorded and not asked
for again.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Union

import numpy as np

from collab.core.plan import Frozen
from collab.errors import CollabError, ConfigError, LimitExceeded
from collab.federated.aggregate.fixed import MAX_VALUE
from collab.federated.aggregate.transforms import norm
from collab.federated.update import Parameters, Update

_LEAST_NORMS: Final = 3
"""Norms that a median of them is worth asking for."""


class Reason(str, Enum):
    """Why an update was refused; values are stable and stand in records."""

    MALFORMED = "malformed"
    """Its bytes cannot be read."""
    IDENTITY = "identity"
    """It came over the link of somebody else."""
    NOT_ENROLLED = "not enrolled"
    ROUND = "round"
    DUPLICATE = "duplicate"
    SAMPLES = "samples"
    STALE = "staleness"
    NAMES = "names"
    DTYPE = "dtype"
    SHAPE = "shape"
    NOT_FINITE = "not finite"
    RANGE = "range"
    NORM = "norm"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One update that was not taken."""

    client: str
    """Who sent it, as its link says."""
    reason: Reason
    field: str
    """Of the update."""
    message: str

    def __str__(self) -> str:
        return f"{self.client}: {self.field}: {self.message}"


class GateSettings(Frozen, frozen=True, kw_only=True):
    """What a task says about the gate; everything else is always checked."""

    norm: Union[float, None] = None
    """Largest L2 norm of an update."""
    relative_norm: Union[float, None] = None
    """As many times the median of the norms seen so far; asked for once three are known."""

    def check(self) -> GateSettings:
        """Return self, or raise `ConfigError`."""
        for name in ("norm", "relative_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"gate.{name}: {value:g} cannot be; use a number over 0, or leave it out")
        return self


class Gate:
    """Judges one round's updates.

    Args:
        settings: Checked ones.
        model: The round's weights; only names, shapes and dtypes matter.
        round: That updates are for.
        enrolled: Samples that each client said it has, by its name.
        oldest: The earliest round that late updates may be for; the round itself where there are none.
        controls: Whether updates carry control variates.
        norms: Of updates that were taken before, of the last round for instance.
        repeats: Whether a client may send several updates of one round, as in asynchronous ones; then
            whoever asks tells them apart.
    """

    def __init__(
        self,
        settings: GateSettings,
        model: Parameters,
        round: int,
        enrolled: Mapping[str, int],
        *,
        oldest: int | None = None,
        controls: bool = False,
        norms: Iterable[float] = (),
        repeats: bool = False,
    ) -> None:
        self._settings = settings
        self._specs = {name: (array.shape, array.dtype) for name, array in model.items()}
        self._round = round
        self._oldest = round if oldest is None else oldest
        self._enrolled = enrolled
        self._controls = controls
        self._repeats = repeats
        self._norms = sorted(norms)
        self._taken: set[tuple[str, int]] = set()
        self.norms: list[float] = []
        """Of the updates taken, in their order."""

    def judge(self, update: Update, sender: str) -> Refusal | None:
        """None if the update is good, and then it counts as taken; ``sender`` is who the link says it is."""
        found = (
            self._who(update, sender)
            or self._what_round(update)
            or _numbers(update, self._enrolled[update.client])
            or self._tensors("delta", update.delta)
            or self._control(update)
        )
        size = 0.0
        if found is None:
            size = norm(update.delta)
            found = self._size(size)
        if found is not None:
            reason, field, message = found
            return Refusal(sender, reason, field, message)
        self.remember(update.client, update.round, size)
        return None

    def enrolled(self, client: str) -> int:
        """Samples that a client said it has; 0 for one that is not enrolled."""
        return self._enrolled.get(client, 0)

    def remember(self, client: str, round: int, size: float) -> None:
        """Count an update as taken whose verdict is known, from a journal."""
        self._taken.add((client, round))
        self.norms.append(size)
        insort(self._norms, size)

    def _who(self, update: Update, sender: str) -> _Found | None:
        if update.client != sender:
            return Reason.IDENTITY, "client", f"names {update.client[:64]!r}, but {sender} sent it"
        if sender not in self._enrolled:
            return Reason.NOT_ENROLLED, "client", "is not enrolled in this run"
        return None

    def _what_round(self, update: Update) -> _Found | None:
        if not self._oldest <= update.round <= self._round:
            wanted = f"{self._round}" if self._oldest == self._round else f"{self._oldest} to {self._round}"
            return Reason.ROUND, "round", f"is {update.round}, and updates of {wanted} are taken"
        if not self._repeats and (update.client, update.round) in self._taken:
            return Reason.DUPLICATE, "round", f"an update of round {update.round} is there already"
        return None

    def _control(self, update: Update) -> _Found | None:
        if self._controls:
            return self._tensors("control", update.control)
        if update.control:
            return Reason.NAMES, "control", "control variates were not asked for"
        return None

    def _tensors(self, field: str, arrays: Parameters) -> _Found | None:
        if arrays.keys() != self._specs.keys():
            missing = sorted(self._specs.keys() - arrays.keys())
            odd = sorted(arrays.keys() - self._specs.keys())
            what = f"lacks {missing[0]!r}" if missing else f"has {odd[0][:64]!r}, which the model has not"
            return Reason.NAMES, field, what
        for name, (shape, dtype) in self._specs.items():
            array, path = arrays[name], f"{field}[{name!r}]"
            if array.dtype != dtype:
                return Reason.DTYPE, path, f"is {array.dtype}, expected {dtype}"
            if array.shape != shape:
                return Reason.SHAPE, path, f"has shape {list(array.shape)}, expected {list(shape)}"
            if array.size:
                low, high = float(array.min()), float(array.max())
                if not (math.isfinite(low) and math.isfinite(high)):
                    bad = int(array.size - np.isfinite(array).sum())
                    return Reason.NOT_FINITE, path, f"{bad} of {array.size} elements are not finite"
                if max(-low, high) > MAX_VALUE:
                    return Reason.RANGE, path, f"has {max(-low, high):g}, over {MAX_VALUE:g}"
        return None

    def _size(self, size: float) -> _Found | None:
        most = self._settings.norm
        if most is not None and size > most:
            return Reason.NORM, "delta", f"its norm {size:g} is over gate.norm, {most:g}"
        times = self._settings.relative_norm
        if times is not None and len(self._norms) >= _LEAST_NORMS:
            middle = self._norms[len(self._norms) // 2]
            if size > times * middle:
                return (
                    Reason.NORM,
                    "delta",
                    f"its norm {size:g} is over {times:g} times {middle:g}, the median",
                )
        return None


_Found = tuple[Reason, str, str]


def _numbers(update: Update, enrolled: int) -> _Found | None:
    if not 1 <= update.samples <= enrolled:
        return Reason.SAMPLES, "samples", f"is {update.samples}, and 1 to {enrolled} were enrolled"
    if update.staleness < 0:
        return Reason.STALE, "staleness", f"is {update.staleness}, less than 0"
    for name, value in update.metrics.items():
        if not math.isfinite(value):
            return Reason.NOT_FINITE, f"metrics[{name[:64]!r}]", f"is {value}"
    return None


def malformed(sender: str, error: CollabError) -> Refusal:
    """The refusal of an update that could not be read."""
    reason = Reason.RANGE if isinstance(error, LimitExceeded) else Reason.MALFORMED
    return Refusal(sender, reason, "update", str(error))
