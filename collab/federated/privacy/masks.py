"""Keys that pairs of clients agree on, and the masks that grow from them.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), ChaCha20 (RFC 8439) as the generator: small
devices have no instructions for AES.  A key makes one stream or seals one message, so
nonces are zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from collab.errors import ProtocolError

Ring = NDArray[np.unsignedinteger]
"""Whole numbers modulo 2^32 or 2^64; numpy's unsigned types wrap around by themselves."""

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
_BLOCK_BYTES: Final = 1 << 18
"""Of a stream that is made at a time, so that it stays in the processor's cache."""
_ZEROS: Final = bytes(_BLOCK_BYTES)
_SEALING_NONCE: Final = bytes(12)
_STREAM_NONCE: Final = bytes(16)


class Mask(NamedTuple):
    """A stream that is added to a vector or taken from it."""

    key: bytes
    sign: Literal[1, -1]


def private_key(secret: bytes) -> X25519PrivateKey:
    """The key that 32 random bytes are."""
    return X25519PrivateKey.from_private_bytes(secret)


def public_bytes(secret: bytes) -> bytes:
    """What others may know of it."""
    return private_key(secret).public_key().public_bytes_raw()


def agreed_key(secret: bytes, public: bytes, *purpose: str | bytes) -> bytes:
    """The key that two ends agree on for one purpose; raises `ProtocolError` for a point of low order."""
    try:
        shared = private_key(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError("public key: it is no point that a key can be agreed on with") from error
    return derived_key(shared, *purpose)


def derived_key(secret: bytes, *purpose: str | bytes) -> bytes:
    """A key for one purpose."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=statement(*purpose)).derive(secret)


def statement(*parts: Any) -> bytes:
    """Bytes that say these parts and no others: lengths are in them (MessagePack)."""
    return msgspec.msgpack.encode(parts)


def seal(key: bytes, plain: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate; a key seals one message."""
    return ChaCha20Poly1305(key).encrypt(_SEALING_NONCE, plain, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Raises `ProtocolError` when it is not what was sealed with that key."""
    try:
        return ChaCha20Poly1305(key).decrypt(_SEALING_NONCE, sealed, about)
    except InvalidTag as error:
        raise ProtocolError("sealed shares: they were not made for this session and client") from error


def stream(key: bytes) -> CipherContext:
    """An endless stream of bytes: what comes out for zeros."""
    return Cipher(algorithms.ChaCha20(key, _STREAM_NONCE), mode=None).encryptor()


def apply_masks(vector: Ring, masks: Iterable[Mask]) -> None:
    """Add streams to a vector or take them from it, in place, as little-endian numbers of its type."""
    width = vector.dtype.itemsize
    streams = [(stream(mask.key), mask.sign) for mask in masks]
    raw = bytearray(_BLOCK_BYTES)
    numbers = np.frombuffer(raw, vector.dtype.newbyteorder("<"))
    step = _BLOCK_BYTES // width
    for start in range(0, len(vector), step):
        part = vector[start : start + step]
        size = len(part) * width
        for source, sign in streams:
            source.update_into(memoryview(_ZEROS)[:size], raw)
            if sign > 0:
                np.add(part, numbers[: len(part)], out=part)
            else:
                np.subtract(part, numbers[: len(part)], out=part)
