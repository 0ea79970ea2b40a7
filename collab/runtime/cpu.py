"""The processor's features that decide which kernels run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

_X86: Final = """
    ssse3 sse4_1 sse4_2 avx f16c fma avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni avx_vnni
    avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 avx_vnni_int8 avx_ne_convert
"""
"""What XNNPACK, ruy and Eigen choose kernels by, as the kernel names it."""
_ARM: Final = "neon vfpv4 asimd fphp asimdhp asimddp i8mm svei8mm bf16 sve sve2 sme sme2 fcma"
_RELEVANT: Final = frozenset((*_X86.split(), *_ARM.split()))


def cpu_features(cpuinfo: str | None = None) -> tuple[str, ...]:
    """Sorted features that kernels are chosen by, from the text of ``/proc/cpuinfo``."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            cpuinfo = ""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return tuple(sorted(_RELEVANT.intersection(value.split())))
    return ()


def device_model() -> str:
    """What the device calls itself, such as a board's name; the machine type if nothing better."""
    for source in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        try:
            name = Path(source).read_bytes().split(b"\0")[0].decode("utf-8", "replace").strip()
        except OSError:
            continue
        if name:
            return name[:80]
    return platform.machine()


def memory_bytes() -> int:
    """Physical memory; 0 if unknown."""
    return _meminfo("MemTotal:")


def available_bytes() -> int:
    """What a new process can have without anybody swapping; 0 if unknown."""
    return _meminfo("MemAvailable:")


def _meminfo(row: str) -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(row):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def resident_bytes(process: str = "self") -> int:
    """Resident memory of a process by its id, of this one by default; 0 if unknown."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()
