"""What the server of a federated run does with weights: gates updates, makes models, encodes broadcasts.

Blocking: it belongs into a thread of its own.  The same blobs give the same bits, so a
resumed server makes the same models.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.ids import Digest
from collab.errors import CollabError, ConfigError, LimitExceeded, ProtocolError
from collab.federated.actions import Aggregate
from collab.federated.aggregate.combine import Combiner
from collab.federated.aggregate.fixed import MAX_WEIGHT, WEIGHT_UNIT, shapes_of
from collab.federated.aggregate.partial import decode_partial, is_partial
from collab.federated.aggregate.rounds import RoundAggregator, controls
from collab.federated.aggregate.settings import Aggregation
from collab.federated.compression.models import encode_model
from collab.federated.compression.settings import Compression
from collab.federated.compression.updates import decode_update
from collab.federated.disk import Folder, replace_file
from collab.federated.entries import Counted
from collab.federated.events import Aggregated, Arrived, Refused
from collab.federated.exchange import pack_arrays, plain_weights, read_weights, unpack_arrays
from collab.federated.gate import Gate, GateSettings, malformed
from collab.federated.journal import Blobs
from collab.federated.orders import OrderId, UpdateRef
from collab.federated.privacy.accounting import Budget, Release
from collab.federated.privacy.clipping import QuantileClip
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.masking import Masking
from collab.federated.privacy.masks import Ring
from collab.federated.privacy.noise import KeyedNoise, Noise
from collab.federated.privacy.private_mean import PrivateMean, private_encoding
from collab.federated.spool import DiskSpool
from collab.federated.sums import MeanOfSum, pack_sum, unpack_sum
from collab.federated.task import Privacy, SecureAggregation
from collab.federated.update import Parameters

_BOUND: Final = "privacy:bound"
"""Clipping bound of the next round."""
_KEY_BYTES: Final = 32
_KEPT: Final = 4
"""Weights in memory that broadcasts can be differences to: a model and a control variate of two rounds."""
_RESIDUAL: Final = "residual:"
"""Of a lossy broadcast: what the clients' model lacks of the server's."""


@dataclass(frozen=True)
class Rules:
    """The parts of a task that are about weights."""

    aggregation: Aggregation = Aggregation()
    gate: GateSettings = GateSettings()
    up: Compression = Compression()
    down: Compression = Compression()
    max_staleness: int = 0
    repeats: bool = False
    """Whether a client may have several orders in one round (``mode: async``)."""
    privacy: Privacy | None = None
    secure: SecureAggregation | None = None
    seed: int = 0
    refuses_sums: str = ""
    """Why a gateway's sum is of no use; empty where it is."""

    @property
    def central(self) -> Privacy | None:
        """Settings of noise that the server adds; None where it adds none."""
        return self.privacy if self.privacy is not None and self.privacy.place == "central" else None


@dataclass(frozen=True)
class Broadcast:
    """A model as it is sent to a client."""

    data: bytes
    base: Digest | None
    """What it is a difference to."""

    @property
    def digest(self) -> Digest:
        """Of the bytes."""
        return Digest(hashlib.sha256(self.data).hexdigest())


