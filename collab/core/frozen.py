"""What plans, and other types that people write, are made of."""

from __future__ import annotations

import msgspec


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the plan's types: immutable, unknown fields are errors."""
