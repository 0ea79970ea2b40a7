"""The content-addressed store: parts, digests, room."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.ids import Digest
from collab.errors import InputError, IntegrityError, LimitExceeded, ProtocolError, StoreError
from collab.node import store as module
from collab.node.store import Store


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = (seed.to_bytes(4, "big") + bytes(range(251)) * (size // 251 + 1))[:size]
    return digest_of(data), data


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path, limit_bytes=1000)
    yield opened
    opened.close()


def put(store: Store, data: bytes, *keep: Digest) -> Digest:
    store.put(digest_of(data), len(data), 0, data, keep)
    return digest_of(data)


# --- parts -----------------------------------------------------------------------------


@settings(max_examples=50)
@given(parts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 120)), max_size=20))
def test_parts_without_gaps_make_the_blob_even_if_several_send_it(parts: list[tuple[int, int]]):
    """Each part starts some bytes before the end of what is held."""
    sha256, data = blob(500)
    with TemporaryDirectory() as folder, closing(Store(Path(folder), limit_bytes=500)) as store:
        held = 0
        for back, length in (*parts, (0, 500)):
            start = max(0, held - back)
            part = data[start : start + length]
            held = max(held, start + len(part))
            assert store.put(sha256, 500, start, part, ()) == held
        assert store.held(sha256) == (500, True)
        assert store.path(sha256).read_bytes() == data


def test_a_part_survives_a_restart_and_is_resumed(tmp_path: Path):
    sha256, data = blob(300)
    store = Store(tmp_path)
    assert store.put(sha256, 300, 0, data[:120], ()) == 120
    assert store.held(sha256) == (120, False)
    assert store.digests() == []
    store.close()
    store = Store(tmp_path)
    assert store.checked(sha256) == (120, False)
    assert store.put(sha256, 300, 120, data[120:], ()) == 300
    assert store.digests() == [sha256]
    store.close()


def test_a_part_that_leaves_a_gap_or_is_too_long_is_refused(store: Store):
    sha256, data = blob(300)
    store.put(sha256, 300, 0, data[:100], ())
    for offset, part in ((101, data[101:200]), (100, data[100:] + b"x"), (300, b"")):
        with pytest.raises(ProtocolError, match="100 bytes are held"):
            store.put(sha256, 300, offset, part, ())
    assert store.held(sha256) == (100, False)


def test_bytes_of_another_digest_are_refused_and_dropped(store: Store):
    sha256, data = blob(300)
    with pytest.raises(IntegrityError, match="another digest"):
        store.put(sha256, 300, 0, b"!" + data[1:], ())
    assert store.held(sha256) == (0, False)
    store.put(sha256, 300, 0, data, ())
    assert store.held(sha256) == (300, True)


def test_a_part_longer_than_its_blob_is_dropped(store: Store, tmp_path: Path):
    sha256, data = blob(300)
    (tmp_path / "partial" / sha256).write_bytes(data + b"left over")
    with pytest.raises(IntegrityError, match="send it again"):
        store.put(sha256, 300, 309, b"", ())
    assert store.put(sha256, 300, 0, data, ()) == 300


def test_a_crash_before_the_blob_is_moved_costs_nothing_but_the_move(store: Store, tmp_path: Path):
    sha256, data = blob(300)
    (tmp_path / "partial" / sha256).write_bytes(data)
    assert store.held(sha256) == (300, False)
    assert store.put(sha256, 300, 300, b"", ()) == 300
    assert store.held(sha256) == (300, True)


def test_a_blob_that_is_here_is_not_written_again(store: Store, tmp_path: Path):
    sha256 = put(store, blob(300)[1])
    before = (tmp_path / "blobs" / sha256).stat()
    assert store.put(sha256, 300, 0, b"whatever", ()) == 300
    after = (tmp_path / "blobs" / sha256).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("name", ["", "abc", "../../etc/passwd", "A" * 64, "0" * 63 + "/"])
def test_a_name_that_is_no_digest_never_becomes_a_path(store: Store, tmp_path: Path, name: str):
    with pytest.raises(InputError, match="SHA-256"):
        store.put(name, 3, 0, b"abc", ())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


# --- corruption ------------------------------------------------------------------------


def test_a_flipped_bit_is_found_and_the_blob_removed(store: Store, tmp_path: Path):
    sha256 = put(store, blob(300)[1])
    path = tmp_path / "blobs" / sha256
    data = bytearray(path.read_bytes())
    data[150] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{sha256[:12]}: corrupted .* deploy"):
        store.path(sha256)
    assert not path.exists()
    with pytest.raises(StoreError, match="not in the store"):
        store.path(sha256)


def test_a_check_removes_what_is_corrupted_and_keeps_what_is_not(store: Store, tmp_path: Path):
    good, bad = put(store, blob(100, 1)[1]), put(store, blob(100, 2)[1])
    (tmp_path / "blobs" / bad).write_bytes(b"short")
    assert store.checked(good) == (100, True)
    assert store.checked(bad) == (0, False)
    assert store.digests() == [good]


# --- room ------------------------------------------------------------------------------


def test_the_least_recently_used_blob_makes_room(store: Store, tmp_path: Path):
    blobs = [put(store, blob(300, seed)[1]) for seed in range(3)]
    for age, sha256 in enumerate(blobs):
        os.utime(tmp_path / "blobs" / sha256, (1000 + age, 1000 + age))
    store.path(blobs[0])  # used just now
    newest = put(store, blob(300, 9)[1])
    assert set(store.digests()) == {blobs[0], blobs[2], newest}


def test_blobs_in_use_stay_however_old_they_are(store: Store, tmp_path: Path):
    blobs = [put(store, blob(300, seed)[1]) for seed in range(3)]
    for sha256 in blobs:
        os.utime(tmp_path / "blobs" / sha256, (0, 0))
    data = blob(300, 9)[1]
    put(store, data, blobs[0], blobs[1])
    assert set(store.digests()) == {blobs[0], blobs[1], digest_of(data)}
    with pytest.raises(LimitExceeded, match="raise store_bytes"):
        put(store, blob(300, 10)[1], blobs[0], blobs[1], digest_of(data))
    assert set(store.digests()) == {blobs[0], blobs[1], digest_of(data)}


def test_a_part_left_behind_makes_room_too(store: Store):
    sha256, data = blob(600, 1)
    store.put(sha256, 600, 0, data[:500], ())
    put(store, blob(600, 2)[1])
    assert store.held(sha256) == (0, False)


def test_a_large_blob_needs_room_for_itself_once(store: Store):
    """Its own parts do not count against it."""
    sha256, data = blob(1000)
    for start in range(0, 1000, 100):
        store.put(sha256, 1000, start, data[start : start + 100], ())
    assert store.held(sha256) == (1000, True)
    with pytest.raises(LimitExceeded, match="1001 bytes is over"):
        put(store, blob(1001)[1])


# --- the disk --------------------------------------------------------------------------


class Full:
    """A file on a full disk: takes a few bytes, then none."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._file.write(data[: self._room])
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_named_and_what_was_written_is_resumed(store: Store, monkeypatch: pytest.MonkeyPatch):
    sha256, data = blob(300)
    store.put(sha256, 300, 0, data[:100], ())
    with monkeypatch.context() as patch:
        patch.setattr(module, "open", lambda *a, **k: Full(open(*a, **k), 50), raising=False)  # noqa: SIM115
        with pytest.raises(StoreError, match=f"cannot write blob {sha256[:12]}: No space left"):
            store.put(sha256, 300, 100, data[100:], ())
    assert store.held(sha256) == (150, False)
    assert store.put(sha256, 300, 150, data[150:], ()) == 300


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("replace", "write blob"),
        ("iterdir", "list the blobs"),
    ],
)
def test_every_error_of_the_disk_leaves_as_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, what: str
):
    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os if hasattr(os, call) else Path, call, fail)
    actions = {
        "replace": lambda: put(store, blob(10)[1]),
        "iterdir": store.digests,
    }
    with pytest.raises(StoreError, match=f"cannot {what}.*Read-only file system"):
        actions[call]()


def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another --store"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="choose another --store"):
        Store(tmp_path / "file" / "below")


def test_a_store_is_one_nodes_until_it_is_closed(tmp_path: Path):
    first = Store(tmp_path)
    with pytest.raises(StoreError, match="another node uses it"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_blobs_are_dropped_whole_or_begun_and_others_stay(store):
    whole, kept = put(store, blob(100, 1)[1]), put(store, blob(100, 2)[1])
    begun, data = blob(100, 3)
    store.put(begun, 100, 0, data[:40], ())
    assert store.drop([whole, begun, digest_of(b"never here")]) == 2
    assert store.digests() == [kept]
    assert store.held(begun) == (0, False)
