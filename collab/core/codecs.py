"""Names of tensor codecs: how elements are written, and a lossless packer behind that or none.

``raw | fp16 | int8 | int8c`` with ``+lz4`` or ``+zstd`` behind it; ``lz4`` and ``zstd``
alone are short for ``raw+lz4`` and ``raw+zstd``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from collab.errors import PlanError

RAW: Final = "raw"
BASES: Final = (RAW, "fp16", "int8", "int8c")
"""How elements are written; all but the first lose digits of floating-point tensors."""
PACKERS: Final = ("lz4", "zstd")
NAMES: Final = tuple(name for base in BASES for name in (base, *(f"{base}+{packer}" for packer in PACKERS)))
"""Every codec in its full spelling."""


class CodecName(NamedTuple):
    """A codec's name taken apart."""

    base: str
    packer: str
    """Empty where there is none."""

    def __str__(self) -> str:
        return f"{self.base}+{self.packer}" if self.packer else self.base

    @property
    def exact(self) -> bool:
        """Whether it gives back what went in, bit by bit."""
        return self.base == RAW

    @property
    def without_loss(self) -> CodecName:
        """The exact codec with the same packer."""
        return CodecName(RAW, self.packer)


@lru_cache(256)
def parse_codec(text: str) -> CodecName:
    """Read a codec's name in full or short; empty is raw.  Raises `PlanError`."""
    base, _, packer = text.partition("+")
    if text in PACKERS:
        base, packer = RAW, text
    name = CodecName(base or RAW, packer)
    if text and text not in (*NAMES, *PACKERS):
        raise PlanError(f"codec {text[:80]!r} is not known here; use one of {', '.join(NAMES)}")
    return name
