"""Cuts that make a chain's slowest stage as fast as it can be on equal devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

from collab.errors import CutError


def even_cuts(op_ms: Sequence[float], allowed: Collection[int], stages: int) -> tuple[int, ...]:
    """Cut positions for ``stages`` stages whose largest total of ``op_ms`` is smallest.

    ``allowed`` are the cuts that can be made; among equals the earlier cuts win.
    Dynamic programming over (position, stages left), O(cuts² · stages).
    Raises `CutError` if there are not enough cuts.
    """
    places = [0, *sorted(allowed), len(op_ms)]
    if stages < 1 or stages > len(places) - 1:
        raise CutError(
            f"{stages} stages: the model can be cut into at most {len(places) - 1}; use fewer nodes"
        )
    total = [0.0, *accumulate(op_ms)]
    last = len(places) - 1
    # best[i]: smallest largest stage over places[i:], with as many stages as rounds made.
    best = [total[places[last]] - total[place] for place in places]
    choice: list[list[int]] = []
    for made in range(1, stages):
        longer, chosen = [float("inf")] * len(places), [last] * len(places)
        for i in range(last - made):
            for j in range(i + 1, last - made + 1):
                worst = max(total[places[j]] - total[places[i]], best[j])
                if worst < longer[i]:
                    longer[i], chosen[i] = worst, j
        best = longer
        choice.append(chosen)
    cuts, at = [], 0
    for chosen in reversed(choice):
        at = chosen[at]
        cuts.append(places[at])
    return tuple(cuts)
