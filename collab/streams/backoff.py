"""How long to wait before trying again."""

from __future__ import annotations

from random import Random
from typing import Final

FIRST_S: Final = 0.2
LONGEST_S: Final = 10.0


def pause_s(failures: int, rng: Random) -> float:
    """Before the next try, after so many failures in a row, 1 or more.

    Twice as long each time up to `LONGEST_S`, and a random half of it less, so that many that
    lost the same thing do not come back at once.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + rng.random() / 2)
