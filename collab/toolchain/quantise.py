"""Int8 models by litert-quantizer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError


def quantise(
    model: bytes, calibration: Sequence[NDArray[np.float32]] | None, input_name: str = "image"
) -> bytes:
    """Return `model` with int8 weights, and int8 activations too where `calibration` is given.

    Args:
        model: a float32 model with one input and the signature ``serving_default``.
        calibration: inputs as the model takes them, from which ranges are taken.
        input_name: the input's name in the signature.

    Raises:
        BackendError: litert-quantizer is not installed.
    """
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError as error:
        raise BackendError("litert-quantizer is missing: pip install 'collab[toolchain]'") from error
    with silence():
        if calibration is None:
            dynamic = quantizer.Quantizer(bytearray(model), recipe.dynamic_wi8_afp32())
            return bytes(dynamic.quantize().quantized_model)
        static = quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8())
        samples: dict[str, Any] = {"serving_default": [{input_name: given} for given in calibration]}
        ranges = static.calibrate(samples, num_threads=1)
        return bytes(static.quantize(ranges).quantized_model)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep to itself what the quantiser prints: its own report, and progress bars even into pipes."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
