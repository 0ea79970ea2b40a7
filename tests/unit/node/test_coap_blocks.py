"""Bodies in blocks: put together and cut, and what strangers cannot do with them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.node.coap.answers import Code, Declined, Reply
from collab.node.coap.blocks import BERT, Block, BlockLimits, Downloads, Uploads, cut, fitting

LIMITS = BlockLimits(uploads=4, uploads_each=2, upload_bytes=4096, downloads=3, download_bytes=1000)


def declined(call, *arguments) -> Declined:
    with pytest.raises(Declined) as caught:
        call(*arguments)
    return caught.value


def blocks(body: bytes, exponent: int, parts: int = 1):
    size = Block(0, False, exponent).size * parts
    for start in range(0, len(body) or 1, size):
        number = start // Block(0, False, exponent).size
        yield Block(number, start + size < len(body), exponent), body[start : start + size]


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 6))
def test_a_body_in_blocks_comes_out_whole(body, exponent):
    uploads = Uploads()
    *firsts, last = blocks(body, exponent)
    for block, part in firsts:
        assert uploads.feed("k", "h", block, part, 4096, 0) is None
    block, part = last
    assert uploads.feed("k", "h", block, part, 4096, 0) == body
    assert (len(uploads), uploads.held_bytes) == (0, 0)


def test_blocks_of_many_kib_come_out_whole():
    uploads, body = Uploads(), bytes(range(256)) * 20
    *firsts, last = blocks(body, BERT, 2)
    for block, part in firsts:
        assert uploads.feed("k", "h", block, part, 1 << 20, 0) is None
    block, part = last
    assert uploads.feed("k", "h", block, part, 1 << 20, 0) == body


def test_a_gap_a_repeat_and_a_huge_number_are_refused():
    for number in (2, 0x7FFF, 0xFFFFF):
        uploads = Uploads()
        uploads.feed("k", "h", Block(0, True, 0), bytes(16), 1 << 30, 0)
        error = declined(uploads.feed, "k", "h", Block(number, True, 0), bytes(16), 1 << 30, 0)
        assert error.reply.code == Code.INCOMPLETE
        assert uploads.held_bytes == 0


def test_a_block_is_as_long_as_it_says():
    for block, payload in (
        (Block(0, True, 1), bytes(16)),
        (Block(0, False, 0), bytes(17)),
        (Block(0, True, 7), b""),
    ):
        assert declined(Uploads().feed, "k", "h", block, payload, 4096, 0).reply.code == Code.BAD_REQUEST


def test_a_body_too_long_says_how_long_it_may_be():
    uploads = Uploads()
    uploads.feed("k", "h", Block(0, True, 0), bytes(16), 20, 0)
    error = declined(uploads.feed, "k", "h", Block(1, True, 0), bytes(16), 20, 0)
    assert (error.reply.code, error.reply.size1) == (Code.TOO_LARGE, 20)
    assert len(uploads) == 0


def test_uploads_that_never_end_are_few_and_make_room_when_they_idle():
    uploads = Uploads(LIMITS)
    for i in range(4):
        uploads.feed(i, f"host{i}", Block(0, True, 0), bytes(16), 4096, 0)
    full = declined(uploads.feed, 9, "new", Block(0, True, 0), bytes(16), 4096, 1)
    assert (full.reply.code, full.reply.max_age_s) == (Code.UNAVAILABLE, 1)
    assert uploads.feed(9, "new", Block(0, True, 0), bytes(16), 4096, 1 + LIMITS.yield_s) is None
    assert len(uploads) == 4


def test_one_host_cannot_take_all_uploads():
    uploads = Uploads(LIMITS)
    for i in range(2):
        uploads.feed(i, "greedy", Block(0, True, 0), bytes(16), 4096, 0)
    assert (
        declined(uploads.feed, 2, "greedy", Block(0, True, 0), bytes(16), 4096, 1).reply.code
        == Code.UNAVAILABLE
    )
    assert uploads.feed(3, "other", Block(0, True, 0), bytes(16), 4096, 1) is None


def test_all_uploads_together_are_bounded():
    uploads = Uploads(LIMITS)
    for number in range(3):
        uploads.feed("a", "h", Block(number, True, 6), bytes(1024), 1 << 20, 0)
    uploads.feed("b", "h2", Block(0, True, 6), bytes(1024), 1 << 20, 0)
    assert (
        declined(uploads.feed, "b", "h2", Block(1, True, 6), bytes(1024), 1 << 20, 0).reply.code
        == Code.UNAVAILABLE
    )
    assert uploads.held_bytes == 3072


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20), st.integers(0, 6), st.integers(0, 4), st.booleans(), st.integers(0, 7),
            st.integers(0, 2100), st.integers(0, 20),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_whatever_comes_bounds_hold(events):
    uploads, now = Uploads(LIMITS), 0.0
    for key, host, number, more, exponent, size, wait in events:
        now += wait
        with suppress(Declined):
            uploads.feed(key, host, Block(number, more, exponent), bytes(size), 3000, now)
        assert len(uploads) <= LIMITS.uploads
        assert 0 <= uploads.held_bytes <= LIMITS.upload_bytes
        assert uploads.held_bytes == sum(len(held.body) for held in uploads._held.values())


def test_answers_kept_are_bounded_and_the_oldest_goes():
    downloads = Downloads(LIMITS)
    for i in range(5):
        downloads.keep(i, Reply(Code.CONTENT, bytes(100)), 0)
    assert [downloads.find(i, 1) is not None for i in range(5)] == [False, False, True, True, True]
    downloads.keep("big", Reply(Code.CONTENT, bytes(950)), 1)
    assert (len(downloads), downloads.held_bytes) == (1, 950)
    assert downloads.find("big", 1 + LIMITS.kept_s + 1) is None
    assert downloads.held_bytes == 0


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 7), st.integers(16, 5000))
def test_what_is_cut_is_the_whole(body, exponent, most):
    got, number = b"", 0
    while True:
        found = cut(body, Block(number, False, exponent), most)
        assert found is not None
        part, option = found
        got += part
        if not option.more:
            break
        number = len(got) // option.size
    assert got == body
    assert cut(body, Block(number + 6000, False, exponent), most) is None


def test_the_largest_block_that_fits():
    assert [fitting(n) for n in (1, 16, 31, 32, 128, 1023, 1024, 5000)] == [0, 0, 0, 1, 3, 5, 6, 6]
