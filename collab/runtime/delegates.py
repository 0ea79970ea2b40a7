"""Delegates of LiteRT beside XNNPACK: shared libraries that are used where they are, and missed where not."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from collab.errors import ConfigError

XNNPACK: Final = "xnnpack"
AUTO: Final = "auto"
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "edgetpu": ("libedgetpu.so.1", "libedgetpu.1.dylib"),
        "gpu": ("libtensorflowlite_gpu_delegate.so", "libLiteRtGpuAccelerator.so"),
        "openvino": ("libopenvino_intel_delegate.so", "libtensorflowlite_openvino_delegate.so"),
    }
)
"""Names under which the loader may find each one."""
AUTOMATIC: Final = ("edgetpu",)
"""Those that ``auto`` takes when they are there: what they do not know runs as without them."""
MAX_NAME: Final = 4096


@dataclass(frozen=True)
class Chosen:
    """The delegate that is used, and what to tell of one that is not.

    Attributes:
        name: as runtime classes have it.
        library: to load for each interpreter; None for XNNPACK, which LiteRT brings.
        remark: why it is another one than was wanted; empty if it is not.
    """

    name: str = XNNPACK
    library: str | None = None
    remark: str = ""


def loads(library: str) -> str | None:
    """Why a shared library cannot be loaded; None if it can."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def choose(wanted: str, loads: Callable[[str], str | None] = loads) -> Chosen:
    """Find the delegate of a setting; one that is not here is a remark and XNNPACK in its place.

    Args:
        wanted: ``auto``, ``xnnpack``, a name of `LIBRARIES`, or the path of a library.
        loads: says why a library cannot be loaded, or None.

    Raises:
        ConfigError: it is neither a name nor a path.
    """
    if wanted == XNNPACK:
        return Chosen()
    if wanted == AUTO:
        for name in AUTOMATIC:
            for library in LIBRARIES[name]:
                if loads(library) is None:
                    return Chosen(name, library)
        return Chosen()
    if wanted in LIBRARIES:
        for library in LIBRARIES[wanted]:
            if loads(library) is None:
                return Chosen(wanted, library)
        tried = " or ".join(LIBRARIES[wanted])
        return Chosen(
            remark=f"delegate {wanted!r} is not here (no {tried}): stages run on XNNPACK; install its "
            "library, or give its path as runtime.delegate"
        )
    if not ("/" in wanted or ".so" in wanted) or len(wanted) > MAX_NAME or "\0" in wanted:
        names = ", ".join((AUTO, XNNPACK, *LIBRARIES))
        raise ConfigError(
            f"runtime.delegate: {wanted[:80]!r} is no delegate; use {names} or a library's path"
        )
    reason = loads(wanted)
    if reason is not None:
        return Chosen(remark=f"delegate {wanted} cannot be loaded ({reason}): stages run on XNNPACK")
    return Chosen(wanted.rpartition("/")[2].partition(".so")[0].removeprefix("lib"), wanted)
