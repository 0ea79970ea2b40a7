"""Deltas: a release made of another that a device has already.

Three kinds, since none is best everywhere: ``zstd`` with the base as its dictionary for pieces that
moved or stayed, ``bsdiff`` where bytes differ a little everywhere, ``planes`` for weights that were all
trained on.  That one compares byte by byte: exclusive or, the bytes by their place in a word, zstd for
wide numbers; the difference and LZMA, whose range coder goes below a bit for a byte, for int8.  Pure.
"""

from __future__ import annotations

import hashlib
import lzma
from typing import Final, get_args

import numpy as np
import zstandard
from numpy.typing import NDArray

from collab.errors import IntegrityError, LimitExceeded
from collab.updates.extra import updates_extra
from collab.updates.release import Delta, DeltaKind

MAX_BYTES: Final = 256 << 20
"""Of the base and of the release: both are held in memory while a delta is made or applied."""
MAX_SLOW_BYTES: Final = 32 << 20
"""Making a delta by bsdiff takes 17 times its base in memory, and a minute; LZMA takes one too."""
WORTH: Final = 0.9
"""A delta over this share of the full file is not kept: the full file needs no base."""

_KINDS: Final[tuple[DeltaKind, ...]] = get_args(DeltaKind)
_BSDIFF_HEADER: Final = 32
_STRIDE: Final = 4
_TAIL, _DIFFERENCE = 1, 2
"""The first byte of a delta by planes: the base lies at the end; differences in place of exclusive or."""
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
"""No byte says anything about the next one."""
_LEVEL: Final = 19


def make_delta(base: bytes, target: bytes) -> tuple[Delta, bytes] | None:
    """The smallest delta of all kinds; None if none is worth it."""
    if not base or not target or max(len(base), len(target)) > MAX_BYTES:
        return None
    made = {kind: _make(kind, base, target) for kind in _KINDS}
    kind, data = min(
        ((kind, data) for kind, data in made.items() if data is not None), key=lambda pair: len(pair[1])
    )
    if len(data) > WORTH * len(target):
        return None
    return (
        Delta(
            base_sha256=hashlib.sha256(base).hexdigest(),
            kind=kind,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        ),
        data,
    )


def apply_delta(delta: Delta, base: bytes, data: bytes, size: int, sha256: str) -> bytes:
    """The release that a delta makes of its base.

    Raises:
        IntegrityError: the base or the delta is another one, or something else comes out.
        LimitExceeded: what comes out would be over a bound.
    """
    if max(len(base), size) > MAX_BYTES:
        raise LimitExceeded(f"a delta over {MAX_BYTES} bytes is not applied; fetch the full file")
    if hashlib.sha256(base).hexdigest() != delta.base_sha256:
        raise IntegrityError("this delta is for another base; fetch the full file")
    if len(data) != delta.size or hashlib.sha256(data).hexdigest() != delta.sha256:
        raise IntegrityError("this is not the delta that was signed; fetch the full file")
    try:
        made = _apply(delta.kind, base, data, size)
    except (ValueError, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError) as error:
        raise IntegrityError(
            f"a delta of kind {delta.kind} is broken: {error}; fetch the full file"
        ) from error
    if len(made) != size or hashlib.sha256(made).hexdigest() != sha256:
        raise IntegrityError("a delta made another file than is signed; fetch the full file")
    return made


def _make(kind: DeltaKind, base: bytes, target: bytes) -> bytes | None:
    if kind == "zstd":
        return _patch_from(base, target)
    if kind == "bsdiff":
        if max(len(base), len(target)) > MAX_SLOW_BYTES:
            return None
        with updates_extra():
            import bsdiff4
        patch: bytes = bsdiff4.diff(base, target)
        return patch
    found = [bytes([tail]) + _planes(_xor(base, target, bool(tail))) for tail in (0, _TAIL)]
    if max(len(base), len(target)) <= MAX_SLOW_BYTES:
        found += [
            bytes([_DIFFERENCE | tail])
            + lzma.compress(_difference(base, target, bool(tail)), lzma.FORMAT_RAW, filters=_FILTERS)
            for tail in (0, _TAIL)
        ]
    return min(found, key=len)


def _apply(kind: DeltaKind, base: bytes, data: bytes, size: int) -> bytes:
    if kind == "zstd":
        decompressor = zstandard.ZstdDecompressor(
            dict_data=_dictionary(base), max_window_size=1 << zstandard.WINDOWLOG_MAX
        )
        return _bounded(decompressor, data, size)
    if kind == "bsdiff":
        # The patch says how large its result is, and the library reserves it.
        if int.from_bytes(data[_BSDIFF_HEADER - 8 : _BSDIFF_HEADER], "little") != size:
            raise ValueError("it is for another size")
        with updates_extra():
            import bsdiff4
        patched: bytes = bsdiff4.patch(base, data)
        return patched
    flags = data[0] if data else 0
    if flags & _DIFFERENCE:
        difference = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(data[1:], size)
        return _sum(base, difference, bool(flags & _TAIL))
    planes = _bounded(zstandard.ZstdDecompressor(), data[1:], size)
    return _xor(base, _unplanes(planes), bool(flags & _TAIL))


def _bounded(decompressor: zstandard.ZstdDecompressor, data: bytes, size: int) -> bytes:
    if zstandard.frame_content_size(data) != size:
        raise ValueError("it is for another size")
    made: bytes = decompressor.decompress(data, max_output_size=size)
    return made


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _patch_from(base: bytes, target: bytes) -> bytes:
    # The window has to reach over the target back to the begin of the base.
    window = min(max((len(base) + len(target)).bit_length(), 17), zstandard.WINDOWLOG_MAX)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=len(target), dict_size=len(base), window_log=window, enable_ldm=True
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters)
    return compressor.compress(target)


def _laid(base: bytes, size: int, tail: bool) -> NDArray[np.uint8]:
    """The base as far as it reaches, laid at the begin or at the end of zeros."""
    made = np.zeros(size, np.uint8)
    reach = min(len(base), size)
    other = np.frombuffer(base, np.uint8)
    if tail and reach:
        made[-reach:] = other[-reach:]
    else:
        made[:reach] = other[:reach]
    return made


def _xor(base: bytes, target: bytes, tail: bool) -> bytes:
    """Its own inverse."""
    return (np.frombuffer(target, np.uint8) ^ _laid(base, len(target), tail)).tobytes()


def _difference(base: bytes, target: bytes, tail: bool) -> bytes:
    return (np.frombuffer(target, np.uint8) - _laid(base, len(target), tail)).tobytes()


def _sum(base: bytes, difference: bytes, tail: bool) -> bytes:
    return (np.frombuffer(difference, np.uint8) + _laid(base, len(difference), tail)).tobytes()


def _planes(data: bytes) -> bytes:
    array = np.frombuffer(data, np.uint8)
    ordered = np.concatenate([array[place::_STRIDE] for place in range(_STRIDE)])
    return zstandard.ZstdCompressor(level=_LEVEL).compress(ordered.tobytes())


def _unplanes(data: bytes) -> bytes:
    array: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    made = np.empty_like(array)
    start = 0
    for place in range(_STRIDE):
        plane = made[place::_STRIDE]
        plane[:] = array[start : start + len(plane)]
        start += len(plane)
    return made.tobytes()
