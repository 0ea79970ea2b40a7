"""Normal noise from a generator that cannot be guessed.

Noise is rounded to whole steps of the fixed-point sum that it is added to.  The sum of
whole numbers and rounded noise is the rounding of their sum with the noise itself, so the
guarantee of the Gaussian mechanism holds as it is, and the last bits of floating-point
numbers, which betray what noise was added to, never leave (Mironov, CCS 2012).
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError
from collab.federated.privacy.masks import stream

_PAIRS: Final = 1 << 16
"""Pairs of numbers made at a time."""


class Noise(Protocol):
    """A source of the standard normal distribution."""

    def normal(self, count: int) -> NDArray[np.float64]:
        """So many independent numbers."""


class KeyedNoise:
    """The Box–Muller transform of a ChaCha20 stream.

    The key decides all of it.  Draw one of 32 bytes by `secrets.token_bytes` for each release,
    keep it as a secret until the release is stored, so that a restart repeats the same noise
    and not another on the same data, then destroy it.  No number is beyond 8.6 standard
    deviations, which costs less than 2^-52 of delta a number.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = stream(key)

    def normal(self, count: int) -> NDArray[np.float64]:
        """So many independent numbers."""
        out = np.empty(count + count % 2)
        for start in range(0, len(out), 2 * _PAIRS):
            part = out[start : start + 2 * _PAIRS]
            half = len(part) // 2
            bits = np.frombuffer(self._stream.update(bytes(16 * half)), "<u8") >> np.uint64(11)
            # Within (0, 1] and [0, 1), in steps of 2^-53.
            radius = np.sqrt(-2 * np.log((bits[:half] + np.uint64(1)) * 2.0**-53))
            angle = bits[half:] * (2 * np.pi * 2.0**-53)
            part[:half] = radius * np.cos(angle)
            part[half:] = radius * np.sin(angle)
        return out[:count]


def rounded_noise(noise: Noise, deviation: float, count: int) -> NDArray[np.int64]:
    """Whole numbers whose standard deviation is ``deviation``; raises `ConfigError` over 2^58."""
    if not 0 <= deviation <= 2.0**58:
        raise ConfigError("privacy: noise of that deviation has no room; lower the multiplier or the bound")
    return np.rint(noise.normal(count) * deviation).astype(np.int64)
