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
import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from collab.errors import BackendError, CollabError, ModelError
from collab.toolchain.demo_model import SEED, Digits, accuracy, load_digits

CALIBRATION_IMAGES: Final = 200
"""More move the ranges by less than a quantisation step."""

LEAST_ACCURACY: Final = 0.96


def quantise(model: bytes, calibration: Digits | None) -> bytes:
    """Return `model` with int8 weights, and int8 activations too where `calibration` is given.

    Raises:
        BackendError: litert-quantizer is not installed.
    """
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError as error:
        raise BackendError("litert-quantizer is missing: pip install 'collab[toolchain]'") from error
    with _silence():
        if calibration is None:
            dynamic = quantizer.Quantizer(bytearray(model), recipe.dynamic_wi8_afp32())
            return bytes(dynamic.quantize().quantized_model)
        static = quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8())
        images = calibration.scaled()[:, None]
        samples: dict[str, Any] = {"serving_default": [{"image": image} for image in images]}
        ranges = static.calibrate(samples, num_threads=1)
        return bytes(static.quantize(ranges).quantized_model)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # The quantiser prints its own report and draws progress bars into pipes.
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


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
    variants = {"digits_int8.tflite": quantise(model, sample), "digits_dynamic.tflite": quantise(model, None)}
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
