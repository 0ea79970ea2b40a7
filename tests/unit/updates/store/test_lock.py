"""One process at a time in a folder; who looks in passing refuses nobody."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from collab.errors import Conflict, StoreError
from collab.updates.store.lock import folder_lock


def test_a_folder_that_is_held_is_refused_and_free_again_afterwards(tmp_path):
    folder = tmp_path / "made" / "here"
    with (
        folder_lock(folder, "lock", "is taken"),
        pytest.raises(Conflict, match="here: is taken"),
        folder_lock(folder, "lock", "is taken"),
    ):
        pytest.fail("held twice")
    with folder_lock(folder, "lock", "is taken"):
        pass


def test_who_looks_in_passing_refuses_nobody(tmp_path, monkeypatch):
    looking = ExitStack()
    looking.enter_context(folder_lock(tmp_path, "lock", "is taken"))
    monkeypatch.setattr("collab.updates.store.lock.time.sleep", lambda seconds: looking.close())
    with folder_lock(tmp_path, "lock", "is taken"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be used"), folder_lock(tmp_path, "lock", "is taken"):
        pytest.fail("followed")
    assert not (tmp_path / "elsewhere").exists()
