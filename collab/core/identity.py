"""Who an end of a link is, as its certificate says: a name, a role, a cluster."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from collab.core.ids import NodeName, check_name
from collab.errors import InputError

ROLES: Final = ("node", "client", "operator", "controller")
"""Roles that a certificate can give; `collab.node.verbs` says what each may call."""

_CLUSTER: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class Principal(NamedTuple):
    """An identity that a certificate of the cluster's authority proves."""

    name: NodeName
    role: str
    cluster: str

    def __str__(self) -> str:
        """The name in the certificate's subject alternative name (RFC 5280 4.2.1.6)."""
        return f"{self.name}.{self.role}.{self.cluster}"


class Pem(NamedTuple):
    """An identity in the form that libraries take, PEM each."""

    key: bytes
    certificate: bytes
    authority: bytes
    """Certificate of the cluster's authority."""


def check_cluster(value: str, what: str) -> str:
    """Return ``value`` if it can name a cluster; else raise `InputError`."""
    if not _CLUSTER.fullmatch(value):
        raise InputError(
            f"{what} {value[:40]!r}: use 1 to 32 lower-case letters, digits or '-', "
            "starting and ending with a letter or digit"
        )
    return value


def check_role(value: str, what: str) -> str:
    """Return ``value`` if it is a role; else raise `InputError`."""
    if value not in ROLES:
        raise InputError(f"{what} {value[:40]!r}: use one of {', '.join(ROLES)}")
    return value


def parse_principal(text: str) -> Principal:
    """Read ``name.role.cluster``; the name may have dots itself.  Raises `InputError`."""
    name, _, rest = text.rpartition(".")
    name, _, role = name.rpartition(".")
    what = f"identity {text[:120]!r}: it is no name.role.cluster:"
    return Principal(
        NodeName(check_name(name, f"{what} name")),
        check_role(role, f"{what} role"),
        check_cluster(rest, what),
    )
