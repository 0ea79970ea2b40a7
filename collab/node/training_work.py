"""What the training thread does: train, evaluate, and make weights of what came."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.ids import Digest
from collab.errors import Cancelled, IntegrityError, ProtocolError
from collab.federated.base import Trainer
from collab.federated.compression.models import decode_model
from collab.federated.compression.settings import Compression
from collab.federated.compression.updates import encode_update
from collab.federated.exchange import pack_arrays, plain_weights, read_weights, unpack_arrays
from collab.federated.orders import OrderId
from collab.federated.update import LocalTraining, Parameters, Update
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
    encoding: Compression
    clip: float
    noise_multiplier: float
    weights: Path
    control: Path | None
    """The server's control variate."""
    state: bytes
    """The client's."""
    mask: Callable[[Parameters, int], bytes] | None = None
    """Makes of an update and its samples what may leave; None: the update is encoded as it is."""


@dataclass(frozen=True)
class Product:
    """What came of one training."""

    update: bytes
    state: bytes
    """The client's, once the update counts."""
    made: Made


_FEEDBACK: Final = "feedback:"
"""What the encoding of the last update left out."""
_CONTROL: Final = "control:"
"""The client's control variate."""


def train(job: Job, enrolled: Enrolled, guard: Guard) -> Product:
    """Train from the job's weights and encode what changed; the same job gives the same bytes.

    Raises `Cancelled` when the guard ends it, and whatever a third party's trainer does.
    """
    start = read_weights(job.weights.read_bytes())
    state = unpack_arrays(job.state) if job.state else {}
    own = _of(state, _CONTROL)
    correction = None
    if job.control is not None:
        server = read_weights(job.control.read_bytes())
        correction = {name: array - own[name] if own else array for name, array in server.items()}
    trained = enrolled.trainer.train(start, job.training, correction=correction, cancelled=guard)
    if guard.stopped:
        raise Cancelled(f"training was ended: {guard.reason}")
    if trained.parameters.keys() != start.keys():
        raise ProtocolError("the trainer gave other tensors than it was given")
    # The trainer knows the difference of both variates alone, so what has changed is found here.
    change = {name: array - own[name] if own else array for name, array in trained.control.items()}
    update = Update(
        round=job.order.round,
        client=job.client,
        samples=trained.samples,
        delta={name: trained.parameters[name] - array for name, array in start.items()},
        control=change,
        metrics={name: float(value) for name, value in trained.metrics.items()},
    )
    if job.clip:
        update = _private(update, job.clip, job.noise_multiplier)
    made = Made(steps=trained.steps, samples=trained.samples, seconds=trained.seconds)
    if job.mask is not None:
        # What one client's training measured would tell of it alone, so it stays here.
        return Product(job.mask(update.delta, update.samples), job.state, made)
    made = msgspec.structs.replace(made, metrics=dict(update.metrics))
    random = np.random.default_rng([job.training.seed, job.order.round])
    data, feedback = encode_update(update, job.encoding, _of(state, _FEEDBACK), random)
    kept = {f"{_FEEDBACK}{name}": array for name, array in feedback.items()}
    kept |= {f"{_CONTROL}{name}": array for name, array in (trained.control or own).items()}
    return Product(data, pack_arrays(kept), made)


def _private(update: Update, clip: float, noise_multiplier: float) -> Update:
    """The update with noise of its own; what it says of the data besides is left out."""
    # Ciphers that nodes without local privacy need not load.
    from collab.federated.privacy.noise import KeyedNoise
    from collab.federated.privacy.private_mean import locally_private

    noise = KeyedNoise(secrets.token_bytes(32))
    noisy = locally_private(update.delta, clip, noise_multiplier, noise)
    delta = {name: noisy[name].astype(array.dtype) for name, array in update.delta.items()}
    return replace(update, delta=delta, metrics={})


def _of(state: Mapping[str, NDArray[np.floating]], prefix: str) -> dict[str, NDArray[np.floating]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def evaluate(enrolled: Enrolled, weights: Path) -> Made:
    """How good weights are on held-out data."""
    begun = time.perf_counter()
    metrics = enrolled.trainer.evaluate(read_weights(weights.read_bytes()))
    found = {name: float(value) for name, value in metrics.items() if name != "samples"}
    samples = int(metrics.get("samples", 0))
    return Made(samples=samples, seconds=time.perf_counter() - begun, metrics=found)


def restore(part: Part, blob: Path, base: Path | None) -> bytes:
    """The exact form of the weights that a blob stands for; raises `IntegrityError` for others."""
    before = None if base is None else read_weights(base.read_bytes())
    data = plain_weights(decode_model(blob.read_bytes(), before))
    if hashlib.sha256(data).hexdigest() != part.weights:
        raise IntegrityError(f"weights {part.weights[:12]}: the blob stands for others; send it again")
    return data
