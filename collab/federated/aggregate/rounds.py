"""The aggregator of one round: transforms, a combiner and a server optimizer put together."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.codec.wire import Buffer
from collab.errors import ConfigError, LimitExceeded, TensorError
from collab.federated.aggregate import server, transforms
from collab.federated.aggregate.combine import Combiner, Mean, Robust, Spool
from collab.federated.aggregate.fixed import MAX_WEIGHT, WEIGHT_UNIT, FixedSum, shapes_of
from collab.federated.aggregate.partial import decode_partial, encode_partial
from collab.federated.aggregate.server import State
from collab.federated.aggregate.settings import Aggregation
from collab.federated.update import Parameters, Update

_CONTROL: Final = "control:"


class RoundAggregator:
    """Makes the next model of one round's updates; an `Aggregator`.

    Args:
        settings: Checked ones.
        model: The weights that the round began with.
        state: What `state` returned after the round before; empty for the first.
        spool: Where robust rules put updates; a mean needs none.
        clients: How many there are at all, taking part or not (SCAFFOLD's N).
        combiner: In the place of the settings' own, such as a mean with noise.
    """

    def __init__(
        self,
        settings: Aggregation,
        model: Parameters,
        state: State | None = None,
        *,
        spool: Spool | None = None,
        clients: int = 0,
        combiner: Combiner | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._state = dict(state or {})
        self._clients = clients
        shapes = shapes_of(model)
        self._mean: Mean | None = None
        self._combiner: Combiner
        if combiner is not None:
            self._combiner = combiner
        elif not settings.robust:
            self._combiner = self._mean = Mean(shapes, by_count=settings.by_count)
        elif spool is None:
            raise ConfigError(f"aggregation.combine: {settings.combine} needs a folder to spool updates to")
        else:
            self._combiner = Robust(shapes, settings, spool)
        self._controls = FixedSum(shapes) if settings.controls else None

    def add(self, update: Update) -> None:
        """Take one update that passed the gate; raises `TensorError` or `LimitExceeded`."""
        if self._settings.clip_norm is not None:
            update = transforms.clip(update, self._settings.clip_norm)
        if self._controls is not None:
            self._controls.check(update.control)
        self._combiner.add(update, transforms.weight(self._settings, update))
        if self._controls is not None:
            self._controls.add(update.control, WEIGHT_UNIT)

    def partial(self) -> bytes:
        """What came so far, for `merge` at another aggregator; raises `ConfigError` if it is no mean."""
        return encode_partial(self._sums())

    def merge(self, partial: Buffer, most_weight: float = MAX_WEIGHT) -> None:
        """Take what came at a gateway.

        Raises `ProtocolError`, `TensorError` or `LimitExceeded`; ``most_weight`` is what its clients can
        weigh together: their samples, or with uniform weights their number.
        """
        mine = self._sums()
        theirs = decode_partial(partial, mine[0].shapes, controls=len(mine) > 1)
        if theirs[0].weight > most_weight * WEIGHT_UNIT:
            raise LimitExceeded(
                f"partial sum: its weight {theirs[0].weight / WEIGHT_UNIT:g} is over {most_weight:g}, "
                "what its clients enrolled with"
            )
        for own, other in zip(mine, theirs, strict=True):
            own.merge(other)

    def finish(self) -> Parameters:
        """The new weights."""
        combined: Parameters = self._combiner.combined()
        weights, kept = server.step(self._settings.optimizer, self._model, combined, self._state)
        if self._controls is not None:
            kept |= self._moved_controls(self._controls)
        self._state = kept
        return weights

    def state(self) -> dict[str, NDArray[np.floating]]:
        """What the next round's aggregator has to be given, as plain arrays."""
        return dict(self._state)

    def _sums(self) -> list[FixedSum]:
        if self._mean is None:
            raise ConfigError(
                f"aggregation.combine: {self._settings.combine} cannot be made of partial sums here; "
                "use mean, without central privacy"
            )
        return [self._mean.sum, *([self._controls] if self._controls is not None else [])]

    def _moved_controls(self, changes: FixedSum) -> dict[str, NDArray[np.floating]]:
        """The server's control variate after the round: ``c + |S|/N · mean of changes``."""
        before = controls(self._model, self._state)
        moved = changes.mean(by=max(self._clients, changes.terms))
        return {
            f"{_CONTROL}{name}": np.asarray((before[name] + moved[name]).astype(weight.dtype))
            for name, weight in self._model.items()
        }


def controls(model: Parameters, state: State) -> dict[str, NDArray[np.floating]]:
    """The server's control variate in a state, zeros at first; it travels with the model."""
    out = {}
    for name, weight in model.items():
        kept = state.get(f"{_CONTROL}{name}", np.zeros_like(weight))
        if kept.shape != weight.shape:
            raise TensorError(f"tensor {name!r}: the kept control variate is of another model")
        out[name] = kept
    return out
