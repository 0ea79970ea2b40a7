"""Places for the marks of an axis, and what to write at them."""

from __future__ import annotations

import math

from collab.planner.wording import number


def ticks(end: float, most: int) -> list[float]:
    """At most so many round values from 0 to ``end``, 0 among them; 0 alone where there is nothing."""
    if end <= 0 or most < 2:
        return [0.0]
    step = _round_up(end / (most - 1))
    return [index * step for index in range(math.floor(end / step + 1e-9) + 1)]


def covering(low: float, high: float, most: int) -> list[float]:
    """Evenly spaced round values from at or below ``low`` to at or above ``high``, about ``most`` of them.

    Zero is among them unless the values are far from it.
    """
    if low > 0 and low < high / 2:
        low = 0.0
    span = high - low
    if span <= 1e-6 * abs(high):
        # All the same: marks a millionth apart would all read alike.
        span = abs(high) or 1.0
    step = _round_up(span / (most - 1))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [index * step for index in range(first, last + 1)]


def log_covering(low: float, high: float) -> list[float]:
    """Powers of ten from at or below ``low``, above 0, to at or above ``high``; with 2 and 5 where few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 3:
        return [10.0**power for power in range(first, last + 1)]
    steps = [times * 10.0**power for power in range(first, last + 1) for times in (1, 2, 5)]
    below = max((step for step in steps if step <= low * (1 + 1e-9)), default=steps[0])
    above = min((step for step in steps if step >= high * (1 - 1e-9) and step > below), default=steps[-1])
    return [step for step in steps if below <= step <= above]


def time_unit(end_ms: float) -> tuple[float, str]:
    """What to divide ms by on an axis to ``end_ms``, and the unit that gives."""
    return (1000.0, "s") if end_ms >= 10_000 else (1.0, "ms")


def mark(value: float) -> str:
    """A value of a tick; powers of ten in short from a million on and below a thousandth."""
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, _, power = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(power)}" if mantissa != "1" else f"10{_superscript(int(power))}"
    return number(value) if abs(value) < 100 else f"{value:,.0f}"


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _round_up(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1.0, 2.0, 2.5, 5.0, 10.0) if times * power >= step * (1 - 1e-9))
