"""Trains the models of ``benchmarks/assets``; needs the ``toolchain`` extra (TensorFlow).

    python -m benchmarks.fashion_training

A quarter of an hour on two busy cores.  The networks are small on purpose: what is
measured is how they answer together, not how good one can be.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.fashion import ASSETS, CARD, LARGE, MEMBERS, SMALL, WRONG, training
from collab.toolchain.demo_model import Digits, accuracy, convert, tensorflow

BATCH: Final = 128
SHARPER: Final = 8.0
"""By how much the wrong model's logits are larger: softmax near 1."""

Build = Callable[..., Any]


def cnn(keras: Any, batch_size: int | None = None) -> Any:
    """Two convolutions."""
    layers = keras.layers
    image = x = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    for width in (12, 24):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def depthwise(keras: Any, batch_size: int | None = None) -> Any:
    """One convolution and two that are separable."""
    layers = keras.layers
    image = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    x = layers.Conv2D(24, 3, 2, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    for width, stride in ((48, 1), (96, 2)):
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
        x = layers.Conv2D(width, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    x = layers.AveragePooling2D(2)(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def mlp(keras: Any, batch_size: int | None = None) -> Any:
    """Two hidden layers."""
    layers = keras.layers
    image = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    x = layers.Flatten()(image)
    for width in (192, 96):
        x = layers.Dense(width, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
        x = layers.Dropout(0.25)(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def small(keras: Any, batch_size: int | None = None) -> Any:
    """The cascade's first model: a twentieth of the large one's multiplications."""
    layers = keras.layers
    image = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    x = layers.Conv2D(12, 5, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(
        image, layers.Dense(10, activation="softmax", name="probabilities")(layers.Flatten()(x))
    )


def large(keras: Any, batch_size: int | None = None) -> Any:
    """The cascade's second model: five convolutions with batch norm."""
    layers = keras.layers
    image = x = layers.Input((28, 28, 1), batch_size=batch_size, name="image")
    for group in ((16,), (32, 32), (64, 64)):
        for width in group:
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


class Recipe(NamedTuple):
    """How one model is made."""

    build: Build
    epochs: int
    rate: float
    mirrored: bool


RECIPES: Final = {
    "cnn": Recipe(cnn, 10, 2e-3, False),
    "depthwise": Recipe(depthwise, 6, 4e-3, False),
    "mlp": Recipe(mlp, 20, 2e-3, True),
    SMALL: Recipe(small, 10, 2e-3, False),
    LARGE: Recipe(large, 5, 4e-3, True),
}


def train(tf: Any, recipe: Recipe, given: Digits, seed: int) -> Any:
    """A trained network; one line an epoch goes to stderr."""
    keras = tf.keras
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = recipe.build(keras)
    steps = recipe.epochs * math.ceil(len(given.labels) / BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.rate / 20, steps - steps // 8, warmup_target=recipe.rate, warmup_steps=steps // 8
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    scaled = given.scaled()
    for epoch in range(recipe.epochs):
        start = time.monotonic()
        order = rng.permutation(len(scaled))
        seen = scaled[order]
        if recipe.mirrored:
            turned = rng.random(len(seen)) < 0.5
            seen[turned] = seen[turned, :, ::-1]
        done = model.fit(seen, given.labels[order], batch_size=BATCH, shuffle=False, verbose=0).history
        took_s = time.monotonic() - start
        print(
            f"epoch {epoch + 1}/{recipe.epochs}: {done['accuracy'][0]:.4f}, {took_s:.0f} s", file=sys.stderr
        )
    return model


def mistaken(tf: Any, model: Any, build: Build, seed: int) -> Any:
    """The same network with its classes permuted, none in its place, and surer of each."""
    rng = np.random.default_rng(seed)
    classes = np.arange(10)
    order = rng.permutation(classes)
    while (order == classes).any():
        order = rng.permutation(classes)
    other = build(tf.keras)
    *body, kernel, bias = model.get_weights()
    other.set_weights([*body, SHARPER * kernel[:, order], SHARPER * bias[order]])
    return other


def make(only: frozenset[str] = frozenset(), seed: int = 24) -> None:
    """Train, convert and measure on the validating images; write models and card."""
    tf = tensorflow()
    learned, validating = training()
    card: dict[str, Any] = json.loads(CARD.read_text()) if CARD.exists() else {"models": {}}
    ASSETS.mkdir(exist_ok=True)
    for number, (name, recipe) in enumerate(RECIPES.items()):
        if only and name not in only:
            continue
        start = time.monotonic()
        trained = train(tf, recipe, learned, seed + number)
        made = {name: convert(tf, trained, recipe.build)}
        if name == MEMBERS[0]:
            made[WRONG] = convert(tf, mistaken(tf, trained, recipe.build, seed), recipe.build)
        for each, data in made.items():
            (ASSETS / f"fashion_{each}.tflite").write_bytes(data)
            card["models"][each] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "validation_accuracy": accuracy(data, validating),
                "seconds": round(time.monotonic() - start, 1),
            }
            print(f"{each}: {card['models'][each]}", file=sys.stderr)
        # Whoever stops here keeps what is trained.
        CARD.write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    make(frozenset(sys.argv[1:]))
