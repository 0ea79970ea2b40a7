"""Raw data for tests: pictures by class, a table, recordings."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def pictures(root: Path, counts: dict[str, int], size: tuple[int, int] = (10, 12), seed: int = 1) -> Path:
    """A folder of pictures for each class, PNG and JPEG in turn; classes differ in brightness."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(60 + 80 * number, 25, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.{'jpg' if i % 2 else 'png'}")
    return root


def table(path: Path, rows: int = 60, seed: int = 1) -> Path:
    """Numbers and names, with patients that have several rows each."""
    rng = np.random.default_rng(seed)
    lines = ["patient,age,colour,weight,ill"]
    for row in range(rows):
        ill = (row // 3) % 2
        lines.append(
            f"p{row // 3},{rng.normal(50 + 20 * ill, 5):.3f},{rng.choice(['red', 'blue', 'green'])},"
            f"{rng.normal(70, 9):.3f},{'yes' if ill else 'no'}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def recordings(root: Path, each: int = 6, samples: int = 200, seed: int = 1) -> Path:
    """A folder of recordings for each class; classes differ in frequency."""
    rng = np.random.default_rng(seed)
    for name, frequency in (("slow", 2.0), ("fast", 9.0)):
        (root / name).mkdir(parents=True)
        for i in range(each):
            wave = np.sin(2 * np.pi * frequency * np.arange(samples) / 50) + rng.normal(0, 0.1, samples)
            noise = rng.normal(0, 1, samples)
            text = "".join(f"{a!r},{b!r}\n" for a, b in zip(wave.tolist(), noise.tolist(), strict=True))
            (root / name / f"{i}.csv").write_text("ax,ay\n" + text)
    return root


def idx(path: Path, array: np.ndarray) -> Path:
    """An idx file of bytes, gzipped."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    return path