class ServerWork:
    """One run's.

    Args:
        rules: Checked ones.
        blobs: The run's.
        scratch: Folder for what robust rules spool.
    """

    def __init__(self, rules: Rules, blobs: Blobs, scratch: Path) -> None:
        self.rules = rules
        self._blobs = blobs
        self._scratch = scratch
        self._gate: Gate | None = None
        self._gate_round, self._gate_model = 0, Digest("")
        self._norms: list[float] = []
        self._verdicts: dict[tuple[str, OrderId], Union[Arrived, Refused]] = {}
        self._models: dict[Digest, Parameters] = {}
        """The newest ones, so that broadcasts can be differences."""
        self._lossy: dict[tuple[Digest, Digest], bytes] = {}
        """Changes that have made a model of the one before, as they are sent."""
        self._broadcasts: dict[tuple[Digest, Digest | None], Broadcast] = {}

    # --- models ------------------------------------------------------------------

    def put_model(self, weights: Parameters) -> tuple[Digest, int]:
        """Keep weights; what names them, and their size."""
        data = plain_weights(weights)
        digest = self._blobs.put(data)
        self._remember(digest, weights)
        return digest, len(data)

    def first_control(self, weights: Parameters) -> Digest | None:
        """The control variate that a run begins with; None where the rule has none."""
        if not self.rules.aggregation.controls:
            return None
        return self._blobs.put(plain_weights(controls(weights, {})))

    def model(self, digest: Digest) -> Parameters:
        """Weights that were kept."""
        if digest not in self._models:
            self._remember(digest, read_weights(self._blobs.get(digest)))
        return self._models[digest]

    def _remember(self, digest: Digest, weights: Parameters) -> None:
        self._models[digest] = weights
        for old in list(self._models)[:-_KEPT]:
            del self._models[old]

    def broadcast(self, digest: Digest, holds: tuple[Digest, ...]) -> Broadcast:
        """A model for a client that holds others, as few bytes as there are without loss."""
        base = next((held for held in reversed(holds) if self._can_build_on(held, digest)), None)
        key = (digest, base)
        if key not in self._broadcasts:
            if len(self._broadcasts) >= 4:
                self._broadcasts.clear()
            self._broadcasts[key] = Broadcast(self._encoded(digest, base), base)
        return self._broadcasts[key]

    def _can_build_on(self, base: Digest, digest: Digest) -> bool:
        if self.rules.down.lossy:
            return (base, digest) in self._lossy
        return base in self._models and base != digest

    def _encoded(self, digest: Digest, base: Digest | None) -> bytes:
        if base is None:
            return encode_model(self.model(digest), Compression(pack=self.rules.down.pack)).data
        if self.rules.down.lossy:
            return self._lossy[base, digest]
        # The base first: what is looked up may put it out, and its blob is gone when its round is over.
        before = self.model(base)
        return encode_model(self.model(digest), self.rules.down, before).data

    # --- the gate ------------------------------------------------------------------

    def enter_round(
        self, round_: int, model: Digest, enrolled: Mapping[str, int], taken: list[Counted]
    ) -> None:
        """Judge updates by a round from now on; ``taken`` were counted in it before a restart."""
        if self._gate is not None and self._gate_round == round_:
            return
        if self._gate is not None:
            self._norms = self._gate.norms or self._norms
            self._verdicts = {key: v for key, v in self._verdicts.items() if key[1].round >= round_}
        self._gate = Gate(
            self.rules.gate,
            self.model(model),
            round_,
            enrolled,
            oldest=max(1, round_ - self.rules.max_staleness),
            controls=self.rules.aggregation.controls,
            norms=self._norms,
            repeats=self.rules.repeats,
        )
        self._gate_round, self._gate_model = round_, model
        for update in taken:
            self._gate.remember(update.client, update.order.round, update.norm)

    def judge(self, client: str, order: OrderId, digest: Digest, data: bytes) -> Union[Arrived, Refused]:
        """Gate an update whose bytes have that digest, and keep it if it is good; harmless twice."""
        known = self._verdicts.get((client, order))
        if isinstance(known, Arrived) and known.update.digest == digest:
            return known
        verdict = self._judged(client, order, digest, data)
        self._verdicts[client, order] = verdict
        return verdict

    def _judged(self, client: str, order: OrderId, digest: Digest, data: bytes) -> Union[Arrived, Refused]:
        assert self._gate is not None
        try:
            update = decode_update(data)
            if update.round != order.round:
                reason = f"is {update.round}, and {order.round} was asked for"
                return Refused(client, order, "round", reason, len(data))
            refusal = self._gate.judge(update, client)
        except CollabError as error:
            refusal = malformed(client, error)
        if refusal is not None:
            return Refused(client, order, refusal.field, refusal.message, len(data))
        self._blobs.put(data)
        reference = UpdateRef(
            digest,
            len(data),
            update.samples,
            norm=self._gate.norms[-1],
            loss=update.metrics.get("loss"),
            metrics=update.metrics,
        )
        return Arrived(client, order, reference)

    def judge_sum(
        self, client: str, order: OrderId, digest: Digest, data: bytes, samples: int
    ) -> Union[Arrived, Refused]:
        """The same for the sum of a gateway, whose children have so many samples as it says."""
        assert self._gate is not None
        rules, shapes = self.rules, shapes_of(self.model(self._gate_model))
        try:
            if order.round != self._gate_round:
                raise ProtocolError(f"a gateway's sum belongs to its round, {order.round}")
            if rules.refuses_sums:
                raise ConfigError(rules.refuses_sums)
            if not 1 <= samples <= self._gate.enrolled(client):
                raise LimitExceeded(f"{samples} samples, and {self._gate.enrolled(client)} were enrolled")
            (total,) = decode_partial(data, shapes)
            most = samples if rules.aggregation.by_samples else total.terms
            if total.weight > most * WEIGHT_UNIT:
                raise LimitExceeded(f"the sum weighs more than its {samples} samples")
        except CollabError as error:
            return Refused(client, order, "sum", str(error), len(data))
        self._blobs.put(data)
        return Arrived(client, order, UpdateRef(digest, len(data), samples))

    # --- aggregation ------------------------------------------------------------------

    def aggregate(self, action: Aggregate, clients: int, models: int) -> Aggregated:
        """The next model, after so many; ``clients`` is how many take part at all (SCAFFOLD's N)."""
        rules = self.rules
        before = self.model(action.model)
        state = unpack_arrays(self._blobs.get(action.state)) if action.state is not None else {}
        residual = {
            name.removeprefix(_RESIDUAL): state.pop(name)
            for name in list(state)
            if name.startswith(_RESIDUAL)
        }
        combiner = self._combiner(action, before, state)
        state.pop(_BOUND, None)
        if rules.aggregation.robust:
            with DiskSpool(self._scratch) as spool:
                aggregator = RoundAggregator(rules.aggregation, before, state, spool=spool, clients=clients)
                weights = self._added(aggregator, action)
        else:
            aggregator = RoundAggregator(rules.aggregation, before, state, clients=clients, combiner=combiner)
            weights = self._added(aggregator, action)
        kept = aggregator.state()
        if isinstance(combiner, PrivateMean):
            kept[_BOUND] = np.float64(combiner.clipping.bound).reshape(())
        change = b""
        if rules.down.lossy:
            # Clients go on with what they can be sent, and the server with the same.
            target = {name: array + residual.get(name, np.float32(0)) for name, array in weights.items()}
            random = np.random.default_rng([rules.seed, action.round])
            change, weights = encode_model(target, rules.down, before, random)
            kept |= {f"{_RESIDUAL}{name}": target[name] - weights[name] for name in target}
        model, size = self.put_model(weights)
        self._lossy = {(action.model, model): change}
        control = None
        if rules.aggregation.controls:
            control = self._blobs.put(plain_weights(controls(weights, kept)))
        state_digest = self._blobs.put(pack_arrays(kept)) if kept else None
        metrics = {"epsilon": epsilon(rules.privacy, models + 1)} if rules.privacy is not None else None
        return Aggregated(action.round, model, size, state_digest, control, metrics)

    def _combiner(
        self, action: Aggregate, before: Parameters, state: Mapping[str, NDArray[np.floating]]
    ) -> Combiner | None:
        """What adds the updates up where it is not the rules' own; an opened sum is in it."""
        masking, private = self._masking(state), None
        if self.rules.central is not None:
            noise, expected = KeyedNoise(self._noise_key(action)), action.expected or len(action.updates)
            private = _begin_private(self.rules.central, before, masking.clip, expected, noise)
        if action.total is None:
            return private
        vector, came = unpack_sum(self._blobs.get(action.total), masking.encoding)
        if private is None:
            return MeanOfSum(masking, shapes_of(before), vector, came)
        private.add_vector(vector, came)
        return private

    def masking(self, model: Digest, state: Digest | None) -> tuple[Masking, int]:
        """What the clients of a round do to their updates, and how long their vectors are."""
        kept = unpack_arrays(self._blobs.get(state)) if state is not None else {}
        found = self._masking(kept)
        return found, found.length(shapes_of(self.model(model)))

    def _masking(self, state: Mapping[str, NDArray[np.floating]]) -> Masking:
        rules = self.rules
        if rules.central is not None:
            bound = float(state[_BOUND]) if _BOUND in state else rules.central.clip
            return Masking(encoding=private_encoding(bound), clip=bound, adaptive=rules.central.adaptive)
        encoding = rules.secure.encoding if rules.secure is not None else Encoding()
        if not rules.aggregation.by_samples:
            encoding = msgspec.structs.replace(encoding, max_samples=1)
        return Masking(encoding=encoding)

    def keep_sum(self, model: Digest, state: Digest | None, total: Ring, clients: int) -> Digest:
        """Keep the opened sum of so many clients' vectors; raises `ProtocolError` where it cannot be one."""
        masking, _ = self.masking(model, state)
        return self._blobs.put(pack_sum(masking, shapes_of(self.model(model)), total, clients))

    def _added(self, aggregator: RoundAggregator, action: Aggregate) -> Parameters:
        for counted in action.updates if action.total is None else ():
            data = self._blobs.get(counted.digest)
            if is_partial(data):
                by_samples = self.rules.aggregation.by_samples
                aggregator.merge(data, counted.samples if by_samples else MAX_WEIGHT)
                continue
            update = decode_update(data)
            aggregator.add(replace(update, staleness=counted.staleness))
        return aggregator.finish()

    def _noise_key(self, action: Aggregate) -> bytes:
        """Drawn once for each release, so that a restart repeats the same noise on the same updates."""
        disk = Folder(self._scratch)
        name = f"noise-{action.round}"
        for old in disk.names():
            if old.startswith("noise-") and old != name:
                disk.remove(old)
        key = disk.read(name)
        if key is None or len(key) != _KEY_BYTES:
            key = secrets.token_bytes(_KEY_BYTES)
            replace_file(disk, name, key)
        return key


