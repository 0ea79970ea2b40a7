"""What msgspec has to learn of a type is learnt while its module is imported.

msgspec 0.22 builds what it knows of a struct at the first use and shows it to other threads half
built: two threads that decode a type for the first time at once end the process with SIGSEGV.  An
import is one thread's, so types that threads decode are prepared at the end of their module.
"""

from __future__ import annotations

import msgspec


def prepare(*kinds: object) -> None:
    """Let threads decode types, and all that they are made of, from now on."""
    for kind in kinds:
        msgspec.json.Decoder(kind)
