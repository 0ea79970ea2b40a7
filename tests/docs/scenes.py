"""Pictures for the page about pipelines, in ``x.npz``: noise has nothing to find, and is answered as well."""

from __future__ import annotations

import numpy as np

if __name__ == "__main__":
    noise = np.random.default_rng(3).integers(0, 256, (4, 1, 192, 192, 1), np.uint8)
    np.savez("x.npz", image=noise)
