"""The part of the table from names to implementations that is about back ends.

It stands alone because a process that only runs stages needs nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from collab.node.config import RuntimeConfig
from collab.runtime.base import Backend
from collab.runtime.litert import LiteRT

BACKENDS: Final[dict[str, Callable[[RuntimeConfig], Backend]]] = {
    "litert": lambda config: LiteRT(config.delegate)
}


def backends(stretch: float = 1.0, runtime: RuntimeConfig | None = None) -> dict[str, Backend]:
    """Back ends by name: ours, and those of the entry point group ``collab.backends``.

    ``stretch`` makes all of them that many times slower.
    """
    config = runtime or RuntimeConfig()
    found = {name: make(config) for name, make in BACKENDS.items()}
    for point in entry_points(group="collab.backends"):
        found.setdefault(point.name, point.load()())
    if stretch == 1:
        return found
    from collab.runtime.stretched import Stretched

    return {name: Stretched(backend, stretch) for name, backend in found.items()}
