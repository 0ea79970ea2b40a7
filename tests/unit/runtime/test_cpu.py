"""What is read of ``/proc``: the features that kernels are chosen by, and sizes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from collab.runtime import cpu
from collab.runtime.cpu import cpu_features, device_model, memory_bytes, resident_bytes

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor with avx512_fp16 in its name
flags\t\t: fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 avx512f avx512_vnni amx_tile hypervisor
bugs\t\t: spectre_v1 amx_bf16

processor\t: 1
flags\t\t: fpu sve2
"""

ARM64 = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Hardware\t: Raspberry Pi
"""

ARM32 = """\
processor\t: 0
model name\t: ARMv7 Processor rev 4 (v7l)
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32
"""


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (X86, "amx_tile avx avx2 avx512_vnni avx512f f16c fma sse4_1 sse4_2 ssse3"),
        (ARM64, "asimd asimddp asimdhp bf16 fphp i8mm"),
        (ARM32, "neon vfpv4"),
        ("", ""),
        ("flags", ""),
        ("flags\t:\n", ""),
        ("processor : 0\nmodel name : avx2\n", ""),
        ("FLAGS: AVX2 avx2x avx", "avx"),
    ],
    ids=["x86", "Arm 64", "Arm 32", "nothing", "no colon", "no flags", "only a name", "odd letters"],
)
def test_the_features_of_the_first_processor_that_matter_are_sorted(text, features):
    assert cpu_features(text) == tuple(features.split())


def test_this_devices_own_features_are_read():
    own = Path("/proc/cpuinfo")
    assert cpu_features() == (cpu_features(own.read_text(encoding="utf-8")) if own.exists() else ())


def test_a_device_without_proc_has_no_features_and_no_sizes(monkeypatch):
    def absent(name):
        return Path("/does-not-exist") / str(name).lstrip("/")

    monkeypatch.setattr(cpu, "Path", absent)
    assert cpu_features() == ()
    assert device_model() == platform.machine()
    assert memory_bytes() == 0
    assert resident_bytes() == 0


def test_proc_files_in_another_form_are_unknown_sizes(monkeypatch, tmp_path):
    for name, text in (("proc/meminfo", "MemTotal: lots kB\n"), ("proc/self/statm", "many pages\n")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(cpu, "Path", lambda name: tmp_path / str(name).lstrip("/"))
    assert memory_bytes() == 0
    assert resident_bytes() == 0


def test_sizes_are_in_bytes(monkeypatch, tmp_path):
    path = tmp_path / "proc/meminfo"
    path.parent.mkdir(parents=True)
    path.write_text("MemFree: 1 kB\nMemTotal:        3884156 kB\n")
    monkeypatch.setattr(cpu, "Path", lambda name: tmp_path / str(name).lstrip("/"))
    assert memory_bytes() == 3884156 * 1024


def test_a_board_says_its_name_without_its_trailing_zero(monkeypatch, tmp_path):
    path = tmp_path / "proc/device-tree/model"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0\0more")
    monkeypatch.setattr(cpu, "Path", lambda name: tmp_path / str(name).lstrip("/"))
    assert device_model() == "Raspberry Pi 4 Model B Rev 1.4"
    path.write_bytes(b"\xff" * 500)
    assert len(device_model()) == 80


def test_this_process_takes_some_of_the_memory_that_there_is():
    assert 0 < resident_bytes() < memory_bytes()
