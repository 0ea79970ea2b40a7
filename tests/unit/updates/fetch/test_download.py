"""Downloads that stop anywhere and go on, over sources of every kind."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from collab.errors import IntegrityError, PeerError, PeerUnreachable
from collab.updates.fetch.base import NotOffered, Opened
from collab.updates.fetch.download import MARK_BYTES, Downloads
from collab.updates.fetch.http import HttpSource
from collab.updates.fetch.pace import Limits, Pace

DATA = random.Random(5).randbytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


def breaking(stops, data=DATA, ranges=True):
    """A source whose link breaks after so many bytes, once for each of `stops`."""
    left = list(stops)

    @contextmanager
    def source(offset):
        start = offset if ranges else 0
        end = min(len(data), start + left.pop(0)) if left else len(data)

        def chunks():
            for i in range(start, end, 10_000):
                yield data[i : min(i + 10_000, end)]
            if end < len(data):
                raise PeerError("the link broke")

        yield Opened(start, chunks())

    return source


def fetched(downloads, source):
    while True:
        try:
            return downloads.fetch(DIGEST, len(DATA), source)
        except PeerError:
            continue


def test_a_download_that_stops_thirty_times_fetches_every_byte_once(tmp_path):
    stops = [random.Random(3).randrange(1, 100_000) for _ in range(30)]
    downloads = Downloads(tmp_path)
    assert fetched(downloads, breaking(stops)).read_bytes() == DATA
    assert downloads.counted.received == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == [f"{DIGEST}.part"]


def test_a_new_process_goes_on_where_the_last_one_stopped(tmp_path):
    with pytest.raises(PeerError):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([1_000_000]))
    downloads = Downloads(tmp_path)
    assert downloads.fetch(DIGEST, len(DATA), breaking([])).read_bytes() == DATA
    assert downloads.counted.received == 2_000_000


def test_bytes_that_never_reached_the_disk_are_fetched_again_from_the_mark_on(tmp_path):
    with pytest.raises(PeerError):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([1_000_000]))
    # What a power cut leaves: the file is longer than what was synced, its end is zeros.
    with open(tmp_path / f"{DIGEST}.part", "ab") as file:
        file.write(bytes(500_000))
    downloads = Downloads(tmp_path)
    assert downloads.fetch(DIGEST, len(DATA), breaking([])).read_bytes() == DATA
    assert downloads.counted.received == 1_500_000 + 2_000_000


def test_a_partial_file_that_broke_on_the_disk_is_fetched_anew(tmp_path):
    with pytest.raises(PeerError):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([1_000_000]))
    with open(tmp_path / f"{DIGEST}.part", "r+b") as file:
        file.write(b"broken")
    downloads = Downloads(tmp_path)
    assert downloads.fetch(DIGEST, len(DATA), breaking([])).read_bytes() == DATA
    assert downloads.counted.received == len(DATA)


def test_a_source_without_ranges_begins_anew(tmp_path):
    downloads = Downloads(tmp_path)
    assert fetched(downloads, breaking([1_000_000], ranges=False)).read_bytes() == DATA
    assert downloads.counted.received == len(DATA) + 1_000_000


def test_a_hostile_begin_costs_one_more_download_from_an_honest_source(tmp_path):
    evil = os.urandom(len(DATA))
    with pytest.raises(PeerError):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([1_000_000], evil))
    assert Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([])).read_bytes() == DATA


def test_an_empty_answer_and_a_whole_wrong_one_are_told_apart(tmp_path):
    with pytest.raises(PeerError, match=f"ended after 0 of {len(DATA)}"):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([], b""))
    with pytest.raises(IntegrityError, match="another file"):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([], bytes(len(DATA))))


def test_marks_are_set_while_a_long_download_runs(tmp_path):
    data = bytes(MARK_BYTES * 2 + 1)
    marks = []

    @contextmanager
    def source(offset):
        def chunks():
            for i in range(0, len(data), 1 << 20):
                marks.append(len(list(tmp_path.glob("*.mark"))))
                yield data[i : i + (1 << 20)]

        yield Opened(0, chunks())

    Downloads(tmp_path).fetch(hashlib.sha256(data).hexdigest(), len(data), source)
    assert marks[:4] == [0, 0, 0, 0]
    assert marks[-1] == 1


def test_the_rate_limit_makes_it_wait_for_the_bytes_that_came():
    pace = Pace(Limits(most_bytes_s=1000), 0.0)
    waited = now = 0.0
    for _ in range(100):
        wait = pace.got(100, now)
        waited += wait
        now += wait
    assert waited == pytest.approx(9, abs=1.1)
    assert not pace.too_slow(now)


def test_a_slow_source_is_found_at_the_end_of_a_window_and_a_steady_one_is_not():
    limits = Limits(least_bytes_s=100, window_s=10)
    slow, steady = Pace(limits, 0.0), Pace(limits, 0.0)
    slow.got(999, 5.0)
    steady.got(1001, 5.0)
    assert not slow.too_slow(9.9)
    assert slow.too_slow(10.0)
    assert not steady.too_slow(10.0)


class Handler(BaseHTTPRequestHandler):
    ranges = True

    def do_GET(self) -> None:
        if self.path == "/r/there":
            start = 0
            if self.ranges and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(DATA) - start))
            self.end_headers()
            self.wfile.write(DATA[start:])
        elif self.path == "/r/moved":
            self.send_response(302)
            self.send_header("Location", "/r/there")
            self.end_headers()
        elif self.path == "/r/loop":
            self.send_response(302)
            self.send_header("Location", "/r/loop")
            self.end_headers()
        else:
            self.send_error(500 if self.path == "/r/broken" else 404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/r"
        http.shutdown()
        thread.join()


def test_a_web_server_is_asked_for_the_rest_only(server, tmp_path):
    source = HttpSource(server)
    with pytest.raises(PeerError):
        Downloads(tmp_path).fetch(DIGEST, len(DATA), breaking([1_000_000]))
    downloads = Downloads(tmp_path)
    got = downloads.fetch(DIGEST, len(DATA), lambda offset: source.open("moved", offset))
    assert got.read_bytes() == DATA
    assert downloads.counted.received == 2_000_000


def test_what_a_web_server_says_wrongly_is_one_line(server):
    source = HttpSource(server)
    for path, kind, text in (
        ("missing", NotOffered, "no such file"),
        ("broken", PeerError, "status 500"),
        ("loop", PeerError, "redirects more than 3 times"),
    ):
        with pytest.raises(kind, match=text), source.open(path):
            pass
    with (
        pytest.raises(PeerUnreachable, match="is the server up"),
        HttpSource("http://127.0.0.1:9").open("x"),
    ):
        pass


def test_headers_that_drip_are_left_in_time():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def drip() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not done.wait(0.05):
                    try:
                        peer.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        source = HttpSource(f"http://127.0.0.1:{listener.getsockname()[1]}", Limits(answer_s=0.3))
        try:
            with pytest.raises(PeerError, match=r"no answer within 0\.3 s"), source.open("x"):
                pass
        finally:
            done.set()
            thread.join()
