"""How updates become the vectors of a round's secure sum, and who is invited to it under which terms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from collab.core.decoding import prepare
from collab.core.ids import Digest
from collab.errors import LimitExceeded, ProtocolError
from collab.federated.privacy.fixed_point import Encoding, Shapes, encode, vector_length
from collab.federated.privacy.masks import Ring, statement
from collab.federated.privacy.messages import Terms
from collab.federated.privacy.private_mean import clipped_update, private_shapes
from collab.federated.update import LocalTraining, Parameters

MAX_INVITATION_BYTES: Final = 64 * 1024
"""512 names of 63 characters, and what they are told."""


class Masking(msgspec.Struct, frozen=True, kw_only=True):
    """What a client does to its update before it is masked."""

    encoding: Encoding = Encoding()
    clip: Annotated[float, Meta(ge=0)] = 0.0
    """L2 norm that the update is clipped to (central differential privacy); 0 for none."""
    adaptive: bool = False
    """One more number says whether the norm was within ``clip``."""

    def shapes(self, model: Shapes) -> dict[str, tuple[int, ...]]:
        """Of what is summed."""
        return private_shapes(model) if self.adaptive else dict(model)

    def length(self, model: Shapes) -> int:
        """Numbers of a vector."""
        return vector_length(self.shapes(model))

    def vector(self, delta: Parameters, samples: int) -> Ring:
        """An update as it is summed; who has more samples than the encoding has room for counts for the most.

        Raises `TensorError` for what is not finite or has no room.
        """
        shapes = self.shapes({name: array.shape for name, array in delta.items()})
        if self.clip:
            delta = clipped_update(delta, self.clip, adaptive=self.adaptive)
        return encode(self.encoding, shapes, delta, min(samples, self.encoding.max_samples))


class Invitation(msgspec.Struct, frozen=True):
    """The first message of a secure sum to a client."""

    terms: Terms
    clip: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    adaptive: bool = False

    @property
    def masking(self) -> Masking:
        """What it asks a client to do."""
        return Masking(encoding=self.terms.encoding, clip=self.clip, adaptive=self.adaptive)


def invite(
    session: str, clients: Iterable[str], threshold: int, length: int, basis: bytes, masking: Masking
) -> Invitation:
    """An invitation of these clients; names and threshold are checked by whoever takes it."""
    terms = Terms(session, tuple(sorted(clients)), threshold, length, basis, masking.encoding)
    return Invitation(terms, masking.clip, masking.adaptive)


def basis_of(trainable: Digest, weights: Digest, training: LocalTraining, masking: Masking) -> bytes:
    """What all clients of a sum have to have been asked: the same work on the same weights."""
    asked = msgspec.to_builtins(training)
    del asked["seed"]  # a client's own
    parts = (trainable, weights, asked, masking.clip, masking.adaptive)
    return hashlib.sha256(statement("collab secure sum: basis", *parts)).digest()


def encode_invitation(invitation: Invitation) -> bytes:
    """An invitation as bytes."""
    return msgspec.msgpack.encode(invitation)


def decode_invitation(data: bytes) -> Invitation:
    """The invitation again; raises `ProtocolError` or `LimitExceeded`."""
    if len(data) > MAX_INVITATION_BYTES:
        raise LimitExceeded(
            f"secure aggregation: an invitation has {len(data)} bytes, "
            f"at most {MAX_INVITATION_BYTES} are taken"
        )
    try:
        return msgspec.msgpack.decode(data, type=Invitation)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError("secure aggregation: the invitation is malformed") from error


prepare(Invitation)
