"""Sharing a secret so that any ``threshold`` shares restore it and fewer say nothing (Shamir, CACM 1979).

A secret is 32 bytes, taken as the constant of a random polynomial over the integers
modulo `PRIME`.  Python's integers take a time that depends on their values; every secret
that is shared here is used once, in one round.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from collab.errors import ProtocolError

PRIME: Final = (1 << 256) + 297
"""The smallest prime that has room for every secret."""
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
_COEFFICIENT_BYTES: Final = SHARE_BYTES + 16
"""Random bytes for a number below `PRIME`; 16 more than needed, so that the remainder is even to 2^-128."""
_MOST_TRIES: Final = 500


class Recovered(NamedTuple):
    """A restored secret, and at which places the shares were wrong."""

    secret: bytes
    wrong: frozenset[int]


def split(
    secret: bytes, threshold: int, places: Sequence[int], random: Callable[[int], bytes]
) -> dict[int, bytes]:
    """Shares by place.

    Args:
        secret: 32 bytes.
        threshold: So many shares restore it; at least 1, at most the number of places.
        places: Where the polynomial is evaluated: different numbers from 1 on.
        random: Gives so many bytes that nobody can guess.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes")
    if not 1 <= threshold <= len(places) or len(set(places)) < len(places) or min(places) < 1:
        raise ValueError("places are different numbers from 1 on, as many as the threshold at least")
    polynomial = [int.from_bytes(secret, "big")]
    polynomial += [int.from_bytes(random(_COEFFICIENT_BYTES), "big") % PRIME for _ in range(1, threshold)]
    return {place: _evaluate(polynomial, place).to_bytes(SHARE_BYTES, "big") for place in places}


def restore(shares: Mapping[int, bytes]) -> bytes:
    """The secret from exactly as many shares as the threshold; raises `ProtocolError` for what is none."""
    value = _interpolate(_numbers(shares), 0)
    if value >> (8 * SECRET_BYTES):
        raise ProtocolError("shares of a secret: they do not belong together")
    return value.to_bytes(SECRET_BYTES, "big")


def recover(shares: Mapping[int, bytes], threshold: int, check: Callable[[bytes], bool]) -> Recovered:
    """The secret that ``check`` knows, although some shares may be wrong, and which of them are.

    Raises `ProtocolError` when there are too few shares, or too many wrong ones.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"shares of a secret: {len(shares)} came, {threshold} are needed")
    tries = itertools.combinations(sorted(shares), threshold)
    for places in itertools.islice(tries, _MOST_TRIES):
        chosen = {place: shares[place] for place in places}
        try:
            secret = restore(chosen)
        except ProtocolError:
            continue
        if check(secret):
            return Recovered(secret, _strangers(chosen, shares))
    raise ProtocolError(f"shares of a secret: no {threshold} of {len(shares)} give it back")


def _strangers(chosen: Mapping[int, bytes], shares: Mapping[int, bytes]) -> frozenset[int]:
    """Places whose shares are not on the polynomial of the chosen ones."""
    numbers = _numbers(chosen)
    return frozenset(
        place
        for place in shares.keys() - chosen.keys()
        if _interpolate(numbers, place).to_bytes(SHARE_BYTES, "big") != shares[place]
    )


def _numbers(shares: Mapping[int, bytes]) -> dict[int, int]:
    numbers = {place: int.from_bytes(share, "big") for place, share in shares.items()}
    if any(number >= PRIME for number in numbers.values()):
        raise ProtocolError("shares of a secret: one is out of range")
    return numbers


def _evaluate(polynomial: Sequence[int], place: int) -> int:
    """Horner's rule, the constant first."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


def _interpolate(numbers: Mapping[int, int], at: int) -> int:
    places = tuple(sorted(numbers))
    weights = _weights(places, at)
    return sum(weight * numbers[place] for weight, place in zip(weights, places, strict=True)) % PRIME


@lru_cache(maxsize=1024)
def _weights(places: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange's polynomials at one point; the same for all secrets that were shared alike."""
    weights = []
    for place in places:
        over = under = 1
        for other in places:
            if other != place:
                over = over * (at - other) % PRIME
                under = under * (place - other) % PRIME
        weights.append(over * pow(under, -1, PRIME) % PRIME)
    return tuple(weights)
