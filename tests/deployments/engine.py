"""Images by buildah and containers by podman, in a folder of their own: a local base, no registry."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deployments.machine import ROOT, base, needs

BASE: Final = "localhost/debian:12"
IMAGE: Final = "localhost/collab:trial"
DOCKERFILE: Final = ROOT / "deployments" / "container" / "Dockerfile"
STEP_S: Final = 240.0
LIMITS: Final = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Below what a container inside another machine may ask for."""


class Engine:
    """Runs the programs with their storage in a folder, and what runs in one of a short name."""

    def __init__(self, folder: Path, short: Path) -> None:
        needs("buildah", "podman", "runc")
        self._folder, self._short = folder, short
        driver = "overlay" if "overlay" in Path("/proc/filesystems").read_text() else "vfs"
        self._storage = [f"--root={folder}/root", f"--runroot={short}/run", f"--storage-driver={driver}"]
        policy = folder / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._policy = f"--signature-policy={policy}"

    def buildah(self, command: str, *arguments: object) -> str:
        """What a command of buildah says."""
        return self._said(["buildah", *self._storage, command, *arguments])

    def podman(self, command: str, *arguments: object, code: int | None = 0) -> str:
        """What a command of podman says, its errors included; its exit code has to be this one."""
        return self._said([*self._podman(), command, *arguments], code)

    def _podman(self) -> list[str]:
        quiet = ["--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=file"]
        return ["podman", *self._storage, f"--tmpdir={self._short}/tmp", *quiet]

    def _said(self, command: list[Any], code: int | None = 0) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_S,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._folder)},
        )
        assert code is None or done.returncode == code, f"{command[0]} {command[4:]}\n{done.stdout[-3000:]}"
        return done.stdout.strip()

    def build(self, wheels: Path) -> str:
        """The Dockerfile on a Debian that debootstrap made, its pip told to look into a folder alone."""
        made = self.buildah("from", self._policy, "scratch").splitlines()[-1]
        inside = Path(self.buildah("mount", made).splitlines()[-1])
        subprocess.run(["cp", "-a", f"{base()}/.", inside], check=True, timeout=STEP_S)
        (inside / "etc/pip.conf").write_text("[global]\nno-index = yes\nfind-links = /wheels\n")
        self.buildah("umount", made)
        self.buildah("commit", self._policy, "--disable-compression", made, BASE)
        self.buildah("rm", made)
        return self.buildah(
            *("bud", self._policy, "--isolation=chroot", "--pull-never", "--format=docker"),
            *(f"--build-arg=BASE={BASE}", f"--volume={wheels}:/wheels:ro", f"--file={DOCKERFILE}"),
            *(f"--ignorefile={DOCKERFILE}.dockerignore", f"--tag={IMAGE}", ROOT),
        )

    def inspect(self) -> dict[str, Any]:
        """What the image says of itself."""
        (image,) = json.loads(self.podman("image", "inspect", IMAGE))
        return {**image["Config"], "Healthcheck": image["Healthcheck"]}

    def run(self, *arguments: object) -> str:
        """Run a container to its end, as the compose file would: read-only, no network, no rights."""
        return self.podman("run", "--rm", *self.hardened(), IMAGE, *arguments)

    @contextmanager
    def running(self, name: str, *arguments: object, mounts: Mapping[Path, str]) -> Iterator[None]:
        """A container that stays until the end of the block."""
        self.podman("run", "--detach", f"--name={name}", *self.hardened(mounts), IMAGE, *arguments)
        try:
            yield
        finally:
            self.podman("rm", "--force", "--time=1", name)

    def await_line(self, name: str, words: str, within_s: float = 60.0) -> str:
        """The log of a container up to the line with these words."""
        command = ["timeout", str(within_s), *self._podman(), "logs", "--follow", name]
        seen: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                seen.append(line)
                if words in line:
                    process.terminate()
                    return "".join(seen)
        pytest.fail(f"{name} did not say {words!r}: {''.join(seen)[-2000:]}", pytrace=False)

    def close(self) -> None:
        """Leave no mounts behind."""
        self.podman("rm", "--all", "--force", "--time=1", code=None)
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")

    @staticmethod
    def hardened(mounts: Mapping[Path, str] = {}) -> list[str]:
        """Options of `podman run` as in the compose file."""
        return [
            *(
                "--read-only",
                "--read-only-tmpfs=false",
                "--tmpfs=/tmp",
                "--cap-drop=ALL",
                "--security-opt=no-new-privileges",
                "--network=none",
                *LIMITS,
            ),
            "--health-interval=disable",  # that would be systemd's; a test asks itself
            *(f"--volume={place}:{inside}" for place, inside in mounts.items()),
        ]
