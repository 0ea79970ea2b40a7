"""Frames to requests, and answers to words.  Blocks: not for the event loop."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import ImageSteps
from collab.core.streams import Reading
from collab.core.tensor import TensorSpec
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing.images import MAX_PIXELS, array_pixels, decode_pixels
from collab.runtime.preprocessing.quantised import to_integers, to_reals
from collab.runtime.preprocessing.raw import raw_inputs
from collab.runtime.preprocessing.scaling import Floats, pixels_to_floats
from collab.streams.frames import MAX_FRAME_BYTES, Form, Frame, Payload

MAX_EXAMPLES: Final = 10_000
"""Of one frame: the rows of a table, the windows of a recording."""
_MAX_HEADER: Final = 4096
"""Characters of an .npy's header."""
_MAX_MEMBER_HEAD: Final = 1 << 16
_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK\x03\x04"
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
_TABLES: Final = frozenset({".csv"})
_ARRAYS: Final = frozenset({".npy", ".npz"})

Inputs = Mapping[str, NDArray[Any]]


class FrameReader:
    """Reads frames of one plan.

    Args:
        inputs: the plan's.
        reading: how other data become its input; None takes its own tensors alone.
    """

    def __init__(self, inputs: Sequence[TensorSpec], reading: Reading | None) -> None:
        self._inputs = tuple(inputs)
        self._reading = reading

    def requests(self, frame: Frame) -> list[Inputs]:
        """The requests of a frame: one, or one for each row of a table and window of a recording.

        Raises:
            InputError: it is not what the plan, or its preprocessing, takes; names it.
            LimitExceeded: it is too large.
            BackendError: Pillow is missing.
        """
        data = frame.data
        if isinstance(data, Path):
            found = self._file(data, frame.name)
        elif isinstance(data, Payload):
            found = iter((self._payload(data, frame.name),))
        elif isinstance(data, Mapping):
            found = iter((self._tensors(data, frame.name),))
        else:
            found = iter((self._pixels(data.pixels(), frame.name),))
        requests: list[Inputs] = []
        for one in found:
            if len(requests) >= MAX_EXAMPLES:
                raise LimitExceeded(f"{frame.name}: holds over {MAX_EXAMPLES} examples; give smaller files")
            requests.append(one)
        if not requests:
            raise InputError(f"{frame.name}: holds no example")
        return requests

    def _file(self, path: Path, name: str) -> Iterator[Inputs]:
        suffix = path.suffix.lower()
        if suffix in _TABLES:
            steps = self._steps(name).preprocessing
            if isinstance(steps.steps, ImageSteps):
                raise InputError(f"{name}: is a table; the plan's preprocessing takes pictures")
            _check_size(path, name)
            return (self._floats(x) for _, x in raw_inputs(path, steps))
        _check_size(path, name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}") from error
        form: Form = "array" if suffix in _ARRAYS else "image"
        return iter((self._payload(Payload(data, form), name),))

    def _payload(self, payload: Payload, name: str) -> Inputs:
        data, form = payload
        if len(data) > MAX_FRAME_BYTES:
            raise LimitExceeded(f"{name}: {len(data)} bytes are over {MAX_FRAME_BYTES}")
        if form == "auto":
            form = self._guess(data)
        if form == "tensor":
            return self._raw(data, name)
        if form == "array":
            if data.startswith(_ZIP):
                return self._tensors(_read_npz(data, self._inputs, name), name)
            return self._array(_read_npy(data, name), name)
        steps = self._image_steps(name)
        return self._floats(pixels_to_floats(decode_pixels(data, steps, name), steps))

    def _guess(self, data: bytes) -> Form:
        if data.startswith((_NPY, _ZIP)):
            return "array"
        whole = len(self._inputs) == 1 and len(data) == self._inputs[0].nbytes
        # A tensor may begin with anything, so its size speaks unless it looks like a picture to a reader.
        if whole and (self._reading is None or not data.startswith(_PICTURES)):
            return "tensor"
        return "image" if self._reading is not None or data.startswith(_PICTURES) else "tensor"

    def _raw(self, data: bytes, name: str) -> Inputs:
        if len(self._inputs) != 1:
            raise InputError(f"{name}: the plan has {len(self._inputs)} inputs; give an .npz by tensor name")
        spec = self._inputs[0]
        if len(data) != spec.nbytes:
            raise InputError(
                f"{name}: {len(data)} bytes; {spec.name!r} {spec.dtype}{list(spec.shape)} has {spec.nbytes}"
            )
        return {spec.name: np.frombuffer(data, np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)}

    def _array(self, array: NDArray[Any], name: str) -> Inputs:
        """The plan's one input, or the pixels of a picture of any size."""
        if len(self._inputs) == 1:
            spec = self._inputs[0]
            if array.dtype.name == spec.dtype and array.shape in (spec.shape, spec.shape[1:]):
                return {spec.name: array.reshape(spec.shape)}
        takes_pictures = self._reading is not None and isinstance(
            self._reading.preprocessing.steps, ImageSteps
        )
        layout = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
        if takes_pictures and layout and array.dtype == np.uint8:
            return self._pixels(array, name)
        wanted = ", ".join(f"{s.name!r} {s.dtype}{list(s.shape)}" for s in self._inputs)
        raise InputError(f"{name}: is {array.dtype.name}{list(array.shape)}; the plan takes {wanted}")

    def _pixels(self, pixels: NDArray[np.uint8], name: str) -> Inputs:
        if not 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS:
            raise LimitExceeded(
                f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels; 1 to {MAX_PIXELS} are read"
            )
        steps = self._image_steps(name)
        return self._floats(pixels_to_floats(array_pixels(pixels, steps), steps))

    def _tensors(self, arrays: Inputs, name: str) -> Inputs:
        """The plan's inputs by name."""
        made: dict[str, NDArray[Any]] = {}
        for spec in self._inputs:
            array = arrays.get(spec.name)
            if array is None:
                raise InputError(f"{name}: has no array {spec.name!r}; it has {', '.join(arrays)[:200]}")
            if array.dtype.name != spec.dtype or array.shape != spec.shape:
                raise InputError(
                    f"{name}: {spec.name!r} is {array.dtype.name}{list(array.shape)}, "
                    f"the plan takes {spec.dtype}{list(spec.shape)}"
                )
            made[spec.name] = array
        return made

    def _floats(self, x: Floats) -> Inputs:
        assert self._reading is not None
        spec, known = self._inputs[0], self._reading.quantisation
        shaped = x.reshape(spec.shape)
        return {spec.name: shaped if known is None else to_integers(shaped, known, spec.dtype)}

    def _steps(self, name: str) -> Reading:
        if self._reading is None:
            raise InputError(
                f"{name}: needs the preprocessing of the plan's packaged model (--bundle M.collab); "
                "without one give the plan's own tensors as .npz or .npy"
            )
        return self._reading

    def _image_steps(self, name: str) -> ImageSteps:
        steps = self._steps(name).preprocessing.steps
        if not isinstance(steps, ImageSteps):
            raise InputError(f"{name}: is a picture; the plan's preprocessing takes tables")
        return steps


