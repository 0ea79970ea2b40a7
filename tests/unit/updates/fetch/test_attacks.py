"""What somebody can try who owns the server, the network, or some of the keys."""

from __future__ import annotations

import itertools
import os
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import pytest

pytest.importorskip("tuf")

from collab.errors import CollabError, InputError, IntegrityError, LimitExceeded, PeerError, Refused
from collab.updates.fetch.base import Opened
from collab.updates.fetch.client import Clocks, Device, trust
from collab.updates.fetch.files import ArchiveSource, FolderSource
from collab.updates.fetch.pace import Limits
from collab.updates.repository.archive import export
from tests.unit.updates.releases import NOW, Hostile, World, days


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_an_older_repository_is_refused_after_a_newer_one_was_seen(world):
    world.release(b"one")
    old = world.copy("old")
    world.release(b"two")
    assert world.device().newest("digits", "stable").version == 2
    with pytest.raises(Refused, match="older than what was seen"):
        world.device(FolderSource(old)).newest("digits", "stable")


def test_an_older_repository_is_refused_also_when_the_libraries_memory_is_gone(world):
    world.release(b"one")
    old = world.copy("old")
    world.release(b"two")
    world.device().newest("digits", "stable")
    for path in (world.folder / "device/metadata").glob("*.json"):
        path.unlink()
    with pytest.raises(Refused, match="timestamp 2 is older than 3"):
        world.device(FolderSource(old)).newest("digits", "stable")


def test_a_signed_but_lower_version_is_refused(world):
    world.release(b"one")
    world.release(b"two")
    world.device().newest("digits", "stable")
    # Whoever holds the channel's keys drops the newest without signing the older one anew.
    metadata = world.repository.metadatas.edit("digits.stable", NOW)
    del metadata.signed.targets["digits/stable/2.collab"]
    world.repository.metadatas.stage("digits.stable", metadata)
    world.sign()
    with pytest.raises(Refused, match="offers version 1, this device has seen 2"):
        world.device().newest("digits", "stable")


def test_a_repository_that_stands_still_is_refused_when_its_timestamp_ends(world):
    world.release(b"one")
    assert world.device(now=NOW + days(6.9)).newest("digits", "stable").version == 1
    with pytest.raises(Refused, match=r"timestamp.* is expired.*clock"):
        world.device(now=NOW + days(7.1)).newest("digits", "stable")


def test_metadata_of_two_states_does_not_go_together(world):
    world.release(b"one")
    old = world.copy("old")
    world.release(b"two")
    mixed = Hostile(
        world.path,
        {"metadata/3.digits.stable.json": (old / "metadata/2.digits.stable.json").read_bytes()},
    )
    with pytest.raises(Refused):
        world.device(mixed).newest("digits", "stable")


def test_another_file_of_the_same_size_is_refused_and_leaves_nothing(world):
    info = world.release(b"model")
    device = world.device()
    release = device.newest("digits", "stable")
    path = f"targets/digits/stable/{release.sha256}.{info.version}.collab"
    device.source = Hostile(world.path, {path: b"MODEL"})
    with pytest.raises(IntegrityError, match="another file than is signed"):
        device.fetch(release)
    assert not list((world.folder / "device/partial").iterdir())
    device.source = FolderSource(world.path)
    assert device.fetch(release).path.read_bytes() == b"model"


def test_endless_data_is_cut_at_the_signed_size(world):
    world.release(b"model" * 1000)
    device = world.device()
    release = device.newest("digits", "stable")
    taken = []

    class Endless(Hostile):
        @contextmanager
        def open(self, path, offset=0):
            def chunks():
                while True:
                    taken.append(1)
                    yield os.urandom(4096)

            yield Opened(offset, chunks())

    device.source = Endless(world.path)
    with pytest.raises(LimitExceeded, match="more than the 5000 bytes"):
        device.fetch(release)
    assert len(taken) == 2


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_endless_metadata_is_cut_too(world, name):
    source = Hostile(world.path, {f"metadata/{name}": b" " * 10_000_000})
    with pytest.raises(CollabError):
        world.device(source).newest("digits", "stable")


def test_a_source_that_drips_is_left_within_the_window(world):
    world.release(os.urandom(100_000))
    time = itertools.count(0, 5)
    clocks = Clocks(lambda: NOW, lambda: float(next(time)), lambda seconds: None, lambda: "")
    device = world.device(clocks=clocks)
    release = device.newest("digits", "stable")
    asked = []

    class Dripping(Hostile):
        @contextmanager
        def open(self, path, offset=0):
            data = (world.repository.file(world.repository.releases("digits.stable")[0][0])).read_bytes()

            def chunks():
                for i in range(offset, len(data)):
                    asked.append(i)
                    yield data[i : i + 1]

            yield Opened(offset, chunks())

    device.source, device.limits = Dripping(world.path), Limits(least_bytes_s=100, window_s=30)
    with pytest.raises(PeerError, match="under 100 bytes a second"):
        device.fetch(release)
    assert len(asked) < 10
    device.source = FolderSource(world.path)
    got = device.fetch(release)
    assert got.received == 100_000 - len(asked)


