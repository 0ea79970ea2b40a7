"""Keys that are read again while a server serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collab.errors import Unauthenticated
from collab.security.api_keys import add_api_key, read_api_keys
from collab.serving.access import Access
from collab.serving.reload import Kept, Reloads


class Told:
    """What people are told, one after another."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, line: str) -> None:
        self._lines.put_nowait(line)

    async def next(self) -> str:
        return await asyncio.wait_for(self._lines.get(), 5)

    @property
    def silent(self) -> bool:
        return self._lines.empty()


def replaced(file: Path, name: str, role: str) -> str:
    """A file of one key in place of another, at once."""
    key = add_api_key(file.with_name("next"), name, role)
    file.with_name("next").replace(file)
    return key


def append(file: Path, line: str) -> None:
    with file.open("a") as lines:
        lines.write(line)


@pytest.mark.parametrize("asked", [False, True])
async def test_a_changed_file_of_keys_is_used_and_a_broken_one_is_not(asked: bool, tmp_path: Path):
    file = tmp_path / "keys.txt"
    old = await asyncio.to_thread(replaced, file, "old", "viewer")
    access, told = Access(keys=await asyncio.to_thread(read_api_keys, file)), Told()
    kept = Kept("API keys", [file], lambda: read_api_keys(file), access.take_keys)
    async with Reloads([kept], told, look_s=60 if asked else 0.01) as reloads:

        def changed() -> None:
            if asked:
                reloads.now()

        assert access.admit(old, "", 0.0).name == "old"
        new = await asyncio.to_thread(replaced, file, "new", "operator")
        changed()
        assert await told.next() == "API keys: read again"
        assert access.admit(new, "", 0.0).role == "operator"
        with pytest.raises(Unauthenticated):
            access.admit(old, "", 0.0)
        await asyncio.to_thread(append, file, "nonsense\n")
        changed()
        line = await told.next()
        assert line.startswith("API keys: those of before stay in use: ")
        assert "line 2" in line
        assert access.admit(new, "", 0.0).role == "operator"
        await asyncio.to_thread(file.unlink)
        changed()
        assert "No such file" in await told.next()
        assert access.admit(new, "", 0.0).role == "operator"
    assert told.silent, "each change is told once"
