"""What a task says about compression, and what two ends agree on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, Union

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import ConfigError

Elements = Literal["raw", "fp16", "int8", "int8c"]

ABILITIES: Final = frozenset({"fp16", "int8", "int8c", "top", "zstd"})
"""What this version can read; ends tell each other."""


class Compression(Frozen, frozen=True, kw_only=True):
    """How the tensors of an update or a model are written."""

    elements: Elements = "raw"
    """As they are, in half precision, or in 8 bits with one scale a tensor or (``int8c``) a channel."""
    top: Union[float, None] = None
    """Share of the elements that travel, the largest ones; all where it is not given."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of 8-bit elements."""
    pack: bool = True
    """Entropy-coded by zstd."""

    @property
    def lossy(self) -> bool:
        """Whether what comes out may differ from what went in."""
        return self.elements != "raw" or self.top is not None

    def check(self, path: str = "compression.up") -> Compression:
        """Return self, or raise `ConfigError` that names the field."""
        if self.top is not None and not 0 < self.top <= 1:
            raise ConfigError(f"{path}.top: {self.top:g} cannot be; use a share over 0 and up to 1")
        if self.rounding == "stochastic" and not self.elements.startswith("int8"):
            raise ConfigError(
                f"{path}.rounding: stochastic is for int8 and int8c; {path}.elements is {self.elements}"
            )
        return self

    def for_peer(self, abilities: Collection[str]) -> Compression:
        """The nearest of this that a peer with those abilities can read."""
        elements: Elements = self.elements
        if elements == "int8c" and "int8c" not in abilities:
            elements = "int8"
        if elements == "int8" and "int8" not in abilities:
            elements = "fp16"
        if elements == "fp16" and "fp16" not in abilities:
            elements = "raw"
        return Compression(
            elements=elements,
            top=self.top if "top" in abilities else None,
            rounding=self.rounding if elements.startswith("int8") else "nearest",
            pack=self.pack and "zstd" in abilities,
        )


prepare(Compression)
