"""Writes what pages take for granted: the examples of two devices, in the folder it is run in."""

from __future__ import annotations

import numpy as np

from collab.assets import path

EACH = 200


def main() -> None:
    """`pi-1.npz` and `pi-2.npz`, each with held-out digits of its own."""
    with np.load(path("digits_heldout.npz"), allow_pickle=False) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    for number, name in enumerate(("pi-1", "pi-2")):
        part = slice(number * EACH, (number + 1) * EACH)
        np.savez(f"{name}.npz", x=images[part].reshape(-1, 28, 28, 1), y=labels[part])


if __name__ == "__main__":
    main()
