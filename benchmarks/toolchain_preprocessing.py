"""Preprocessing on devices beside training, and what it and packaging cost.

    python -m benchmarks.toolchain_preprocessing

Needs the ``toolchain`` extra: photos are scikit-image's, cut into tiles and written as JPEG.
TensorFlow's decoding and resizing of the same files is the yardstick of what differs
where two libraries do it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.figures import Figure, run
from collab.core.preprocessing import ImageSteps
from collab.runtime.preprocessing.images import read_pixels
from collab.runtime.preprocessing.raw import raw_inputs
from collab.runtime.preprocessing.scaling import pixels_to_floats
from collab.toolchain.data.images import ImageKind
from collab.toolchain.data.prepare import prepare
from collab.toolchain.data.prepared import SPLITS, Prepared
from collab.toolchain.data.windows import WindowKind
from collab.toolchain.extras import needed
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.read import open_bundle
from collab.updates.bundle.write import Parts, write_bundle

SIDE: Final = 96
PHOTOS: Final = ("astronaut", "chelsea", "coffee", "rocket")
MODEL_BYTES: Final = 13_300_000
"""MobileNetV2's."""


def tiles(root: Path, each: int) -> Path:
    """Pieces of four photos, of sizes from 120 to 240 pixels, a folder for each photo."""
    from PIL import Image

    rng = np.random.default_rng(44)
    for name in PHOTOS:
        photo = np.asarray(getattr(needed("skimage.data"), name)())
        (root / name).mkdir(parents=True)
        for i in range(each):
            height, width = rng.integers(120, 241, 2)
            top, left = (
                int(rng.integers(0, n - s)) for n, s in zip(photo.shape, (height, width), strict=False)
            )
            piece = photo[top : top + height, left : left + width]
            Image.fromarray(piece).save(root / name / f"{i}.jpg", quality=90)
    return root


def recordings(root: Path) -> Path:
    """Random walks of three channels, 20 of each class."""
    rng = np.random.default_rng(45)
    for name, step in (("calm", 0.1), ("wild", 1.0)):
        (root / name).mkdir(parents=True)
        for i in range(20):
            rows = np.cumsum(rng.normal(0, step, (640, 3)), axis=0).tolist()
            text = "".join(",".join(map(repr, row)) + "\n" for row in rows)
            (root / name / f"{i}.csv").write_text("x,y,z\n" + text)
    return root


def differing(prepared: Prepared, source: Path) -> tuple[int, int]:
    """Examples that a device makes otherwise than training saw them, and all."""
    import json

    made = {
        name.removeprefix(f"{source}/"): x.tobytes() for name, x in raw_inputs(source, prepared.preprocessing)
    }
    wrong = count = 0
    for split in SPLITS:
        names = json.loads((prepared.folder / f"{split}.origins.json").read_text())
        for name, x in zip(names, prepared.split(split).inputs, strict=True):
            wrong += made[name] != x.tobytes()
            count += 1
    return wrong, count


def by_tensorflow(source: Path) -> float:
    """Share of values that TensorFlow decodes and resizes otherwise than Pillow, in whole steps of 255."""
    image = needed("tensorflow").image
    steps = ImageSteps(height=SIDE, width=SIDE, colour="rgb")
    other = total = 0
    for file in sorted(source.rglob("*.jpg"))[:100]:
        theirs = image.resize(image.decode_jpeg(file.read_bytes(), channels=3), (SIDE, SIDE)).numpy()
        differs = np.rint(theirs) != read_pixels(file, steps)
        other, total = other + int(differs.sum()), total + differs.size
    return other / total


def median_ms(act: Callable[[], Any], times: int) -> float:
    act()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def equal(folder: Path, quick: bool) -> list[Figure]:
    photos = tiles(folder / "photos", 30 if quick else 250)
    kind = ImageKind(ImageSteps(height=SIDE, width=SIDE, colour="rgb", fit="cover"), normalise="standard")
    wrong, count = differing(prepare(photos, kind, folder / "images"), photos)
    how = f"{count} JPEG tiles to {SIDE}x{SIDE}, cover, mean and deviation"
    figures = [Figure("pictures that differ on a device", wrong, "", "<= 0", None, how)]
    share = by_tensorflow(photos)
    figures.append(
        Figure("values that differ by TensorFlow", share, "", "", None, "100 tiles, bilinear, whole steps")
    )
    source = recordings(folder / "recordings")
    for feature in ("raw", "spectrum"):
        window = WindowKind(length=128, step=64, feature=feature)
        wrong, count = differing(prepare(source, window, folder / feature), source)
        how = f"{count} windows of 128 samples, 3 channels"
        figures.append(Figure(f"{feature} windows that differ", wrong, "", "<= 0", None, how))
    return figures


def costs(folder: Path, quick: bool) -> list[Figure]:
    from PIL import Image

    photo = needed("skimage.data").astronaut()
    path = folder / "photo.jpg"
    Image.fromarray(photo).save(path, quality=90)
    steps = ImageSteps(height=224, width=224, colour="rgb")
    data, times = path.read_bytes(), 30 if quick else 200

    def ours() -> Any:
        return pixels_to_floats(read_pixels(path, steps), steps)

    def bare() -> Any:
        small = Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BILINEAR)
        return np.asarray(small).astype(np.float32) / np.float32(255)

    one, other = median_ms(ours, times), median_ms(bare, times)
    figures = [
        Figure("a photo to 224x224", one, "ms", "", other, "512x512 JPEG; the yardstick is Pillow and numpy")
    ]
    model = np.random.default_rng(46).bytes(MODEL_BYTES)
    port = Port(name="x", shape=(1,), dtype="float32")
    bundle = folder / "m.collab"
    write_bundle(bundle, Parts(about=About(name="m"), model=model, inputs=[port], outputs=[port]))
    plain = folder / "m.tflite"
    plain.write_bytes(model)
    more = bundle.stat().st_size - len(model)
    figures.append(
        Figure("bytes of a bundle beside its model", more, "", "", None, f"{len(model):,} bytes of model")
    )
    opened = median_ms(lambda: open_bundle(bundle), times)
    figures.append(Figure("opening a bundle", opened, "ms", "", None, "its manifest read and checked"))
    read = median_ms(lambda: open_bundle(bundle).model(), 10)
    hashed = median_ms(lambda: hashlib.sha256(plain.read_bytes()).digest(), 10)
    how = "opened, read, digest checked; the yardstick reads the bare file and takes its digest"
    return [*figures, Figure("a model out of a bundle", read, "ms", "", hashed, how)]


async def measure(options: argparse.Namespace) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return [*equal(Path(folder), options.quick), *costs(Path(folder), options.quick)]


if __name__ == "__main__":
    run(measure, __doc__)
