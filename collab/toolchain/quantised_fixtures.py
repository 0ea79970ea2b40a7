"""Makes the quantised test models out of the demo model.

    python -m collab.toolchain.quantised_fixtures --model collab/assets/digits.tflite --out tests/data

writes ``digits_int8.tflite`` (int8 weights and activations, ranges taken from
real training digits) and ``digits_dynamic.tflite`` (int8 weights, activations
quantised as they come).  The first takes and gives int8, the second float32.
From 256 KiB of weights on the quantiser puts them behind the flatbuffer, as an
offset and a size into the file: the tests need such files, so the demo model is
just large enough for that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from collab.errors import CollabError, ModelError
from collab.toolchain.demo_model import SEED, accuracy, load_digits
from collab.toolchain.quantise import quantise

CALIBRATION_IMAGES: Final = 200
"""More move the ranges by less than a quantisation step."""

LEAST_ACCURACY: Final = 0.96


def make(source: Path, out: Path, seed: int) -> None:
    """Write both variants of the demo model `source` to `out`.

    Raises:
        BackendError: a library is missing.
        ModelError: `source` cannot be read, or a variant is worse than `LEAST_ACCURACY`.
    """
    try:
        model = source.read_bytes()
    except OSError as error:
        raise ModelError(f"model {source}: {error.strerror}; train it with demo_model") from error
    training, held_out = load_digits(seed)
    sample = training.sample(CALIBRATION_IMAGES, seed)
    images = list(sample.scaled()[:, None])
    variants = {"digits_int8.tflite": quantise(model, images), "digits_dynamic.tflite": quantise(model, None)}
    out.mkdir(parents=True, exist_ok=True)
    for name, variant in variants.items():
        reached = accuracy(variant, held_out)
        if reached < LEAST_ACCURACY:
            raise ModelError(f"{name}: accuracy {reached:.4f} is below {LEAST_ACCURACY}")
        (out / name).write_bytes(variant)
        sys.stderr.write(f"{name}: accuracy {reached:.4f}, {len(variant)} bytes\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m collab.toolchain.quantised_fixtures", description="quantise the demo model"
    )
    parser.add_argument("--model", type=Path, required=True, help="the float32 demo model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two variants")
    parser.add_argument("--seed", type=int, default=SEED, help="the seed that the model was trained with")
    options = parser.parse_args(argv)
    try:
        make(options.model, options.out, options.seed)
    except CollabError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
