"""What the training thread does: train, evaluate, and make weights of what came."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from collab.core.ids import Digest
from collab.errors import Cancelled, IntegrityError, ProtocolError
from collab.federated.base import Trainer
from collab.federated.exchange import pack_update, unpack_weights
from collab.federated.orders import OrderId
from collab.federated.update import LocalTraining, Update
from collab.federated.weights import decode_weights, encode_weights
from collab.node.training_config import TrainingConfig
from collab.node.training_files import Made
from collab.node.training_thread import Guard


@dataclass(frozen=True)
class Enrolled:
    """A trainer with this device's data."""

    trainer: Trainer
    samples: int
    """That it trains on."""


MakeTrainer = Callable[[Path, TrainingConfig], Enrolled]
"""Makes a trainer of a trainable model's file and a node's settings; blocks."""


@dataclass(frozen=True)
class Part:
    """A blob that came, and the weights that it stands for."""

    weights: Digest
    blob: Digest
    base: Digest | None
    """Weights that it is a difference to."""


@dataclass(frozen=True)
class Job:
    """One training."""

    client: str
    order: OrderId
    training: LocalTraining
    encoding: bytes
    weights: Path
    control: Path | None
    """The server's control variate."""
    state: bytes
    """The client's."""


@dataclass(frozen=True)
class Product:
    """What came of one training."""

    update: bytes
    state: bytes
    """The client's, once the update counts."""
    made: Made


class _State(msgspec.Struct, frozen=True):
    """What a client remembers from update to update."""

    residual: bytes = b""
    """Left out by the encoding of the last update (error feedback)."""
    control: bytes = b""
    """Its control variate."""


def train(job: Job, enrolled: Enrolled, guard: Guard) -> Product:
    """Train from the job's weights and encode what changed; the same job gives the same bytes.

    Raises `Cancelled` when the guard ends it, and whatever a third party's trainer does.
    """
    start = decode_weights(job.weights.read_bytes())
    state = msgspec.msgpack.decode(job.state, type=_State) if job.state else _State()
    own = decode_weights(state.control) if state.control else {}
    correction = None
    if job.control is not None:
        server = decode_weights(job.control.read_bytes())
        correction = {name: server[name] - own[name] if own else server[name] for name in server}
    trained = enrolled.trainer.train(start, job.training, correction=correction, cancelled=guard)
    if guard():
        raise Cancelled(f"training was ended: {guard.reason}")
    if trained.parameters.keys() != start.keys():
        raise ProtocolError("the trainer gave other tensors than it was given")
    update = Update(
        round=job.order.round,
        client=job.client,
        samples=trained.samples,
        delta={name: trained.parameters[name] - start[name] for name in start},
        control=trained.control,
        metrics=trained.metrics,
    )
    residual = decode_weights(state.residual) if state.residual else {}
    data, left = pack_update(update, job.encoding, residual)
    if trained.control:
        own = {name: own.get(name, np.zeros_like(c)) + c for name, c in trained.control.items()}
    kept = _State(encode_weights(left) if left else b"", encode_weights(own) if own else b"")
    made = Made(
        steps=trained.steps,
        samples=trained.samples,
        seconds=trained.seconds,
        metrics={name: float(value) for name, value in trained.metrics.items()},
    )
    return Product(data, msgspec.msgpack.encode(kept), made)


def evaluate(enrolled: Enrolled, weights: Path) -> Made:
    """How good weights are on held-out data."""
    begun = time.perf_counter()
    metrics = enrolled.trainer.evaluate(decode_weights(weights.read_bytes()))
    found = {name: float(value) for name, value in metrics.items() if name != "samples"}
    samples = int(metrics.get("samples", 0))
    return Made(samples=samples, seconds=time.perf_counter() - begun, metrics=found)


def restore(part: Part, blob: Path, base: Path | None) -> bytes:
    """The weights that a blob stands for, as their digest names them; raises `IntegrityError` for others."""
    data = unpack_weights(blob.read_bytes(), None if base is None else base.read_bytes())
    if hashlib.sha256(data).hexdigest() != part.weights:
        raise IntegrityError(f"weights {part.weights[:12]}: the blob stands for others; send it again")
    return data
