"""Publishing: channels, withdrawn releases, keys of several people."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("tuf")

from collab.errors import Conflict, InputError
from collab.updates.fetch.files import FolderSource
from collab.updates.release import ReleaseInfo
from collab.updates.repository import publishing
from collab.updates.repository.keys import Keyring, keys_of, make_key
from collab.updates.repository.metadata import refresh, sign
from collab.updates.repository.overview import overview
from tests.unit.updates.releases import NOW, World, days


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def newest(world, channel="stable", name="device"):
    return world.device(name=name).newest("digits", channel)


def test_a_release_goes_from_channel_to_channel_under_one_version(world):
    world.release(b"one", "staging")
    assert newest(world) is None
    world.repository.promote("digits", 1, "staging", "stable", world.keys.ring(), NOW)
    found = newest(world)
    assert (found.version, found.custom.family) == (1, "digits")
    assert world.device().fetch(found).path.read_bytes() == b"one"
    with pytest.raises(Conflict, match="has had version 1"):
        world.repository.promote("digits", 1, "staging", "stable", world.keys.ring(), NOW)


def test_a_version_is_never_given_twice(world):
    world.release(b"one", "staging")
    with pytest.raises(Conflict, match="next one is 2"):
        world.release(b"other", version=1)
    assert world.release(b"five", version=5).version == 5
    assert world.repository.next_version("digits") == 6


def test_the_content_before_a_withdrawn_release_comes_back_as_a_new_version(world):
    world.release(b"good")
    world.release(b"bad")
    assert newest(world).version == 2
    made, _ = world.repository.withdraw("digits", 2, "stable", world.keys.ring(), NOW)
    assert (made.version, made.content_of) == (3, 1)
    found = newest(world)
    assert found.version == 3
    assert world.device().fetch(found).path.read_bytes() == b"good"


def test_a_withdrawn_release_comes_back_for_its_own_devices_only(world):
    world.release(b"pi", devices=("pi-4",))
    world.release(b"jetson", devices=("jetson",))
    made, _ = world.repository.withdraw("digits", 2, "stable", world.keys.ring(), NOW)
    assert made is None
    made, _ = world.repository.withdraw("digits", 1, "stable", world.keys.ring(), NOW)
    assert made is None
    assert newest(world) is None


def test_people_sign_one_after_the_other_on_their_own_machines(world):
    first, second, _ = world.keys.made["digits.stable"]
    online = [world.keys.made[role][0] for role in ("snapshot", "timestamp")]
    blob = world.folder / "blob"
    blob.write_bytes(b"one")
    info = ReleaseInfo(family="digits", version=1)
    ring = world.keys.ring(first)
    _, outcome = world.repository.publish(blob, info, "stable", ring, NOW)
    assert (outcome.published, outcome.missing) == ([], {"digits.stable": 1})
    assert newest(world) is None
    assert [r["state"] for r in overview(world.repository, NOW)["releases"]] == ["waits for signatures"]
    metadatas = world.again().metadatas
    assert sign(metadatas, world.keys.ring(first), NOW).missing == {"digits.stable": 1}
    assert sign(metadatas, world.keys.ring(second), NOW).missing == {"snapshot": 1, "timestamp": 1}
    assert "digits.stable" in sign(metadatas, world.keys.ring(*online), NOW).published
    assert newest(world).version == 1


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "digits.stable"])
def test_devices_follow_when_keys_of_a_role_are_replaced(world, role):
    world.release(b"one")
    assert newest(world).version == 1
    by = "root" if role in publishing.TOP else "targets"
    old = [key.keyid for key in keys_of(world.repository.metadatas.current(by).signed, role)]
    fresh = world.keys.make(role, len(old))
    outcome = world.repository.rotate(role, fresh, old, world.keys.ring(), NOW)
    assert not outcome.missing
    world.keys.made[role] = [s for s in world.keys.made[role] if s.public_key.keyid not in old]
    world.release(b"two")
    assert newest(world).version == 2
    assert newest(world, name="a device that was off").version == 2


def test_new_keys_are_not_served_before_they_have_signed(world):
    world.release(b"one")
    old = world.keys.made["digits.stable"]
    fresh = world.keys.make("digits.stable", 3)
    known = [signer for role in world.keys.made.values() for signer in role if signer.public_key not in fresh]
    outcome = world.repository.rotate(
        "digits.stable", fresh, [s.public_key.keyid for s in old[:3]], world.keys.ring(*known), NOW
    )
    assert outcome.missing == {"targets": 1, "digits.stable": 2}
    assert newest(world).version == 1
    assert "digits.stable" in world.sign().published
    assert newest(world).version == 1


def test_too_few_keys_and_unknown_ones_are_refused(world):
    keys = [signer.public_key.keyid for signer in world.keys.made["digits.stable"]]
    with pytest.raises(InputError, match="would have 1 keys and need 2"):
        world.repository.rotate("digits.stable", (), keys[:2], world.keys.ring(), NOW)
    with pytest.raises(InputError, match="has 0 keys that begin with"):
        world.repository.rotate("digits.stable", (), ["zz"], world.keys.ring(), NOW)
    assert not world.repository.metadatas.waiting_roles()


def test_a_family_is_added_with_keys_of_its_own(world):
    outcome = world.repository.add_family(
        "faces", {"stable": publishing.CHANNEL}, world.keys.make, world.keys.ring(), NOW
    )
    world.sign()
    assert not world.repository.metadatas.waiting_roles(), outcome
    assert world.repository.channels("faces") == ["stable"]
    with pytest.raises(Conflict, match="there already"):
        world.repository.add_family("faces", {}, world.keys.make, world.keys.ring(), NOW)


def test_what_ends_soon_is_warned_of_and_signed_anew(world):
    world.release(b"one")
    assert overview(world.repository, NOW)["warnings"] == []
    assert overview(world.repository, NOW + days(6))["warnings"] == [
        "timestamp ends in 1.0 days; run `collab release refresh`"
    ]
    later = NOW + days(170)
    warnings = overview(world.repository, later)["warnings"]
    assert "digits.stable ends in 10.0 days; run `collab release refresh --role digits.stable`" in warnings
    roles = ["root", "targets", "digits.stable", "digits.staging"]
    outcome = refresh(world.repository.metadatas, roles, world.keys.ring(), later)
    assert not outcome.missing
    assert overview(world.repository, later)["warnings"] == []
    assert world.device(now=later).newest("digits", "stable").version == 1


def test_a_delta_is_fetched_where_its_base_is_and_the_full_file_elsewhere(world):
    first = bytearray(os.urandom(100_000))
    world.release(bytes(first))
    device = world.device()
    old = device.fetch(device.newest("digits", "stable"))
    first[50_000:50_100] = os.urandom(100)
    world.release(bytes(first))
    release = device.newest("digits", "stable")
    got = device.fetch(release, device.bases(()))
    assert got.way in ("zstd", "bsdiff")
    assert got.received == release.custom.deltas[0].size < 1000
    assert got.path.read_bytes() == bytes(first) != old.path.read_bytes()
    other = world.device(name="other")
    assert other.fetch(other.newest("digits", "stable")).received == 100_000


def test_old_releases_leave_with_their_files(world, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_KEPT", 2)
    for content in (b"one", b"two", b"three"):
        world.release(content)
    assert [info.version for _, info in world.repository.releases("digits.stable")] == [3, 2]
    assert len(list((world.path / "targets/digits/stable").iterdir())) == 2
    assert newest(world).version == 3


def test_a_node_nearby_gives_a_file_by_its_digest_and_is_not_believed(world):
    world.release(b"model" * 100)
    release = newest(world)
    for content, received in ((b"model" * 100, 500), (b"MODEL" * 100, 1000)):
        nearby = world.folder / f"nearby-{received}"
        nearby.mkdir()
        (nearby / release.sha256).write_bytes(content)
        device = world.device(name=f"device-{received}", nearby=[FolderSource(nearby)])
        got = device.fetch(device.newest("digits", "stable"))
        assert (got.path.read_bytes(), got.received) == (b"model" * 100, received)


def test_key_files_open_with_their_passphrase_only(tmp_path):
    key = make_key(tmp_path / "keys", "root", "a passphrase")
    (path,) = (tmp_path / "keys").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert Keyring((tmp_path,), lambda: "a passphrase").signer(key).public_key == key
    with pytest.raises(InputError, match="wrong passphrase"):
        Keyring((tmp_path,), lambda: "another one").signer(key)
    with pytest.raises(InputError, match="8 characters"):
        make_key(tmp_path, "root", "short")
