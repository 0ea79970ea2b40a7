"""Messages of the gRPC protocol to calls, and answers to messages.  No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from collab.codec.pb import grpc_service_pb2 as pb
from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.errors import InputError, TensorError
from collab.serving.batch import layout
from collab.serving.datatypes import datatype_of, from_numpy, to_numpy
from collab.serving.inference import Answer, Call, check_id, wanted_outputs
from collab.serving.rest_body import check_known, check_parameters, from_bytes, to_bytes
from collab.serving.wishes import Value, read_wishes

_CONTENTS: Final = {
    "bool": "bool_contents",
    **dict.fromkeys(("int8", "int16", "int32"), "int_contents"),
    "int64": "int64_contents",
    **dict.fromkeys(("uint8", "uint16", "uint32"), "uint_contents"),
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}
"""Field of `InferTensorContents` by dtype; FP16 has none and travels raw."""


def parse_request(request: pb.ModelInferRequest, plan: Plan, default_s: float) -> Call:
    """A request's tensors and parameters; raises `InputError`, `TensorError` or `LimitExceeded`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for given in request.inputs:
        if given.name in shapes:
            raise TensorError(f"input {given.name[:80]!r} is given twice")
        shapes[given.name] = tuple(given.shape)
    check_known(shapes, plan)
    how = layout(plan, shapes)
    wishes = read_wishes(_values(request.parameters), default_s)
    for given in request.inputs:
        check_parameters(_values(given.parameters), given.name)
    for output in request.outputs:
        check_parameters(_values(output.parameters), output.name)
    names = wanted_outputs(plan, [output.name for output in request.outputs])
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs; give one for each"
        )
    dtypes = {spec.name: spec.dtype for spec in plan.inputs}
    inputs: dict[str, Array] = {}
    for i, given in enumerate(request.inputs):
        name, dtype = to_numpy(given.datatype, given.name), dtypes[given.name]
        if name != dtype:
            raise TensorError(
                f"input {given.name!r}: datatype {given.datatype}, the model takes {from_numpy(dtype)}"
            )
        if raw:
            inputs[given.name] = from_bytes(raw[i], given.name, given.shape, np.dtype(dtype))
        else:
            inputs[given.name] = _typed(given, np.dtype(dtype))
    return Call(inputs, wishes, how, names, check_id(request.id))


def _values(parameters: Mapping[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, parameter in parameters.items():
        which = parameter.WhichOneof("parameter_choice")
        if which is not None:
            found[name] = getattr(parameter, which)
    return found


def _typed(given: Any, dtype: np.dtype[Any]) -> Array:
    field = _CONTENTS.get(dtype.name)
    if field is None:
        raise TensorError(f"input {given.name!r}: {given.datatype} travels in raw_input_contents alone")
    values = getattr(given.contents, field)
    count = math.prod(given.shape)
    if len(values) != count:
        raise TensorError(
            f"input {given.name!r}: {len(values)} elements in {field}, {list(given.shape)} takes {count}"
        )
    array = np.array(
        values, np.int64 if field == "int_contents" else np.uint64 if field == "uint_contents" else dtype
    )
    if field in ("int_contents", "uint_contents") and count:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise TensorError(f"input {given.name!r}: an element is out of the range of {given.datatype}")
    return array.astype(dtype).reshape(tuple(given.shape))


def write_response(answer: Answer) -> pb.ModelInferResponse:
    """An answer, its tensors as raw contents."""
    response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    put_parameters(response.parameters, answer.parameters.items())
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(to_bytes(array))
    return response


def put_parameters(into: Any, parameters: Iterable[tuple[str, Value]]) -> None:
    """Set a message's parameters."""
    for name, value in parameters:
        if isinstance(value, bool):
            into[name].bool_param = value
        elif isinstance(value, int):
            into[name].int64_param = value
        elif isinstance(value, float):
            into[name].double_param = value
        else:
            into[name].string_param = value
