"""The list of resources in link format (RFC 6690), and its filter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_LISTS: Final = frozenset({"rt", "if", "ct"})
"""Attributes that hold several values, parted by spaces (RFC 6690 3.1, 3.2; RFC 7252 7.2.1)."""
_BARE: Final = frozenset({"ct", "sz"})
"""Attributes that are numbers, unquoted where there is one."""


@dataclass(frozen=True)
class Link:
    """One resource."""

    path: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    observable: bool = False
    """``obs`` (RFC 7641 6)."""

    def __str__(self) -> str:
        parts = [f"<{self.path}>"]
        for name, value in self.attributes.items():
            bare = name in _BARE and value.isdigit()
            parts.append(f"{name}={value}" if bare else f'{name}="{value}"')
        return ";".join(parts + ["obs"] * self.observable)

    def passes(self, query: str) -> bool:
        """Whether one filter of the form ``name=value`` lets it through (RFC 6690 4.1)."""
        name, mark, wanted = query.partition("=")
        if name == "href":
            values = [self.path]
        elif name == "obs":
            return self.observable
        elif name not in self.attributes:
            return False
        else:
            value = self.attributes[name]
            values = value.split() if name in _LISTS else [value]
        if not mark:
            return True
        if wanted.endswith("*"):
            return any(value.startswith(wanted[:-1]) for value in values)
        return wanted in values


def render(links: Iterable[Link], filters: Iterable[str] = ()) -> bytes:
    """The links that pass every filter, as ``application/link-format``."""
    wanted = tuple(filters)
    return ",".join(str(link) for link in links if all(link.passes(one) for one in wanted)).encode()
