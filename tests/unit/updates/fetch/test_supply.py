"""From a repository into the store: by the fewest bytes, once, and stopped from another thread."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import PeerError
from collab.updates.fetch.client import Device
from collab.updates.fetch.supply import Stoppable, Supply
from collab.updates.store.disk import RealDisk
from collab.updates.store.store import Store
from tests.unit.updates.releases import Hostile, World

OLD = np.random.default_rng(1).bytes(200_000)
NEW = OLD[:-1000] + np.random.default_rng(2).bytes(1000)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def source(world):
    return Hostile(world.path)


@pytest.fixture
def supply(world, source, tmp_path):
    root = tmp_path / "store"
    stoppable = Stoppable(source)
    releases = world.device(stoppable, "store/fetch", device=Device())
    return Supply([stoppable], releases, Store(RealDisk(root), lambda: 0.0), root, "digits", "stable")


def test_a_release_becomes_the_candidate_and_is_on_the_disk_once(world, supply, tmp_path):
    assert supply.newest() is None
    world.release(OLD)
    release = supply.newest()
    assert supply.take(release) == "full"
    assert supply.store.state().candidate == release
    assert (tmp_path / "store" / supply.store.path(release)).read_bytes() == OLD
    assert list((tmp_path / "store" / "fetch" / "blobs").iterdir()) == []


def test_what_the_store_has_is_a_base_for_deltas(world, supply, source):
    world.release(OLD)
    supply.take(supply.newest())
    supply.store.activate()
    supply.store.healthy()
    world.release(NEW)
    source.given.clear()
    assert supply.take(supply.newest()) != "full"
    assert not any(path.endswith(".collab") for path in source.given)


def test_a_download_that_was_stopped_is_said_so(world, supply):
    world.release(OLD)
    release = supply.newest()
    supply.stop()
    with pytest.raises(PeerError, match="stopped"):
        supply.take(release)
    assert supply.store.state().candidate is None
