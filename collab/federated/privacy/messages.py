"""What server and clients of a secure sum say to each other, and how much of it.

One message of each kind a session and direction, as MessagePack with its kind.  Who sent it
is not in it: the link says that.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, TypeAlias, TypeVar, Union

import msgspec
from msgspec import Meta

from collab.core.ids import check_name
from collab.errors import ConfigError, InputError, LimitExceeded, ProtocolError
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.masks import KEY_BYTES, TAG_BYTES
from collab.federated.privacy.shamir import SHARE_BYTES

MAX_CLIENTS: Final = 512
"""Of one sum; each makes a mask for every other one."""
MAX_LENGTH: Final = 1 << 26
"""Numbers of one vector."""
MAX_SIGNATURE_BYTES: Final = 4096
"""With the certificate that it is checked by."""
_OVERHEAD_BYTES: Final = 4096

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=63)]
Key: TypeAlias = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_SIGNATURE_BYTES)]
Share: TypeAlias = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
_SEALED_BYTES: Final = 2 * SHARE_BYTES + TAG_BYTES
Sealed: TypeAlias = Annotated[bytes, Meta(min_length=_SEALED_BYTES, max_length=_SEALED_BYTES)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_CLIENTS)]
_Few: Final = Meta(max_length=MAX_CLIENTS)


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all of a sum's clients have to have the same of; every key and signature is bound to it."""

    session: Annotated[str, Meta(min_length=1, max_length=200)]
    """Task, round and attempt.  A client never takes part in the same session twice."""
    invited: Names
    """Clients, in the order of their names."""
    threshold: int
    """So many have to stay to the end, and so many shares restore a secret."""
    length: Annotated[int, Meta(ge=1, le=MAX_LENGTH)]
    """Numbers of the vector."""
    basis: Key
    """SHA-256 of what the clients were asked and of the weights that they began with: clients that
    were told different things cannot be summed."""
    encoding: Encoding = Encoding()
    """How updates become vectors, so that nobody can be told to send larger numbers than others."""

    @property
    def vector_bytes(self) -> int:
        """Of one client's input."""
        return self.length * self.encoding.ring_bits // 8

    @property
    def max_message_bytes(self) -> int:
        """No message of this session is longer."""
        a_client = 64 + 2 * KEY_BYTES + MAX_SIGNATURE_BYTES + 64
        return _OVERHEAD_BYTES + max(self.vector_bytes, len(self.invited) * a_client)

    def digest(self) -> bytes:
        """Of all of it."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()


def default_threshold(invited: int) -> int:
    """More than two thirds: then a server together with fewer than a third of the clients learns nothing.

    (Bonawitz et al., CCS 2017, theorem 6.5.)
    """
    return 2 * invited // 3 + 1


def check_terms(terms: Terms) -> None:
    """Raise `ConfigError` for terms under which a sum would not hide its terms."""
    count = len(terms.invited)
    for name in terms.invited:
        try:
            check_name(name, "secure aggregation: client")
        except InputError as error:
            raise ConfigError(str(error)) from error
    if list(terms.invited) != sorted(set(terms.invited)):
        raise ConfigError("secure aggregation: name every invited client once, in the order of the names")
    if count > MAX_CLIENTS:
        raise ConfigError(f"secure aggregation: {count} clients are invited, at most {MAX_CLIENTS} can be")
    if count < 3:
        raise ConfigError(f"secure aggregation: {count} clients are invited; a sum hides its terms from 3 on")
    # With half or less a server could tell two halves different things and get both kinds of shares.
    if not count // 2 < terms.threshold <= count:
        raise ConfigError(
            f"secure aggregation: threshold {terms.threshold} has to be more than half of "
            f"{count} clients and at most all; {default_threshold(count)} is the usual one"
        )
    terms.encoding.check(count)


class Keys(msgspec.Struct, frozen=True, tag="keys"):
    """Client: its public keys of this session, signed by its identity."""

    cipher: Key
    """For shares that others seal for it."""
    mask: Key
    """For masks."""
    signature: Signature


class Roster(msgspec.Struct, frozen=True, tag="roster"):
    """Server: everybody's keys."""

    keys: Annotated[dict[Name, Keys], _Few]


class Shares(msgspec.Struct, frozen=True, tag="shares"):
    """Client: shares of its two secrets, sealed for each of the others."""

    sealed: Annotated[dict[Name, Sealed], _Few]
    commitment: Key
    """SHA-256 of the seed of its own mask, so that wrong shares are seen."""


class Inbox(msgspec.Struct, frozen=True, tag="inbox"):
    """Server: the shares that others sealed for this client."""

    sealed: Annotated[dict[Name, Sealed], _Few]


class Masked(msgspec.Struct, frozen=True, tag="masked"):
    """Client: its vector under all masks, little-endian."""

    vector: bytes


class Survivors(msgspec.Struct, frozen=True, tag="survivors"):
    """Server: whose vectors are in the sum."""

    names: Names


class Agreement(msgspec.Struct, frozen=True, tag="agreement"):
    """Client: its signature over the roster and the survivors."""

    signature: Signature


class Agreements(msgspec.Struct, frozen=True, tag="agreements"):
    """Server: the signatures of at least as many survivors as the threshold."""

    signatures: Annotated[dict[Name, Signature], _Few]


class Revealed(msgspec.Struct, frozen=True, tag="revealed"):
    """Client: a share of each survivor's own mask, and of the key of each that dropped out."""

    seeds: Annotated[dict[Name, Share], _Few]
    keys: Annotated[dict[Name, Share], _Few]


FromClient: TypeAlias = Union[Keys, Shares, Masked, Agreement, Revealed]
FromServer: TypeAlias = Union[Roster, Inbox, Survivors, Agreements]
_M = TypeVar("_M")
_ENCODER: Final = msgspec.msgpack.Encoder()
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient]] = msgspec.msgpack.Decoder(FromClient)
_FROM_SERVER: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)


def encode(message: FromClient | FromServer) -> bytes:
    """A message as bytes."""
    return _ENCODER.encode(message)


def decode_from_client(data: bytes, terms: Terms) -> FromClient:
    """A message of a client; raises `ProtocolError` or `LimitExceeded`."""
    return _decode(_FROM_CLIENT, data, terms)


def decode_from_server(data: bytes, terms: Terms) -> FromServer:
    """A message of the server; raises `ProtocolError` or `LimitExceeded`."""
    return _decode(_FROM_SERVER, data, terms)


def _decode(decoder: msgspec.msgpack.Decoder[_M], data: bytes, terms: Terms) -> _M:
    if len(data) > terms.max_message_bytes:
        raise LimitExceeded(
            f"secure aggregation: a message has {len(data)} bytes, "
            f"at most {terms.max_message_bytes} are taken"
        )
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # What arrived is not repeated: it may be an update.
        raise ProtocolError("secure aggregation: a message is malformed") from error