def test_a_release_for_other_devices_is_not_offered_and_refused_by_name(world):
    world.release(b"for all")
    world.release(b"for jetsons", devices=("jetson",))
    device = Device(("pi-4",), "litert-2.1")
    assert world.device(device=device).newest("digits", "stable").version == 1
    with pytest.raises(Refused, match="is for jetson, this device is pi-4"):
        world.device(device=device).newest("digits", "stable", 2)
    jetson = replace(device, kinds=("jetson", "arm"))
    assert world.device(name="other", device=jetson).newest("digits", "stable").version == 2


def test_a_release_for_another_runtime_is_not_offered(world):
    world.release(b"for litert", runtime="litert")
    assert world.device(device=Device((), "tflite-2.14")).newest("digits", "stable") is None
    assert world.device(device=Device((), "litert-2.1")).newest("digits", "stable").version == 1


def test_stolen_keys_below_the_threshold_release_nothing(world):
    world.release(b"good")
    stolen = world.keys.ring(
        world.keys.made["digits.stable"][0],
        *(world.keys.made[role][0] for role in ("snapshot", "timestamp", "root", "digits.staging")),
    )
    blob = world.folder / "evil"
    blob.write_bytes(b"evil")
    info = world.repository.releases("digits.stable")[0][1]
    _, outcome = world.repository.publish(
        blob, type(info)(family="digits", version=2), "stable", stolen, world.now
    )
    assert outcome.missing == {"digits.stable": 1}
    assert world.device().newest("digits", "stable").version == 1
    # The thief serves it all the same, with the snapshot and timestamp that one key each can sign.
    metadatas = world.repository.metadatas
    from collab.updates.repository.metadata import Outcome, _publish

    _publish(metadatas, {"digits.stable": metadatas.waiting("digits.stable")}, stolen, world.now, Outcome())
    with pytest.raises(Refused, match="not signed by enough"):
        world.device().newest("digits", "stable")


def test_the_keys_of_one_channel_do_not_sign_for_another(world):
    world.release(b"good")
    metadatas = world.repository.metadatas
    from collab.updates.repository.metadata import Outcome, _publish

    forged = metadatas.edit("digits.staging", world.now)
    target, _ = world.repository.releases("digits.stable")[0]
    target.path = "digits/stable/9.collab"
    forged.signed.targets[target.path] = target
    forged.sign(world.keys.made["digits.staging"][0])
    _publish(metadatas, {"digits.staging": forged}, world.keys.ring(), world.now, Outcome())
    assert world.device().newest("digits", "stable").version == 1
    assert world.device().newest("digits", "staging") is None


def test_names_in_an_archive_never_become_paths(world, tmp_path):
    world.release(b"model")
    archive = tmp_path / "stick.zip"
    export(world.repository, "digits", "stable", archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("../../escaped", b"evil")
        opened.writestr("/tmp/escaped", b"evil")
    device = world.device(ArchiveSource(archive))
    assert device.fetch(device.newest("digits", "stable")).path.read_bytes() == b"model"
    assert not list(tmp_path.parent.rglob("escaped"))


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "%2e%2e/secret", "/etc/passwd", "a//b", ""])
def test_paths_out_of_a_folder_are_refused(tmp_path, path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "repository").mkdir()
    with pytest.raises(InputError, match="no path within"):
        FolderSource(tmp_path / "repository").open(path)


def test_a_delta_for_another_base_is_not_applied_and_the_full_file_is_fetched(world):
    first = bytearray(os.urandom(50_000))
    world.release(bytes(first))
    base = world.device().newest("digits", "stable")
    first[7] ^= 1
    world.release(bytes(first))
    device = world.device()
    release = device.newest("digits", "stable")
    wrong = world.folder / "wrong"
    wrong.write_bytes(os.urandom(50_000))
    assert release.custom.deltas[0].base_sha256 == base.sha256
    got = device.fetch(release, {base.sha256: wrong})
    assert (got.way, got.path.read_bytes()) == ("full", bytes(first))


def test_what_was_begun_of_an_older_release_does_not_stay(world):
    world.release(b"model")
    device = world.device()
    partial = world.folder / "device/partial"
    partial.mkdir()
    (partial / f"{'0' * 64}.part").write_bytes(b"begun")
    device.fetch(device.newest("digits", "stable"))
    assert not list(partial.iterdir())


def test_a_base_that_is_gone_costs_the_full_file(world):
    world.release(bytes(50_000))
    device = world.device()
    base = device.newest("digits", "stable").sha256
    world.release(bytes(49_999) + b"x")
    got = device.fetch(device.newest("digits", "stable"), {base: world.folder / "gone"})
    assert (got.way, got.received) == ("full", 50_000)


def test_a_device_does_not_change_whom_it_trusts(world):
    world.device()
    with pytest.raises(Refused, match="trusts another root already"):
        trust(world.folder / "device", b"another root")
