"""Offers of training as they come over the wire, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest, check_digest, check_name
from collab.errors import ConfigError, LimitExceeded, ProtocolError
from collab.federated.compression.settings import Compression
from collab.federated.orders import MAX_ORDER_S, OrderId, SumRules, Work
from collab.federated.update import LocalTraining
from collab.node.training_config import TrainingConfig

MAX_SETTINGS_BYTES: Final = 64 * 1024
"""Of the JSON in an offer."""
MAX_CLIP: Final = 1e6
MAX_ROUND: Final = 1 << 40


@dataclass(frozen=True)
class Ask:
    """What an offer asks for."""

    order: OrderId
    evaluate: bool
    trainable: Digest
    work: Work
    encoding: Compression
    """Of the update."""
    clip: float = 0.0
    """L2 norm that the update is clipped to before it leaves; 0 for none."""
    noise_multiplier: float = 0.0
    """Of the noise that is added to it then."""
    sums: SumRules | None = None
    """For a gateway."""
    masked: bool = False
    """The update leaves the node under masks only."""

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """What has to be in the store before the work begins."""
        control = (self.work.control,) if self.work.control is not None else ()
        return (self.trainable, self.work.model, *control)


def order_of(message: pb.TrainingOrder) -> OrderId:
    """The order that a message names; raises `InputError` or `LimitExceeded`."""
    if message.round > MAX_ROUND:
        raise LimitExceeded(f"order.round: {message.round} is over {MAX_ROUND}")
    return OrderId(check_name(message.run, "order.run:"), int(message.round), message.attempt)


def read_offer(request: pb.OfferTrainingRequest) -> Ask:
    """What is asked; raises `ProtocolError`, `InputError` or `LimitExceeded`."""
    if max(len(request.training), len(request.encoding), len(request.sums)) > MAX_SETTINGS_BYTES:
        raise LimitExceeded(f"OfferTraining: settings over {MAX_SETTINGS_BYTES} bytes")
    if not (0 < request.deadline_s <= MAX_ORDER_S):
        raise ProtocolError(f"OfferTraining.deadline_s: {request.deadline_s:g}; give up to {MAX_ORDER_S:g}")
    try:
        training = msgspec.json.decode(request.training or b"{}", type=LocalTraining)
        sums = msgspec.json.decode(request.sums, type=SumRules) if request.sums else None
        encoding = msgspec.json.decode(request.encoding or b"{}", type=Compression).check("encoding")
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise ProtocolError(f"OfferTraining: training or encoding: {error}") from error
    _check(training)
    control = check_digest(request.control, "OfferTraining.control:") if request.control else None
    work = Work(
        model=check_digest(request.weights, "OfferTraining.weights:"),
        training=training,
        deadline_s=request.deadline_s,
        control=control,
        counted=order_of(request.counted) if request.HasField("counted") else None,
        due_s=request.due_s if 0 < request.due_s < math.inf else None,
    )
    if not (0 <= request.clip <= MAX_CLIP and 0 <= request.noise_multiplier <= MAX_CLIP):
        raise ProtocolError(f"OfferTraining: clip {request.clip:g}, noise {request.noise_multiplier:g}")
    return Ask(
        order_of(request.order),
        request.order.evaluate,
        check_digest(request.trainable, "OfferTraining.trainable:"),
        work,
        encoding,
        request.clip,
        request.noise_multiplier,
        sums,
        request.masked,
    )


def unsuited(config: TrainingConfig, ask: Ask) -> str:
    """Why a node with these settings does not do what is asked for at any time; empty where it does."""
    if ask.evaluate:
        return "" if config.data or config.children else "this node has no data of its own"
    if config.masked and not ask.masked:
        return "training.masked: this node's updates leave it under masks only (secure_aggregation of a task)"
    return ""


def _check(training: LocalTraining) -> None:
    """Numbers with which training would not end, or fail far from here."""
    for name in ("epochs", "batch_size"):
        if not 1 <= getattr(training, name) <= 1 << 20:
            raise ProtocolError(f"OfferTraining.training: {name} is {getattr(training, name)}")
    for name in ("learning_rate", "momentum", "proximal"):
        value = getattr(training, name)
        if not (math.isfinite(value) and value >= 0):
            raise ProtocolError(f"OfferTraining.training: {name} is {value}")
    if training.max_steps is not None and training.max_steps < 1:
        raise ProtocolError(f"OfferTraining.training: max_steps is {training.max_steps}")
