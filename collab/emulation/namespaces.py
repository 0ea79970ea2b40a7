"""Network namespaces without names, and devices in them, by the kernel's own calls.

A namespace lives as long as a process is in it or has it open, so nothing is left of it
when they have ended, however they did.  The host's own devices are never touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from collab.emulation.segments import HEADER_BYTES
from collab.errors import BackendError

DEVICE: Final = "emulated"
QUEUE_PACKETS: Final = 10_000
"""What a host may have sent and the emulator not yet read."""
PREFIX_BITS: Final = 16

REMEDY: Final = (
    "needs root, or a user namespace of its own (`unshare --user --map-root-user`), and /dev/net/tun "
    "(modprobe tun; a container: --device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN)"
)

# linux/sched.h, linux/if_tun.h, linux/sockios.h, linux/if.h, linux/route.h
CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_TUN_F_TSO_ECN: Final = 0x08
_SIOCADDRT: Final = 0x890B
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFBRDADDR: Final = 0x891A
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFMTU: Final = 0x8922
_SIOCSIFTXQLEN: Final = 0x8943
_IFF_UP_MULTICAST: Final = 0x1001
_RTF_UP: Final = 0x0001

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave_network() -> None:
    """Be in a network of nothing for good; so the host's own is out of reach.

    It also belongs to this process's user namespace, so that it can be returned to.
    Raises BackendError where that is not allowed.
    """
    try:
        _check(_libc.unshare(CLONE_NEWNET))
    except OSError as error:
        raise BackendError(f"network namespace: {error.strerror}; {REMEDY}") from error


@contextmanager
def fresh_namespace() -> Iterator[int]:
    """Be in a new network namespace; gives a descriptor of it, which the caller closes."""
    with _returning():
        _check(_libc.unshare(CLONE_NEWNET))
        _without_ipv6()
        _with_tcp_of_devices()
        configure("lo")
        yield _own()


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Be in a network namespace."""
    with _returning():
        _check(_libc.setns(namespace, CLONE_NEWNET))
        yield


@contextmanager
def _returning() -> Iterator[None]:
    home = _own()
    try:
        yield
    finally:
        try:
            _check(_libc.setns(home, CLONE_NEWNET))
        finally:
            os.close(home)


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_tun(address: IPv4Address, mtu: int, *, offload: bool) -> int:
    """A TUN device in this namespace, with the default route and groups; its descriptor.

    Raises OSError where the kernel has none, or refuses it.
    """
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
        if offload:
            fcntl.ioctl(tun, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_BYTES))
            fcntl.ioctl(tun, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO_ECN)
        configure(DEVICE, address, mtu)
    except BaseException:
        os.close(tun)
        raise
    return tun


def _without_ipv6() -> None:
    for name in ("all", "default"):
        # Router solicitations would only be noise; where this cannot be written they are dropped.
        with suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")


def _with_tcp_of_devices() -> None:
    """Linux's usual congestion control, whatever this machine prefers: BBR, say, hardly minds losses.

    Where namespaces may not use CUBIC they may Reno; over short ways both do the same.
    """
    for name in ("cubic", "reno"):
        with suppress(OSError):
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(name, encoding="ascii")
            return


def configure(device: str, address: IPv4Address | None = None, mtu: int = 0) -> None:
    """Set a device of this namespace up; with an address it gets the default route and groups too."""

    def named(rest: bytes) -> bytes:
        return struct.pack("16s24s", device.encode(), rest)

    def place(at: IPv4Address | int) -> bytes:
        return struct.pack("HH4s8x", socket.AF_INET, 0, IPv4Address(at).packed)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def ask(what: int, request: bytes) -> None:
            fcntl.ioctl(control, what, request)

        if address is not None:
            mask = (0xFFFFFFFF << (32 - PREFIX_BITS)) & 0xFFFFFFFF
            ask(_SIOCSIFADDR, named(place(address)))
            ask(_SIOCSIFNETMASK, named(place(mask)))
            ask(_SIOCSIFBRDADDR, named(place(int(address) | ~mask & 0xFFFFFFFF)))
            ask(_SIOCSIFMTU, named(struct.pack("i", mtu)))
            with suppress(PermissionError):  # in a user namespace the kernel's own 500 stays
                ask(_SIOCSIFTXQLEN, named(struct.pack("i", QUEUE_PACKETS)))
        ask(_SIOCSIFFLAGS, named(struct.pack("H", _IFF_UP_MULTICAST)))
        if address is not None:
            _default_route(control, device, place(0))


def _default_route(control: socket.socket, device: str, nowhere: bytes) -> None:
    """Add it, by a struct rtentry."""
    name = ctypes.create_string_buffer(device.encode())
    entry = struct.pack(
        "@L16s16s16sHhLPhPLLH",
        *(0, nowhere, nowhere, nowhere, _RTF_UP, 0, 0, 0, 0, ctypes.addressof(name), 0, 0, 0),
    )
    fcntl.ioctl(control, _SIOCADDRT, entry)


def processes_in(namespaces: Collection[int]) -> list[int]:
    """Processes, by id, in network namespaces that are given by inode."""
    found = []
    for entry in Path("/proc").iterdir():
        # Processes may end meanwhile, or be somebody else's.
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "ns" / "net").stat().st_ino in namespaces:
                found.append(int(entry.name))
    return found


def end_processes_in(namespaces: Collection[int]) -> None:
    """Kill what is left in namespaces of ours; never this process, nor what is where it is."""
    own = os.stat("/proc/self/ns/net").st_ino
    if own in namespaces:
        raise BackendError("network namespace: this process is in the one to be emptied; nothing was ended")
    for process in processes_in(namespaces):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
