"""Keys that sign releases: files under a passphrase, or whatever securesystemslib can reach by a URI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from collab.errors import CollabError, ConfigError, InputError
from collab.security.files import private_directory, write
from collab.updates.extra import updates_extra

with updates_extra():
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
    from tuf.api.exceptions import UnsignedMetadataError

    from collab.updates.repository.hardware import SCHEME, plugged_in, public_key, told_by

URI: Final = "x-collab-uri"
"""Signed field of a public key: where its private key is, for keys that are not files."""
MAX_KEY_BYTES: Final = 64 << 10
MIN_PASSPHRASE: Final = 8


def make_key(folder: Path, label: str, passphrase: str) -> Key:
    """Make an Ed25519 key in a file of its own, encrypted; returns the public part.

    Raises:
        ConfigError: the folder cannot be written.
        InputError: the passphrase is too short.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise InputError(f"the passphrase of release keys needs {MIN_PASSPHRASE} characters at least")
    private = Ed25519PrivateKey.generate()
    public = SSlibKey.from_crypto(private.public_key())
    data = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )
    private_directory(folder, "keys")
    write(folder / f"{label}-{public.keyid[:12]}.pem", data)
    return public


def key_at(uri: str, public: Path) -> Key:
    """A key that is elsewhere (``hsm:``, ``gcpkms:``, …), by its URI and its public part as PEM."""
    try:
        key = SSlibKey.from_crypto(serialization.load_pem_public_key(_read(public)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{public}: is no public key in PEM") from error
    key.unrecognized_fields[URI] = uri
    return key


def key_in_token(uri: str, pin: Callable[[str], str]) -> Key:
    """A key in a hardware token at this machine, which tells its public part; raises as `public_key`."""
    key = public_key(uri, pin)
    key.unrecognized_fields[URI] = uri
    return key


@dataclass(frozen=True)
class Keyring:
    """The keys that are at hand on this machine.

    Attributes:
        folders: where key files are, or right below.
        passphrase: asked for once, when a file needs it.
        secret: asked for by name (a PIN) and URI for keys at a URI.
    """

    folders: tuple[Path, ...] = ()
    passphrase: Callable[[], str] = lambda: ""
    secret: Callable[[str, str], str] | None = None
    _signers: dict[str, Any] = field(default_factory=dict)

    def signer(self, key: Key) -> Signer | None:
        """What signs as a key; None if it is not at hand.

        Raises:
            InputError: the key is there and cannot be used.
        """
        if key.keyid not in self._signers:
            uri = key.unrecognized_fields.get(URI)
            self._signers[key.keyid] = self._at(key, uri) if uri is not None else self._file(key)
        return self._signers[key.keyid]

    def _file(self, key: Key) -> Signer | None:
        for folder in self.folders:
            pattern = f"*-{key.keyid[:12]}.pem"
            for path in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
                try:
                    private = serialization.load_pem_private_key(_read(path), self.passphrase().encode())
                except (ValueError, TypeError) as error:
                    raise InputError(f"{path}: wrong passphrase, or no private key") from error
                return CryptoSigner(private, key)
        return None

    def _at(self, key: Key, uri: str) -> Signer | None:
        if uri.startswith(SCHEME) and not plugged_in(uri):
            return None
        secret = self.secret
        asked = None if secret is None else lambda name: secret(name, uri)
        try:
            return Signer.from_priv_key_uri(uri, key, asked)
        except FileNotFoundError:
            return None
        except Exception as error:  # each kind of signer raises errors of its own
            raise InputError(f"{_named(key)}: {error}") from error


def sign(metadata: Any, key: Key, signer: Signer) -> None:
    """Add a key's signature to TUF metadata; raises `InputError` when the key does not give a good one."""
    try:
        metadata.sign(signer, append=True)
        key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    except UnsignedMetadataError as error:
        cause = error.__cause__
        if isinstance(cause, CollabError):
            raise cause from None
        raise InputError(f"{_named(key)}: {told_by(cause)}") from error
    except UnverifiedSignatureError as error:
        del metadata.signatures[key.keyid]
        raise InputError(
            f"{_named(key)}: what is there is another key; name each token differently"
        ) from error


def _named(key: Key) -> str:
    return f"key {key.keyid[:12]} at {key.unrecognized_fields.get(URI, 'a file')}"


def keys_of(delegator: Any, role: str) -> list[Key]:
    """Keys that may sign a role, as its delegator says."""
    return [delegator.get_key(keyid) for keyid in delegator.get_delegated_role(role).keyids]


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
