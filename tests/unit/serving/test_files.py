"""Files that clients send, and how many are decoded at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from collab.serving import files
from collab.serving.files import MAX_AT_ONCE, FileDesk
from tests.unit.serving.stand_in import Double


async def test_files_of_clients_that_went_away_are_among_those_that_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
):
    begun: asyncio.Queue[int] = asyncio.Queue()
    go_on, loop = threading.Event(), asyncio.get_running_loop()

    def decode(upload: Any, package: Any) -> tuple[list[str], list[Any]]:
        loop.call_soon_threadsafe(begun.put_nowait, 1)
        assert go_on.wait(5)
        return [], []

    monkeypatch.setattr(files, "_examples", decode)
    monkeypatch.setattr(FileDesk, "_package", lambda self, plan: None)
    desk, offer = FileDesk({}), Double().offer

    def ask() -> asyncio.Task[Any]:
        return asyncio.ensure_future(desk.ask(offer, b"a file", "", 1, 5.0))

    gone = [ask() for _ in range(MAX_AT_ONCE)]
    for _ in gone:
        await asyncio.wait_for(begun.get(), 5)
    for one in gone:
        one.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert desk._free.locked(), "their threads still decode"
    last = ask()
    go_on.set()
    assert (await last)["answers"] == []
