"""collab: one model, many small devices.

Split a ``.tflite`` model into stages, run them on peer edge nodes, and get the
whole model's answer back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collab.api import BlockingCluster, Cluster

__all__ = ["BlockingCluster", "Cluster", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the API when it is first used, so that a node starts without it."""
    if name in ("BlockingCluster", "Cluster"):
        from collab import api

        return getattr(api, name)
    raise AttributeError(f"module 'collab' has no attribute {name!r}")