def answered(outputs: Mapping[str, NDArray[Any]], reading: Reading | None, top: int) -> dict[str, Any]:
    """An answer for sinks: the best labels where there are some, else the outputs."""
    if reading is not None and reading.labels and top:
        scores = to_reals(outputs[reading.scores], reading.score_quantisation).ravel()
        order = np.argsort(-scores, kind="stable")[:top]
        return {"top": [{"label": reading.labels[i], "score": _number(scores[i])} for i in order]}
    return {"outputs": {name: _numbers(array.tolist()) for name, array in outputs.items()}}


def _numbers(values: Any) -> Any:
    return [_numbers(value) for value in values] if isinstance(values, list) else _number(values)


def _number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, (bool, int, np.integer)):
        return value if isinstance(value, (bool, int)) else int(value)
    return float(value) if math.isfinite(value) else None


def _check_size(path: Path, name: str) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    if size > MAX_FRAME_BYTES:
        raise LimitExceeded(f"{name}: {size} bytes are over {MAX_FRAME_BYTES}")


def _read_npy(data: bytes, name: str) -> NDArray[Any]:
    """An array within the bytes at hand, so that none is made that is larger."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{name}: version {version} of .npy is not known")
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER)
        if dtype.kind not in "biuf":
            raise InputError(f"{name}: an array of {dtype} holds no numbers")
        start = file.tell()
        count = math.prod(shape)
        if len(shape) > 8 or any(size < 0 for size in shape) or count * dtype.itemsize != len(data) - start:
            raise InputError(f"{name}: {len(data) - start} bytes for an array {dtype}{list(shape)[:9]}")
        array = np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C")
        return np.ascontiguousarray(array, dtype.newbyteorder("="))
    except InputError:
        raise
    except Exception as error:  # numpy's parser raises whatever the text makes it raise
        raise InputError(f"{name}: is no .npy of numbers ({str(error)[:100]})") from error


def _read_npz(data: bytes, specs: Sequence[TensorSpec], name: str) -> dict[str, NDArray[Any]]:
    """The arrays that are asked for, each no larger than it may be."""
    found: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = set(archive.namelist())
            for spec in specs:
                member = f"{spec.name}.npy"
                if member not in members:
                    continue
                most = spec.nbytes + _MAX_MEMBER_HEAD
                with archive.open(member) as file:
                    unpacked = file.read(most + 1)
                if len(unpacked) > most:
                    raise LimitExceeded(f"{name}: {spec.name!r} has over {spec.nbytes} bytes")
                found[spec.name] = _read_npy(unpacked, f"{name}, {spec.name!r}")
    except (InputError, LimitExceeded):
        raise
    except Exception as error:  # as above
        raise InputError(f"{name}: is no .npz ({str(error)[:100]})") from error
    return found
