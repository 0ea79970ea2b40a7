"""``python -m collab.cli.first_run``: runs stages once, so that what they crash is not a node."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from collab.backends import backends
from collab.node.first_run import Order, Said, run_stages

_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 10


def main() -> None:
    """Read an order from standard input, and say on standard output what came of each stage."""
    _stand_back()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    # What libraries print must not stand between the lines.
    out = os.dup(1)
    os.dup2(2, 1)

    def say(said: Said) -> None:
        os.write(out, msgspec.json.encode(said) + b"\n")

    run_stages(order, backends(runtime=order.runtime), say)


def _stand_back() -> None:
    """End with the node, compute after it, and be the first that goes where memory is short."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with suppress(OSError):
        os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
