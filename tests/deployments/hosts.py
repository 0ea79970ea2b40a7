"""Hosts over SSH: booted Debian machines in network namespaces, and where they are reached from."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.deployments.machine import copy_of_base, needs, nspawn
from tests.namespaces import Namespaces

CONTROL: Final = "10.77.0.1"
"""Of the place that they are reached from, for all of them."""
USER: Final = "pi"
BOOT_S: Final = 60.0
HALT_S: Final = 30.0


@dataclass(frozen=True)
class Site:
    """Hosts by name, and how they are reached."""

    namespace: str
    addresses: dict[str, str]
    key: Path
    known: Path

    def control(self, *command: object) -> list[str]:
        """A command as it is run where the hosts are reached from."""
        return [*Namespaces.inside(self.namespace), *(str(part) for part in command)]

    def options(self) -> list[str]:
        """Options of ssh that take nothing from this machine's user."""
        return [f"-oUserKnownHostsFile={self.known}", "-oIdentitiesOnly=yes", "-oBatchMode=yes"]

    def ssh(self, host: str, command: str) -> str:
        """What a command on a host prints."""
        done = subprocess.run(
            self.control("ssh", "-i", self.key, *self.options(), f"{USER}@{self.addresses[host]}", command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{host}: {command}: {done.stderr}"
        return done.stdout.strip()


@contextmanager
def site(names: list[str], folder: Path) -> Iterator[Site]:
    """Boot a machine for each name; they are halted at the end."""
    needs("ssh", "ssh-keygen", "ip")
    key, known = folder / "key", folder / "known_hosts"
    _keygen(key)
    with Namespaces() as namespaces, ExitStack() as stack:
        here = namespaces.add("control")
        namespaces.alias(here, f"{CONTROL}/32")
        made = Site(here, {}, key, known)
        for number, name in enumerate(names, 1):
            there, address = namespaces.add(name), f"10.77.{number}.2"
            namespaces.join(here, f"10.77.{number}.1/30", there, f"{address}/30")
            namespaces.route(there, f"10.77.{number}.1")
            machine = copy_of_base(folder / name)
            stack.callback(shutil.rmtree, machine, ignore_errors=True)
            _prepare(machine, name, key)
            with known.open("a") as lines:
                lines.write(f"{address} {(machine / 'etc/ssh/ssh_host_ed25519_key.pub').read_text()}")
            made.addresses[name] = address
            stack.enter_context(_booted(machine, there, folder / f"{name}.log"))
        for name in names:
            _await_ssh(made, name)
        yield made


def _prepare(machine: Path, name: str, key: Path) -> None:
    """A user who may become root, as on Raspberry Pi OS, and a key of the host's own."""
    (machine / "etc/hostname").write_text(f"{name}\n")
    (machine / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    for old in (machine / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    _keygen(machine / "etc/ssh/ssh_host_ed25519_key")
    subprocess.run(["chroot", machine, "useradd", "--create-home", "--shell=/bin/bash", USER], check=True)
    (machine / "etc/sudoers.d/pi").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    own = machine / "home" / USER / ".ssh"
    own.mkdir(mode=0o700)
    shutil.copy(f"{key}.pub", own / "authorized_keys")
    subprocess.run(["chroot", machine, "chown", "-R", USER, f"/home/{USER}"], check=True)


def _keygen(file: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file], check=True)


@contextmanager
def _booted(machine: Path, namespace: str, log: Path) -> Iterator[None]:
    # At the end it is switched off: it is thrown away.
    options = (f"--network-namespace-path=/run/netns/{namespace}", "--boot", "--kill-signal=SIGRTMIN+14")
    command = nspawn(machine, {}, *options)
    with log.open("wb") as console:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(HALT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ssh(made: Site, name: str) -> None:
    deadline = time.monotonic() + BOOT_S
    while True:
        try:
            made.ssh(name, "true")
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
