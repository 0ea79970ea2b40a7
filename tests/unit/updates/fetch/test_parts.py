"""Parts of a file with digests that are signed: nothing wrong leaves, and a lie costs one part."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest

from collab.errors import IntegrityError, PeerError
from collab.updates.fetch.base import CHUNK_BYTES, Opened, Source
from collab.updates.fetch.download import Downloads
from collab.updates.fetch.pace import Limits
from collab.updates.fetch.parts import SMALLEST_PART, Checked, part_bytes, part_digests
from collab.updates.release import MAX_PARTS, MAX_RELEASE_BYTES

PART = SMALLEST_PART
DATA = random.Random(1).randbytes(2 * PART + 1000)
DIGESTS = part_digests((DATA[i : i + 70_000] for i in range(0, len(DATA), 70_000)), len(DATA))


class Given(Source):
    """Bytes in chunks; `ranges` says whether it can begin within."""

    def __init__(self, data=DATA, ranges=True, chunk=50_000):
        self.data, self.ranges, self.chunk = data, ranges, chunk
        self.starts, self.given = [], 0

    @contextmanager
    def open(self, path, offset=0):
        start = offset if self.ranges else 0
        self.starts.append(start)

        def chunks():
            for i in range(start, len(self.data), self.chunk):
                self.given += len(self.data[i : i + self.chunk])
                yield self.data[i : i + self.chunk]

        yield Opened(start, chunks())


def checked(source, folder, clock=lambda: 0.0, limits=Limits()):
    return Checked(source, len(DATA), DIGESTS, Downloads(folder, limits, clock))


def read(source, offset=0):
    found = bytearray()
    with source.open("x", offset) as opened:
        for chunk in opened.chunks:
            found += chunk
    return opened.start, bytes(found)


def test_there_are_never_more_parts_than_are_signed():
    assert [part_bytes(size) for size in (1, PART * MAX_PARTS, PART * MAX_PARTS + 1)] == [
        PART,
        PART,
        2 * PART,
    ]
    assert part_bytes(MAX_RELEASE_BYTES) * MAX_PARTS >= MAX_RELEASE_BYTES
    assert len(DIGESTS) == 3


@pytest.mark.parametrize("offset", [0, 5, PART - 1, PART, PART + 1, 2 * PART + 999])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_right_passes_from_any_offset_on(tmp_path, offset, ranges):
    start, found = read(checked(source := Given(ranges=ranges), tmp_path), offset)
    assert start == (offset if ranges or offset < PART else 0)
    assert found == DATA[start:]
    assert source.starts == [offset // PART * PART if ranges else 0]


def test_a_wrong_byte_lets_nothing_of_its_part_out_and_nothing_more_is_read(tmp_path):
    wrong = bytearray(DATA)
    wrong[PART + 7] ^= 1
    source = Given(bytes(wrong))
    with checked(source, tmp_path).open("x") as opened:
        for place in range(0, PART, CHUNK_BYTES):
            assert next(opened.chunks) == DATA[place : place + CHUNK_BYTES]
        with pytest.raises(IntegrityError, match="part 1 is not what was signed"):
            next(opened.chunks)
    assert source.given < 2 * PART + source.chunk


@pytest.mark.parametrize("data", [DATA + b"more", DATA[:-1] + b"xy", bytes(len(DATA))])
def test_files_that_are_longer_or_other_do_not_pass(tmp_path, data):
    with pytest.raises(IntegrityError):
        read(checked(Given(data), tmp_path))


def test_what_ends_early_gives_its_whole_parts_only(tmp_path):
    assert read(checked(Given(DATA[: PART + 5]), tmp_path)) == (0, DATA[:PART])


def test_bytes_that_came_in_vain_are_counted(tmp_path):
    source = checked(Given(), tmp_path)
    read(source, PART + 9)
    assert source._downloads.counted.received == 9


def test_a_source_that_drips_is_left_before_its_part_is_whole(tmp_path):
    ticks = iter(range(0, 10_000, 5))
    source = Given(chunk=10)
    limits = Limits(least_bytes_s=100, window_s=30)
    with pytest.raises(PeerError, match="under 100 bytes a second"):
        read(checked(source, tmp_path, lambda: float(next(ticks)), limits))
    assert source.given < 200
