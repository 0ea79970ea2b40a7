"""Certificates of the server, which may be renewed while it serves."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from collab.errors import ConfigError, UsageError


class Loaded(NamedTuple):
    """What was in the files, as both protocols use it."""

    context: ssl.SSLContext
    grpc: Any


class TlsFiles(NamedTuple):
    """Paths of PEM files; with ``client_ca`` clients must have a certificate that it signed."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in self if path is not None)

    def load(self) -> Loaded:
        """Read them; raises `ConfigError` for files that cannot be used, or not together."""
        cert, key, *authority = read = [_read(path) for path in self.paths]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--tls-cert, --tls-key, --client-ca: cannot be used: {error}") from error
        if read != [_read(path) for path in self.paths]:
            raise ConfigError(f"{self.cert}: was changed while it was read; try again")
        return Loaded(
            context,
            grpc.ssl_server_certificate_configuration([(key, cert)], authority[0] if authority else None),
        )


class Certificates:
    """What new connections of a server get to see; those that are there keep what they have."""

    def __init__(self, loaded: Loaded) -> None:
        self._now = loaded
        self._grpc_has = loaded.grpc
        self.context = loaded.context
        """For a server that takes one context and keeps it."""
        # Called in each handshake, whether or not the client names a host.
        self.context.sni_callback = self._put_newest

    def renew(self, loaded: Loaded) -> None:
        """Use what was read anew."""
        self._now = loaded

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server, which asks for what is new before each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._now.grpc,
            self._new_for_grpc,
            require_client_authentication=self.context.verify_mode is ssl.CERT_REQUIRED,
        )

    def _put_newest(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: Any) -> None:
        connection.context = self._now.context

    def _new_for_grpc(self) -> Any:
        newest = self._now.grpc
        if newest is self._grpc_has:
            return None
        self._grpc_has = newest
        return newest


def tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """What the options ask for together; raises `UsageError`."""
    if (cert is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key: give both or none")
    if cert is None or key is None:
        if client_ca is not None:
            raise UsageError("--client-ca: give --tls-cert and --tls-key as well")
        return None
    return TlsFiles(cert, key, client_ca)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a PEM file") from error
