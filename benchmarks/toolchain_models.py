"""Trains and compresses the models of ``benchmarks.toolchain``; needs the ``toolchain`` extra.

    python -m benchmarks.toolchain_models --folder FOLDER [cnn] [v3]

Goes on where it was stopped: baselines keep every quarter of an epoch, recipes every step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.fashion import images, training
from collab.errors import CollabError, IntegrityError
from collab.toolchain.compress.recipe import parse
from collab.toolchain.compress.run import Bench, open_bench
from collab.toolchain.compress.training import Taught, cosine
from collab.toolchain.demo_model import Digits, tensorflow
from collab.toolchain.keras_files import write_durably, write_keras

ASSETS: Final = Path(__file__).parent / "assets" / "toolchain"
CARD: Final = ASSETS / "models.json"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "collab" / "benchmarks"
"""Of models that are too large to be committed."""
PARTS: Final = 4
"""Of an epoch, each saved when it is over."""
SEED: Final = 8


@dataclass(frozen=True)
class Kind:
    """A baseline, how it is trained, and what is made of it."""

    epochs: int
    batch: int
    rate: float
    side: int
    recipes: Mapping[str, str]
    committed: bool


_STUDENT: Final = "distil:0.6,epochs=4,rate=4e-3 -> distil:epochs=3,rate=2e-3 -> distil:epochs=3,rate=5e-4"
CNN: Final = {
    "int8": "int8",
    "QAT": "qat:epochs=0.5",
    "structured-pruned": "structured:0.35,epochs=2,rate=2e-3",
    "best chain": "structured:0.5,epochs=2 -> distil:epochs=2 -> int8",
    "distilled": _STUDENT,
    "best chain with a student": f"{_STUDENT} -> int8",
    "pruned": "prune:0.6,epochs=1",
}
V3: Final = {
    "int8": "int8",
    "QAT": "qat:epochs=0.25",
    "pruned": "prune:0.6,epochs=0.5",
    "structured-pruned": "structured:0.3,epochs=6,rate=3e-3",
    "distilled": "distil:0.6,epochs=1,rate=6e-3 -> distil:epochs=1,rate=4e-3 -> distil:epochs=1",
    "best chain": "structured:0.3,epochs=6,rate=3e-3 -> int8",
}
KINDS: Final[Mapping[str, Kind]] = {
    "cnn": Kind(8, 128, 4e-3, 28, CNN, True),
    "v3": Kind(5, 256, 6e-3, 32, V3, False),
}


def build(name: str) -> Any:
    """An untrained baseline."""
    import keras

    return _v3(keras) if name == "v3" else _cnn(keras)


def _cnn(keras: Any) -> Any:
    """Three convolutions and a hidden layer: 438,000 parameters."""
    layers = keras.layers
    image = x = layers.Input((28, 28, 1), name="image")
    for width in (32, 64, 144):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    x = layers.Dense(256, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def _v3(keras: Any) -> Any:
    """MobileNetV3-small of keras.applications for images of 32 by 32."""
    model = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 1), weights=None, classes=10, include_preprocessing=False, dropout_rate=0.2
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Its own is for training of many epochs.
            layer.momentum = 0.95
    return model


def taught(digits: Digits, side: int) -> Taught:
    """Images as a model of that side takes them, zeros around."""
    rim = (side - 28) // 2
    padded = np.pad(digits.scaled(), ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    return Taught(np.ascontiguousarray(padded), digits.labels)


def train(name: str, folder: Path) -> Path:
    """The baseline's ``.keras`` file, trained now as far as it is not yet."""
    import keras

    kind = KINDS[name]
    path, state = folder / f"{name}.keras", folder / f"{name}.json"
    done: list[Any] = json.loads(state.read_text()) if state.exists() else []
    learned = taught(training()[0], kind.side)
    steps = len(learned) // kind.batch
    total = kind.epochs * steps
    keras.utils.set_random_seed(SEED)
    if len(done) == kind.epochs * PARTS:
        return path
    model = keras.models.load_model(path) if done else build(name)
    if not done:
        optimizer = keras.optimizers.AdamW(cosine(keras, kind.rate, total), weight_decay=0.01)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    for part in range(len(done), kind.epochs * PARTS):
        rng = np.random.default_rng((SEED, part // PARTS))
        order = rng.permutation(len(learned))[: steps * kind.batch]
        seen = learned.inputs[order]
        turned = rng.random(len(seen)) < 0.5
        seen[turned] = seen[turned, :, ::-1]
        rows = slice(*(steps * (part % PARTS + more) // PARTS * kind.batch for more in (0, 1)))
        labels = learned.labels[order]
        history = model.fit(seen[rows], labels[rows], batch_size=kind.batch, shuffle=False, verbose=0).history
        done.append({key: values[0] for key, values in history.items()})
        write_keras(model, path)
        write_durably(state, json.dumps(done).encode())
        print(f"{name}: part {part + 1} of {kind.epochs * PARTS}: {done[-1]}", file=sys.stderr)
    return path


def bench(name: str, folder: Path, baseline: Path) -> Bench:
    """The bench of a baseline with all of Fashion-MNIST."""
    kind = KINDS[name]
    learned, validating = (taught(each, kind.side) for each in training())
    splits = {"train": learned, "validation": validating, "test": taught(images("t10k"), kind.side)}

    def tell(what: str, done: int, total: int) -> None:
        if done % 100 == 0:
            print(f"{what}: {done} of {total}", file=sys.stderr)

    return open_bench(folder / name, baseline, splits, SEED, True, tell, False)


def make(names: Sequence[str], folder: Path, only: Sequence[str] = ()) -> None:
    """Train, compress, keep what is committed in ``assets`` and the rest in the cache."""
    tensorflow()
    folder.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = json.loads(CARD.read_text()) if CARD.exists() else {}
    for name in names:
        kind = KINDS[name]
        place = bench(name, folder, train(name, folder))
        for label, text in {"baseline": "baseline", **kind.recipes}.items():
            if only and label not in only:
                continue
            try:
                data = place.made(parse(text))
            except CollabError as error:
                print(f"{name} {label}: {error}", file=sys.stderr)
                continue
            target = _path(name, label)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_durably(target, data)
            card.setdefault(name, {})[label] = {
                "recipe": text,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
            }
            print(f"{name} {label}: {len(data)} bytes", file=sys.stderr)
            # Whoever stops here keeps what is made.
            write_durably(CARD, (json.dumps(card, indent=2) + "\n").encode())


def _path(name: str, label: str) -> Path:
    file = f"{name}_{label.lower().replace(' ', '_').replace('-', '_')}.tflite"
    return (ASSETS if KINDS[name].committed else CACHE) / file


def variants(name: str) -> Mapping[str, bytes]:
    """The variants of a baseline by label, itself first, digests checked; empty where there are none.

    Raises:
        IntegrityError: A file is not the one that the card names.
    """
    card: Mapping[str, Any] = json.loads(CARD.read_text()).get(name, {}) if CARD.exists() else {}
    found: dict[str, bytes] = {}
    for label, known in card.items():
        path = _path(name, label)
        if not path.exists():
            return {}
        found[label] = path.read_bytes()
        if hashlib.sha256(found[label]).hexdigest() != known["sha256"]:
            raise IntegrityError(f"{path}: its digest is not that of {CARD.name}; make it anew with --full")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=CACHE / "toolchain")
    parser.add_argument("--only", action="append", default=[], help="this label only; may be repeated")
    parser.add_argument("names", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    make(given.names, given.folder, given.only)
