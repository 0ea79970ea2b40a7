"""Keys in hardware that speaks PKCS#11, ``hsm:ID?label=TOKEN``: is a token plugged in, what is its key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from collab.errors import BackendError, InputError
from collab.updates.extra import updates_extra

with updates_extra():
    from securesystemslib.signer import HSMSigner, Key

SCHEME: Final = "hsm:"
MODULE: Final = "PYKCS11LIB"
"""Names the token's own library."""


def plugged_in(uri: str) -> bool:
    """Is the token of a key at this machine?  One without its library's name is somebody else's.

    Raises:
        BackendError: there is a library, and nothing to speak to it.
        InputError: the library cannot be used.
    """
    if not os.environ.get(MODULE):
        return False
    label = _parts(uri)[1]
    pkcs11 = _pkcs11()
    try:
        flags = pkcs11.TokenFlag.TOKEN_INITIALIZED
        tokens = pkcs11.lib(os.environ[MODULE]).get_tokens(token_label=label, token_flags=flags)
        return next(iter(tokens), None) is not None
    except Exception as error:  # what libraries raise is theirs
        raise InputError(f"{MODULE}={os.environ[MODULE]}: {told_by(error)}") from error


def public_key(uri: str, pin: Callable[[str], str]) -> Key:
    """The public part of a key, asked of its token; raises as `plugged_in`, and `InputError` without one."""
    if not os.environ.get(MODULE):
        raise InputError(f"{uri}: set {MODULE} to the token's PKCS#11 library, or give its public key as PEM")
    number, label = _parts(uri)
    _pkcs11()
    try:
        return HSMSigner.import_(number, label, pin)[1]
    except Exception as error:  # what libraries raise is theirs
        raise InputError(f"{uri}: {told_by(error)}") from error


def told_by(error: BaseException | None) -> str:
    """What hardware says; many of its errors have no words, only names such as PinIncorrect."""
    return f"{error!s:.200}" or type(error).__name__


def _parts(uri: str) -> tuple[int | None, str | None]:
    parts = urlsplit(uri)
    if parts.path and not parts.path.isdecimal():
        raise InputError(f"{uri[:80]!r}: give hsm:ID?label=TOKEN with the number of a key, such as hsm:2")
    return int(parts.path) if parts.path else None, dict(parse_qsl(parts.query)).get("label")


def _pkcs11() -> Any:
    try:
        import pkcs11
    except ModuleNotFoundError as error:
        raise BackendError(
            f"keys in hardware need {error.name}, which is missing: pip install 'collab[hsm]'"
        ) from error
    return pkcs11
