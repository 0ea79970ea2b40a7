"""Certificates of the server."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import grpc

from collab.errors import ConfigError, UsageError


class TlsFiles(NamedTuple):
    """Paths of PEM files; with ``client_ca`` clients must have a certificate that it signed."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server; reads the files.  Raises `ConfigError`."""
        cert, key, *authority = (_read(path) for path in self if path is not None)
        return grpc.ssl_server_credentials(
            [(key, cert)], authority[0] if authority else None, require_client_auth=bool(authority)
        )


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
