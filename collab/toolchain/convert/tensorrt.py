"""ONNX to a TensorRT engine, on a machine that has TensorRT; elsewhere the command for one that has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

from collab.errors import ModelError
from collab.toolchain.extras import needed

SUFFIX: Final = ".engine"


def installed() -> bool:
    """Whether TensorRT's Python package is there."""
    return importlib.util.find_spec("tensorrt") is not None


def remark(onnx: Path, *, half: bool = False) -> str:
    """What to say where TensorRT is not installed."""
    flag = " --fp16" if half else ""
    return (
        f"TensorRT is not installed here, so this is ONNX. An engine fits one GPU and one TensorRT only; "
        f"make it on the device: trtexec --onnx={onnx.name} --saveEngine={onnx.stem}{SUFFIX}{flag}"
    )


def build_engine(onnx: bytes, *, half: bool = False) -> bytes:
    """An engine for the GPU of this machine.

    Raises:
        ModelError: TensorRT refuses an operator or cannot build; it names the reason.
        BackendError: TensorRT is not installed.
    """
    trt = needed("tensorrt", "install NVIDIA's tensorrt for this machine's CUDA")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ModelError(f"TensorRT cannot take the model: {reasons[:300]}")
    config: Any = builder.create_builder_config()
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        given = network.get_input(i)
        shape = (1, *tuple(given.shape)[1:])
        profile.set_shape(given.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError("TensorRT could not build an engine: see what it wrote above")
    return bytes(engine)
