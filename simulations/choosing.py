"""Which cases of an experiment are run: by their values, and by what this machine can.  Pure but for that."""

from __future__ import annotations

from collections.abc import Sequence

from collab.emulation.ability import machine_lacks
from collab.errors import BackendError, UsageError
from simulations.experiment import Case


def allowed(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """Those that all of ``only``, such as ``profile=lte,wifi6``, let through.

    Raises `UsageError` where none is left, `BackendError` where what is left cannot be emulated here.
    """
    left = list(cases)
    for text in only:
        axis, mark, values = text.partition("=")
        known = sorted({name for case in cases for name in case.axes})
        if not mark or not values or axis not in known:
            raise UsageError(f"--only {text!r}: write AXIS=VALUE,VALUE; axes are {', '.join(known)}")
        wanted = [value.strip().lower() for value in values.split(",")]
        left = [case for case in left if str(case.axes[axis]).lower() in wanted]
        if not left:
            found = dict.fromkeys(str(case.axes[axis]) for case in cases)
            raise UsageError(f"--only {text!r}: no case is left; {axis} may be {', '.join(found)}")
    lacks = machine_lacks() if any(case.kind == "emulated" for case in left) else None
    if lacks:
        raise BackendError(f"{lacks}; or leave emulation out: --only kind=simulated")
    return left
