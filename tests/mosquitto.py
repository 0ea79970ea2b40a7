"""A real mosquitto on loopback, with the configuration that this package writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collab.security.broker import mosquitto_acl, mosquitto_config

START_S = 15.0
CLUSTER = "test"


class Certificates:
    """A throw-away authority in a folder, and certificates of it, as files and as contexts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.authority = self._write("authority.pem", made.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, alternative: x509.GeneralName | None = None) -> tuple[str, str]:
        """Files of a certificate and its key, with the name as common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        known_as = alternative or x509.DNSName(f"{name}.node.{CLUSTER}")
        made = self._builder(subject, key).add_extension(x509.SubjectAlternativeName([known_as]), False)
        certificate = self._write(f"{name}.pem", made.sign(self._key, hashes.SHA256()))
        path = self._folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, str(path)

    def server(self) -> dict[str, str]:
        """Settings of a broker at 127.0.0.1."""
        certificate, key = self.issue("broker", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        return {"authority": self.authority, "certificate": certificate, "key": key}

    def security(self, name: str) -> Any:
        """What a transport needs of a `Security`."""
        certificate, key = self.issue(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.authority)
        context.load_cert_chain(certificate, key)
        return SimpleNamespace(context=lambda *, server_side: context)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key())
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def _write(self, file: str, certificate: x509.Certificate) -> str:
        path = self._folder / file
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


def program() -> str:
    """Where mosquitto is; its absence fails a test."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail("mosquitto is missing: apt-get install mosquitto", pytrace=False)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker process, which may be killed and started again at its port."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = free_port()
        self.folder = folder
        acl, configuration = folder / "acl", folder / "mosquitto.conf"
        if settings.pop("acl", False):
            acl.write_text(mosquitto_acl())
            acl.chmod(0o600)
            settings["acl_file"] = str(acl)
        extra = settings.pop("extra", "")
        # A broker started by root would give up its rights, and could not read a temporary folder then.
        user = "user root\n"
        configuration.write_text(
            user + mosquitto_config(host="127.0.0.1", port=self.port, **settings) + extra
        )
        self._command = [program(), "-c", str(configuration)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"mosquitto does not start: {self.log[-2000:]}", pytrace=False)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.01)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if process is not None:
            process.wait()

    def restart(self, how: int = signal.SIGTERM) -> None:
        """End it in the given way and start it again at the same port."""
        self.stop(how)
        self.start()

    async def restarted(self, how: int = signal.SIGTERM) -> None:
        """`restart`, while the event loop goes on."""
        await asyncio.to_thread(self.restart, how)


@contextlib.contextmanager
def mosquitto_tls(**settings: Any) -> Iterator[tuple[Mosquitto, Certificates]]:
    """A running broker that demands certificates, and who issues them."""
    with tempfile.TemporaryDirectory(prefix="collab-certificates-") as folder:
        certificates = Certificates(Path(folder))
        with mosquitto(**certificates.server(), **settings) as broker:
            yield broker, certificates


@contextlib.contextmanager
def mosquitto(**settings: Any) -> Iterator[Mosquitto]:
    """A running broker; ``settings`` are those of `mosquitto_config`, ``acl`` and ``extra`` lines."""
    with tempfile.TemporaryDirectory(prefix="collab-mosquitto-") as folder:
        broker = Mosquitto(Path(folder), **settings)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
