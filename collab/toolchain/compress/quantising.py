"""Post-training quantisation of a ``.tflite`` by litert-quantizer."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

import numpy as np

from collab.errors import InputError, ModelError
from collab.graph import parse_model
from collab.toolchain.compress.network import Array
from collab.toolchain.convert.litert import SIGNATURE
from collab.toolchain.extras import needed
from collab.toolchain.quantise import silence

_WEIGHTS: Final = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL")


class Quantiser:
    """Quantises one float model in several ways; its ranges are taken once.

    Args:
        model: a float32 ``.tflite`` with one input and the signature ``serving_default``.
        representative: inputs as the model takes them, ``[n, …]``, for the ranges of activations.

    Raises:
        InputError: The representative inputs do not fit the model.
        BackendError: litert-quantizer is not installed.
    """

    def __init__(self, model: bytes, representative: Array | None = None) -> None:
        needed("litert_quantizer")
        self._model = model
        self._given = representative
        self._ranges: Any = None
        if representative is not None:
            self._input = _checked_input(model, representative)

    def fp16(self) -> bytes:
        """Weights in half precision."""
        from litert_quantizer import qtyping, recipe_manager

        rules = recipe_manager.RecipeManager()
        rules.add_weight_only_config(
            ".*",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            num_bits=16,
            algorithm_key=recipe_manager.AlgorithmName.FLOAT_CASTING,
        )
        return self._made(rules, None)

    def dynamic(self) -> bytes:
        """Weights in int8; activations are rounded as they come."""
        from litert_quantizer import qtyping, recipe_manager

        rules = recipe_manager.RecipeManager()
        rules.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=8)
        return self._made(rules, None)

    def int8(self, float_operators: Collection[str] = ()) -> bytes:
        """Weights and activations in int8, inputs and outputs of the model in float32.

        Args:
            float_operators: names of output tensors whose operators stay in float32.
        """
        from litert_quantizer import qtyping, recipe_manager

        operation = qtyping.TFLOperationName
        rules = recipe_manager.RecipeManager()
        rules.add_static_config(".*", operation.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
        left = recipe_manager.AlgorithmName.NO_QUANTIZE
        for end in (operation.INPUT, operation.OUTPUT):
            rules.add_quantization_config(".*", end, algorithm_key=left)
        for name in sorted(float_operators):
            rules.add_quantization_config(f"^{re.escape(name)}", operation.ALL_SUPPORTED, algorithm_key=left)
        if self._ranges is None:
            self._ranges = self._calibrated(rules)
        return self._made(rules, self._ranges)

    def operators(self) -> tuple[str, ...]:
        """Names of the output tensors of operators with weights: what `int8` can leave in float32."""
        graph = parse_model(self._model)
        subgraph = graph.flat.subgraphs[graph.main]
        return tuple(
            subgraph.tensors[operator.outputs[0]].name.decode()
            for operator in subgraph.operators
            if operator.name in _WEIGHTS
        )

    def _calibrated(self, rules: Any) -> Any:
        from litert_quantizer import quantizer

        if self._given is None:
            raise InputError("int8: needs representative inputs; give --data")
        with silence():
            samples: dict[str, Any] = {SIGNATURE: [{self._input: each[None]} for each in self._given]}
            return quantizer.Quantizer(bytearray(self._model), rules.get_quantization_recipe()).calibrate(
                samples, num_threads=1
            )

    def _made(self, rules: Any, ranges: Any) -> bytes:
        from litert_quantizer import quantizer

        try:
            with silence():
                made = quantizer.Quantizer(bytearray(self._model), rules.get_quantization_recipe())
                return bytes(made.quantize(ranges).quantized_model)
        except Exception as error:  # the quantiser raises whatever an operator makes it raise
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"cannot be quantised: {reason}; try fp16 or dynamic") from error


def _checked_input(model: bytes, representative: Array) -> str:
    """The input's name; raises `InputError` where the representative inputs do not fit."""
    graph = parse_model(model)
    if len(graph.inputs) != 1:
        raise ModelError(f"has {len(graph.inputs)} inputs; representative sets are for one")
    (given,) = graph.inputs
    if tuple(representative.shape[1:]) != tuple(given.shape[1:]) or representative.dtype != np.float32:
        raise InputError(
            f"representative set: {representative.dtype} of shape {list(representative.shape[1:])}, but "
            f"input {given.name!r} takes {given.dtype} of {list(given.shape[1:])}: prepare the data to that"
        )
    if not len(representative):
        raise InputError("representative set: is empty; give one example at least")
    if not np.isfinite(representative).all():
        raise InputError("representative set: holds NaN or infinity; prepare the data anew")
    return given.name


def representative_of(inputs: Array, count: int, seed: int) -> Array:
    """So many of the inputs, drawn by ``seed``."""
    rows = np.random.default_rng(seed).permutation(len(inputs))[:count]
    return inputs[rows]
