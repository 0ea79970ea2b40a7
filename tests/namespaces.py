"""Hosts of a test as network namespaces, joined by veth pairs; needs root, iproute2 and nftables."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Final

REMEDY: Final = (
    "this test makes network namespaces: run it as root with iproute2 and nftables installed "
    "(Debian: apt-get install iproute2 nftables)"
)


def run(*command: str, given: str = "") -> str:
    """Run a command to its end; its output."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}\n{REMEDY}"
    return done.stdout


class Namespaces:
    """Namespaces that vanish on leaving; names get a prefix of this process."""

    def __init__(self) -> None:
        self._prefix = f"ct{os.getpid() % 100000}"
        self._made: list[str] = []
        self._pairs = 0

    def __enter__(self) -> Namespaces:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        assert os.geteuid() == 0, REMEDY
        assert shutil.which("ip", path=path), REMEDY
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(self._made):
            run("ip", "netns", "del", name)

    def add(self, name: str) -> str:
        """A namespace with its loopback up; its full name."""
        full = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full)
        self._made.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def join(self, one: str, address: str, other: str, other_address: str) -> tuple[str, str]:
        """A cable between two namespaces; addresses with their prefix length.  The devices' names."""
        self._pairs += 1
        devices = (f"{self._prefix}a{self._pairs}", f"{self._prefix}b{self._pairs}")
        run(
            "ip",
            "link",
            "add",
            devices[0],
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            devices[1],
            "netns",
            other,
        )
        for namespace, device, place in zip((one, other), devices, (address, other_address), strict=True):
            run("ip", "-n", namespace, "addr", "add", place, "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "up")
        return devices

    def alias(self, namespace: str, address: str) -> None:
        """A further address of the namespace itself."""
        run("ip", "-n", namespace, "addr", "add", address, "dev", "lo")

    def route(self, namespace: str, gateway: str) -> None:
        """The default route."""
        run("ip", "-n", namespace, "route", "add", "default", "via", gateway)

    def masquerade(self, namespace: str, outside: str) -> None:
        """Make it a router that hides what is behind it, and lets nothing in that was not asked for."""
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = f"""
            table ip nat {{
              chain post {{
                type nat hook postrouting priority 100;
                oifname "{outside}" masquerade;
              }}
            }}
            table ip filter {{
              chain forward {{
                type filter hook forward priority 0; policy accept;
                iifname "{outside}" ct state new drop;
              }}
            }}
        """
        run("ip", "netns", "exec", namespace, "nft", "-f", "-", given=rules)

    @staticmethod
    def inside(namespace: str) -> tuple[str, ...]:
        """What stands before a command to run it in a namespace."""
        return ("ip", "netns", "exec", namespace)
