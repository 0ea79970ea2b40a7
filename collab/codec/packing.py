"""Lossless packers behind a tensor's bytes, which unpack to a size known beforehand or fail.

The libraries are imported on first use: a plan without them does not pay for them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from collab.errors import TensorError

_ZSTD_LEVEL: Final = 1
_ZSTD_MAX_WINDOW: Final = 8 << 20
"""Bytes; what every decoder should support (RFC 8878, section 3.1.1.1.2)."""
_MOST_IDLE: Final = 8
"""Contexts kept for later, of each kind."""
_LZ4_MOST_RATIO: Final = 255
"""An LZ4 block cannot grow by more (LZ4 block format: a length byte adds 255 at most)."""


class Packer(Protocol):
    """Packs bytes; safe to use from several threads."""

    def pack(self, data: memoryview) -> memoryview:
        """Packed bytes, maybe more than came in."""
        ...

    def unpack(self, data: memoryview, size: int) -> memoryview:
        """Exactly ``size`` bytes, or `TensorError`; reserves no more than that and a constant."""
        ...


class Lz4:
    """One LZ4 block without a size before it."""

    def pack(self, data: memoryview) -> memoryview:
        """Fast mode, the library's default acceleration."""
        import lz4.block

        return memoryview(lz4.block.compress(data, store_size=False))

    def unpack(self, data: memoryview, size: int) -> memoryview:
        """Raises `TensorError`."""
        import lz4.block

        if size > _LZ4_MOST_RATIO * len(data):
            raise TensorError(f"lz4: {len(data)} bytes cannot hold {size}")
        try:
            plain = lz4.block.decompress(data, uncompressed_size=size)
        except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
            raise TensorError("lz4: the block is damaged") from error
        if len(plain) != size:
            raise TensorError(f"lz4: {len(plain)} bytes where {size} were expected")
        return memoryview(plain)


class Zstd:
    """One Zstandard frame (RFC 8878) that states its content size, without a dictionary."""

    def __init__(self) -> None:
        # zstandard's contexts must not be shared, so whoever uses one takes it out; a deque's
        # ends may be used from any thread.
        self._compressors: deque[Any] = deque(maxlen=_MOST_IDLE)
        self._decompressors: deque[Any] = deque(maxlen=_MOST_IDLE)

    def pack(self, data: memoryview) -> memoryview:
        """At level 1."""
        import zstandard

        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
        packed = memoryview(compressor.compress(data))
        self._compressors.append(compressor)
        return packed

    def _decompress(self, data: memoryview, size: int) -> bytes:
        import zstandard

        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        plain: bytes = decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
        self._decompressors.append(decompressor)  # unless it has failed
        return plain

    def unpack(self, data: memoryview, size: int) -> memoryview:
        """Raises `TensorError`; the frame's own account of itself is checked before memory is reserved."""
        import zstandard

        try:
            frame = zstandard.get_frame_parameters(data)
        except (zstandard.ZstdError, ValueError) as error:
            raise TensorError("zstd: no frame") from error
        if frame.content_size != size:
            raise TensorError(f"zstd: the frame does not state {size} bytes")
        # A single-segment frame has a window of its content's size, which is bounded already.
        if frame.window_size > max(_ZSTD_MAX_WINDOW, size) or frame.dict_id:
            raise TensorError("zstd: the frame's window is too large, or it needs a dictionary")
        try:
            plain = self._decompress(data, size)
        except (zstandard.ZstdError, ValueError) as error:
            raise TensorError("zstd: the frame is damaged") from error
        if len(plain) != size:
            raise TensorError(f"zstd: {len(plain)} bytes where {size} were expected")
        return memoryview(plain)


PACKERS: dict[str, Packer] = {"lz4": Lz4(), "zstd": Zstd()}
"""Packers by the name that codecs use."""
