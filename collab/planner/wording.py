"""Figures in words: every number with its unit, three digits where they matter."""

from __future__ import annotations

import math

from collab.planner.chains import Chain, Objective

NOTHING = "–"
"""What stands for a figure that there is not."""


def number(value: float) -> str:
    """Three digits, thousands apart; ``–`` where it is not finite."""
    if not math.isfinite(value):
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    # Exponents are for machines: below this it is nothing to people.
    return "0" if "e" in text else text


def duration(ms: float) -> str:
    """A time given in ms: ``12.3 ms``, ``12.3 s`` from ten seconds on."""
    if not math.isfinite(ms):
        return NOTHING
    return f"{number(ms / 1000)} s" if ms >= 10_000 else f"{number(ms)} ms"


def size(count: float) -> str:
    """Bytes with a decimal unit."""
    if not math.isfinite(count):
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def rate(mbit_s: float) -> str:
    """A rate of a link given in Mbit/s."""
    return f"{number(mbit_s)} Mbit/s"


def answers(bottleneck_ms: float) -> str:
    """Answers a second of a pipeline whose bottleneck takes this many ms for each."""
    if not math.isfinite(bottleneck_ms):
        return NOTHING
    return f"{number(1000 / bottleneck_ms)} answers/s" if bottleneck_ms > 0 else "answers without a limit"


def energy(joules: float) -> str:
    """Energy given in J."""
    if not math.isfinite(joules):
        return NOTHING
    return f"{number(1000 * joules)} mJ" if joules < 1 else f"{number(joules)} J"


def percent(share: float) -> str:
    """A share between 0 and 1."""
    return f"{number(100 * share) if share < 0.1 else f'{100 * share:.0f}'} %"


def figure(objective: Objective, value: float) -> str:
    """What an objective makes as small as can be, with its unit; throughput as answers a second."""
    if objective == "latency":
        return duration(value)
    if objective == "throughput":
        return answers(value)
    return energy(value) if objective == "energy" else size(value)


def place(chain: Chain) -> str:
    """Where a chain runs and where it is cut: ``a → b+c at 12``."""
    nodes = " → ".join("+".join(stage.nodes) for stage in chain.stages)
    return f"{nodes} at {', '.join(map(str, chain.cuts))}" if chain.cuts else nodes


def plain(text: str, most: int = 40) -> str:
    """Text of a foreign model on one line: nothing that steers a terminal, no longer than ``most``."""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
