"""Bodies of the REST protocol: JSON, and JSON with binary tensors behind it.  No I/O.

Open Inference Protocol, "Inference"; the binary form is Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.errors import InputError, RequestError, TensorError
from collab.serving.batch import layout
from collab.serving.datatypes import datatype_of, from_numpy, to_numpy
from collab.serving.inference import Answer, Call, check_id, wanted_outputs
from collab.serving.wishes import Value, read_wishes

LENGTH_HEADER: Final = "inference-header-content-length"
"""Bytes of the JSON where binary tensors follow it."""
MAX_HEAD: Final = 1 << 20
"""The same, at most."""

_REFUSED: Final = ("classification", "shared_memory_region")
"""Parameters of extensions that are not here; to leave them out would change what is answered."""


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Value] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Value] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Value] = {}
    outputs: list[_Output] = []


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FLOATS: Final = msgspec.json.Decoder(list[float])
_INTS: Final = msgspec.json.Decoder(list[int])
_ANY: Final = msgspec.json.Decoder()
_KINDS: Final = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""Which kinds of JSON numbers a kind of dtype is made from."""


class Parsed(NamedTuple):
    """A call, and which outputs its client wants as binary data."""

    call: Call
    binary: frozenset[str]


def parse_call(body: bytes, head_bytes: int | None, plan: Plan, default_s: float) -> Parsed:
    """A request's body.

    ``head_bytes`` is what the header of that name says; None where there is none.  Raises
    `InputError`, `TensorError` or `LimitExceeded`; shapes are compared with the plan's before
    anything is made of the data.
    """
    whole = memoryview(body)
    head, tail = whole, whole[len(whole) :]
    if head_bytes is not None:
        if not 0 < head_bytes <= min(len(body), MAX_HEAD):
            raise InputError(f"Inference-Header-Content-Length: {head_bytes} of a body of {len(body)} bytes")
        head, tail = whole[:head_bytes], whole[head_bytes:]
    try:
        request = _REQUEST.decode(head)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"body: not an inference request: {str(error)[:200]}") from error
    shapes: dict[str, Sequence[int]] = {}
    for given in request.inputs:
        if given.name in shapes:
            raise TensorError(f"input {given.name[:80]!r} is given twice")
        shapes[given.name] = given.shape
    check_known(shapes, plan)
    how = layout(plan, shapes)
    wishes = read_wishes(request.parameters, default_s)
    names = wanted_outputs(plan, [output.name for output in request.outputs])
    for output in request.outputs:
        check_parameters(output.parameters, output.name)
    told = {o.name: o.parameters["binary_data"] for o in request.outputs if "binary_data" in o.parameters}
    binary = frozenset(name for name in names if told.get(name, wishes.binary))
    inputs = _arrays(request.inputs, tail, plan)
    return Parsed(Call(inputs, wishes, how, names, check_id(request.id)), binary)


def check_known(shapes: Mapping[str, Sequence[int]], plan: Plan) -> None:
    """Raise `TensorError` for an input that the model lacks."""
    known = [spec.name for spec in plan.inputs]
    for name in shapes:
        if name not in known:
            raise TensorError(
                f"input {name[:80]!r}: the model has no such input; it takes {', '.join(known)}"
            )


def check_parameters(parameters: Mapping[str, Value], name: str) -> None:
    """Raise `InputError` for a tensor's parameter that would have to change its answer."""
    for refused in _REFUSED:
        if parameters.get(refused):
            raise InputError(
                f"tensor {name[:80]!r}: parameter {refused!r} is of an extension that is not here"
            )


def _arrays(inputs: Sequence[_Input], tail: memoryview, plan: Plan) -> dict[str, Array]:
    dtypes = {spec.name: spec.dtype for spec in plan.inputs}
    arrays: dict[str, Array] = {}
    for given in inputs:
        check_parameters(given.parameters, given.name)
        dtype = to_numpy(given.datatype, given.name)
        if dtype != dtypes[given.name]:
            raise TensorError(
                f"input {given.name!r}: datatype {given.datatype}, the model takes "
                f"{from_numpy(dtypes[given.name])}"
            )
        size = given.parameters.get("binary_data_size")
        if size is None:
            arrays[given.name] = _from_json(given, np.dtype(dtype))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(tail):
            raise InputError(f"input {given.name!r}: binary_data_size {str(size)[:40]} is not in the body")
        arrays[given.name] = from_bytes(tail[:size], given.name, given.shape, np.dtype(dtype))
        tail = tail[size:]
    if len(tail):
        raise InputError(
            f"body: {len(tail)} bytes behind the last tensor; binary_data_size must name them all"
        )
    return arrays


def from_bytes(data: Any, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """A tensor from its elements in little-endian order, without a copy; raises `TensorError`."""
    need = math.prod(shape) * dtype.itemsize
    if len(data) != need:
        raise TensorError(f"input {name!r}: {len(data)} bytes, {list(shape)} of {dtype} takes {need}")
    flat: Array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype.newbyteorder("<"))
    if dtype.kind == "b":
        if flat.size and int(flat.max()) > 1:
            raise TensorError(f"input {name!r}: a BOOL is 0 or 1")
        flat = flat.view(np.bool_)
    return flat.reshape(tuple(shape))


def _from_json(given: _Input, dtype: np.dtype[Any]) -> Array:
    count = math.prod(given.shape)
    raw = bytes(given.data)
    if not raw:
        raise TensorError(f"input {given.name!r}: has neither data nor binary_data_size")
    # Before the numbers are made objects: there are as many as commas, and one.
    if raw.count(b",") + 1 != max(count, 1):
        raise TensorError(
            f"input {given.name!r}: data does not have the {count} elements of {list(given.shape)}"
        )
    try:
        array = np.array(_numbers(raw, dtype))
    except (ValueError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise TensorError(f"input {given.name!r}: data is not an array of numbers") from error
    if array.dtype.kind not in _KINDS[dtype.kind] or array.size != count:
        raise TensorError(f"input {given.name!r}: data is not {count} elements of {given.datatype}")
    if dtype.kind in "iu" and count:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise TensorError(f"input {given.name!r}: an element is out of the range of {given.datatype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype).reshape(tuple(given.shape))


def _numbers(raw: bytes, dtype: np.dtype[Any]) -> Any:
    """Flat lists by the quick way, nested ones by the other."""
    if raw.find(b"[", 1) >= 0 or dtype.kind not in "fiu":
        return _ANY.decode(raw)
    return _FLOATS.decode(raw) if dtype.kind == "f" else _INTS.decode(raw)


class Body(NamedTuple):
    """An answer's body; ``head_bytes`` is None where it is JSON alone."""

    data: bytes
    head_bytes: int | None


def write_answer(answer: Answer, binary: frozenset[str]) -> Body:
    """An answer, with the outputs named as binary data behind the JSON.

    Raises `RequestError` for elements that JSON cannot write.
    """
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in answer.outputs.items():
        told: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if name in binary:
            parts.append(to_bytes(array))
            told["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RequestError(
                    f"output {name!r} has elements that are not finite, which JSON cannot write; "
                    "ask for binary_data"
                )
            told["data"] = array.ravel().tolist()
        outputs.append(told)
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        document["id"] = answer.id
    document |= {"parameters": answer.parameters, "outputs": outputs}
    head = msgspec.json.encode(document)
    if not parts:
        return Body(head, None)
    return Body(b"".join((head, *parts)), len(head))


def to_bytes(array: Array) -> bytes:
    """A tensor's elements in little-endian order."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
