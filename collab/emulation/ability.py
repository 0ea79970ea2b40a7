"""What this machine can emulate with, and what to do where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final, Literal

from collab.core.plan import Frozen
from collab.errors import ConfigError

BackendName = Literal["auto", "netem", "userspace"]
PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Where users' own paths do not lead."""


class Choice(Frozen, frozen=True):
    """A back end, and why it is that one."""

    backend: Literal["netem", "userspace"]
    why: str


def choose_backend(wanted: BackendName, has_netem: bool, missing: Sequence[str]) -> Choice:
    """The back end for a network.  Pure.

    Args:
        wanted: by the user.
        has_netem: whether the kernel has it.
        missing: what of the network netem cannot do.

    Raises ConfigError where the wanted one cannot do it.
    """
    if wanted == "userspace":
        return Choice("userspace", "asked for")
    if not has_netem:
        if wanted == "netem":
            raise ConfigError("backend: this kernel has no netem (modprobe sch_netem); use userspace")
        return Choice("userspace", "this kernel has no netem")
    if not missing:
        return Choice("netem", "asked for" if wanted == "netem" else "this kernel has netem")
    if wanted == "netem":
        raise ConfigError(f"backend: netem cannot do {', '.join(missing)}; use userspace")
    return Choice("userspace", f"netem cannot do {', '.join(missing)}")


def lacking(effective_user: int, tun: bool, nsenter: bool, user_namespaces: bool) -> str | None:
    """What keeps a machine from emulating, with the remedy; None if nothing does.  Pure."""
    if not nsenter:
        return "nsenter is missing: install util-linux"
    if not tun:
        return (
            "/dev/net/tun cannot be opened: be root, modprobe tun, or give the container "
            "--device /dev/net/tun; `collab simulate` needs none"
        )
    if effective_user != 0:
        if user_namespaces:
            return (
                "network namespaces need root: run the command behind `unshare --user --map-root-user`, "
                "or as root; `collab simulate` needs neither"
            )
        return "network namespaces need root, and user namespaces are not allowed here: use `collab simulate`"
    return None


def machine_lacks() -> str | None:
    """What keeps this machine from emulating, with the remedy; None if nothing is known to."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        tun = True
    except OSError:
        tun = False
    is_root = os.geteuid() == 0
    nsenter = shutil.which("nsenter", path=PATH) is not None
    return lacking(os.geteuid(), tun, nsenter, not is_root and rootless_prefix() is not None)


def rootless_prefix() -> tuple[str, ...] | None:
    """What stands before a command to run it as root of a user namespace; None if that is not allowed."""
    prefix = ("unshare", "--user", "--map-root-user")
    try:
        done = subprocess.run(
            [*prefix, "--net", "true"], capture_output=True, timeout=10, check=False, env={"PATH": PATH}
        )
    except OSError:
        return None
    return prefix if done.returncode == 0 else None