def _begin_private(
    private: Privacy, model: Parameters, bound: float, expected: int, noise: Noise
) -> PrivateMean:
    """A round's mean under central differential privacy."""
    # A twentieth of the cohort is usual; small ones need more, so that the weights can have less.
    count_noise = max(expected / 20, private.noise_multiplier) if private.adaptive else 0.0
    return PrivateMean(
        shapes_of(model),
        QuantileClip(bound=bound, count_noise=count_noise),
        noise,
        noise_multiplier=private.noise_multiplier,
        cohort=expected,
        adaptive=private.adaptive,
    )


def spent(private: Privacy | None, models: int) -> str:
    """Why no further model may be made after so many; empty while the budget allows one more."""
    if private is None or private.epsilon is None:
        return ""
    release = Release(noise_multiplier=private.noise_multiplier, place=private.place)
    budget = Budget(private.epsilon, private.delta, ((release, models),) if models else ())
    if budget.allows(release):
        return ""
    return f"privacy.epsilon: {private.epsilon:g} at delta {private.delta:g} does not allow another round"


def epsilon(private: Privacy, models: int) -> float:
    """What so many models have cost at the task's delta."""
    release = Release(noise_multiplier=private.noise_multiplier, place=private.place)
    return Budget(math.inf, private.delta, ((release, models),)).spent()
