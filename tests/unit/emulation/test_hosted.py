"""Processes on hosts, as far as they need no hosts."""

from __future__ import annotations

import signal
import sys

import msgspec
import pytest

from collab.emulation.hosted import Hosted, HostedDesk, HostedNode, environment
from collab.emulation.orders import Asked, Close, Done, Failed
from collab.emulation.results import Asking
from collab.errors import Overloaded, PeerUnreachable, Refused

ASKING = Asking("two", 0, 7, "me", 1.0, 2.0, "ok", 1, False, ("a",), ())


class FakeDesk(HostedDesk):
    """Says given lines, one run of them for each order."""

    def __init__(self, folder, *answers):
        super().__init__("me", folder, (), folder / "none.json")
        lines = [msgspec.json.encode(answer).decode() for answer in answers]
        code = (
            f"import sys\nprint({msgspec.json.encode(Done()).decode()!r}, flush=True)\nsys.stdin.readline()\n"
        )
        code += "".join(f"print({line!r}, flush=True)\n" for line in lines)
        code += "print('that was all', file=sys.stderr)\n"
        self._command = (sys.executable, "-I", "-S", "-c", code)


async def test_each_request_is_told_until_the_order_is_done(tmp_path):
    seen: list[Asking] = []
    desk = FakeDesk(tmp_path, Asked(ASKING), Asked(ASKING), Done(warnings=("w",)))
    try:
        await desk.start()
        assert await desk.obey(Close(), seen.append) == Done(warnings=("w",))
    finally:
        await desk.end()
    assert seen == [ASKING, ASKING]


async def test_what_the_process_reports_is_raised(tmp_path):
    desk = FakeDesk(tmp_path, Failed("overloaded", "no credits; ask later"))
    try:
        await desk.start()
        with pytest.raises(Overloaded, match="no credits; ask later"):
            await desk.obey(Close())
        with pytest.raises(PeerUnreachable, match="requester me ended with 0: that was all"):
            await desk.obey(Close())
    finally:
        await desk.end()
    assert not desk.ended


async def test_a_node_that_does_not_come_up_says_why(tmp_path):
    node = HostedNode("a", tmp_path, (), ("127.0.0.1:0",), ())
    said = '{"error": {"code": "refused", "message": "the identity is not this node\'s"}}'
    node._command = (sys.executable, "-I", "-S", "-c", f"print({said!r})")
    try:
        with pytest.raises(Refused, match="node a: the identity is not this node's"):
            await node.start()
    finally:
        await node.end()


async def test_a_process_that_is_silent_does_not_hold_the_run(tmp_path):
    process = Hosted("node a", tmp_path, (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"))
    await process.spawn()
    try:
        with pytest.raises(PeerUnreachable, match="node a says nothing: its log is empty"):
            await process.line(0.05)
    finally:
        await process.end()


async def test_a_process_that_was_killed_may_have_had_too_little_memory(tmp_path):
    process = Hosted("node a", tmp_path, (sys.executable, "-I", "-S", "-c", "input()"))
    await process.spawn()
    try:
        process.send(signal.SIGKILL)
        with pytest.raises(PeerUnreachable, match="node a was killed, as with less memory_mb than it needs"):
            await process.line(10)
    finally:
        await process.end()


def test_processes_know_nothing_of_the_user_s_clusters(tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAB_IDENTITY", "/somewhere")
    found = environment(tmp_path)
    assert "COLLAB_IDENTITY" not in found
    assert found["XDG_CONFIG_HOME"] == str(tmp_path / "no-config")
