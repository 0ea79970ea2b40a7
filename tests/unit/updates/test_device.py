"""From a repository into a store and back: what is withdrawn comes back as a new version of old content."""

from __future__ import annotations

import pytest

pytest.importorskip("tuf")

from collab.errors import Refused
from collab.updates.store.disk import RealDisk, file_parts
from collab.updates.store.store import Store
from tests.unit.updates.releases import World


def test_a_release_goes_from_the_repository_into_the_store_and_a_withdrawn_one_back(tmp_path):
    world = World(tmp_path)
    store = Store(RealDisk(tmp_path / "store"), lambda: 1000.0)

    def update():
        device = world.device()
        release = device.newest("digits", "stable")
        store.add(release, file_parts(device.fetch(release).path))
        store.activate()
        store.healthy()
        return release

    world.release(b"first" * 100)
    first = update()
    world.release(b"second" * 100)
    second = update()
    assert (first.version, second.version, store.start()) == (1, 2, second)

    world.repository.withdraw("digits", 2, "stable", world.keys.ring(), world.now)
    again = update()
    assert (again.version, again.sha256, again.custom.content_of) == (3, first.sha256, 1)
    assert store.start() == again
    with pytest.raises(Refused, match="not above 3"):
        store.add(second, file_parts(tmp_path / "blob"))
