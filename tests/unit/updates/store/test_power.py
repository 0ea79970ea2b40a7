"""Power is cut at every system call of a life of updates; whatever the disk keeps, a whole model runs."""

from __future__ import annotations

import errno
import random
from contextlib import suppress

import pytest

from collab.errors import CollabError
from collab.updates.store.store import Store
from tests.unit.updates.store.releases import parts, release
from tests.unit.updates.store.simulated import PowerCut, SimulatedDisk


class Life:
    """Updates of every kind; ``done`` says which release may run if the power goes now."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.store = Store(disk, lambda: 1000.0)
        self.may_run: set[int] = {0}
        self.candidates: set[int] = {0}

    def run(self) -> None:
        store = self.store
        self._add(1)
        self._to(1, store.activate)
        self._to(1, store.healthy)
        self._add(2)
        self._to(1, lambda: store.start())
        self._to(2, store.activate)
        self._to(2, store.healthy)
        self._add(3)
        self._to(2, lambda: store.drop("worse"))
        self._add(4)
        self._to(4, store.activate)
        for _ in range(3):
            self._to(4, lambda: store.start())
        self._to(2, lambda: store.start())
        self._to(2, lambda: store.pin(True))
        self._to(2, lambda: store.pin(False))
        self._add(5)
        self._to(5, store.activate)
        self._to(5, store.healthy)
        self._to(2, lambda: store.rollback("by hand"))
        self._add(6)

    def _add(self, version: int) -> None:
        self.candidates |= {version}
        self.store.add(release(version), parts(version))

    def _to(self, version: int, change) -> None:
        self.may_run |= {version}
        change()
        # What a start decided on a disk that cannot be written is decided again by the next.
        active = self.store.state().active
        self.may_run = {version, active.version if active is not None else 0}


def cut_at(point: int) -> tuple[SimulatedDisk, Life, bool]:
    """A life until the power goes before a system call; whether it came to that."""

    def before(number: int, call: str) -> None:
        if number == point:
            raise PowerCut(call)

    disk = SimulatedDisk(before)
    life = Life(disk)
    try:
        life.run()
    except PowerCut:
        return disk, life, True
    return disk, life, False


def points() -> int:
    disk, _, cut = cut_at(-1)
    assert not cut
    return len(disk.calls)


def broken(disk: SimulatedDisk, may_run: set[int]) -> str:
    """What is wrong after a restart on a disk; empty if nothing is."""
    store = Store(disk, lambda: 1001.0)
    try:
        running = store.start()
        state = store.state()
    except CollabError as error:
        return f"bricked: {error}"
    version = 0 if running is None else running.version
    # The start that comes after a cut may itself be the one too many.
    if version not in may_run and not (version == 2 and 4 in may_run):
        return f"bricked: version {version} runs, not one of {may_run}"
    if running is not None and not store.is_whole(running):
        return f"half active: version {version} is not whole"
    if state.active != running:
        return "half active: another release runs than the state says"
    if state.candidate is not None and not store.is_whole(state.candidate):
        return f"half active: candidate {state.candidate.version} is not whole"
    return ""


def test_power_cut_before_every_system_call_leaves_a_whole_model_that_runs():
    rng = random.Random(7)
    total, found = points(), 0
    for point in range(total):
        disk, life, cut = cut_at(point)
        assert cut
        for outcome in disk.after_a_cut(rng):
            found += 1
            assert broken(outcome, life.may_run) == "", (point, life.may_run)
    assert total > 100
    assert found > 5 * total


def test_power_cut_again_at_every_system_call_of_the_restart_changes_nothing():
    rng = random.Random(8)
    for point in range(0, points(), 3):
        disk, life, _ = cut_at(point)
        for outcome in rng.sample(found := disk.after_a_cut(rng), min(2, len(found))):
            first = outcome.after_a_cut(rng)[0]
            for again in range(40):

                def before(number: int, call: str, again: int = again) -> None:
                    if number == again:
                        raise PowerCut(call)

                restarted = outcome.after_a_cut(rng)[0]
                restarted.before = before
                try:
                    Store(restarted, lambda: 1001.0).start()
                except PowerCut:
                    for second in restarted.after_a_cut(rng)[:12]:
                        assert broken(second, life.may_run) == "", (point, again)
                else:
                    break
            assert broken(first, life.may_run) == ""


def test_after_a_cut_the_next_update_goes_through():
    rng = random.Random(9)
    for point in range(points()):
        disk, _, _ = cut_at(point)
        outcome = rng.choice(disk.after_a_cut(rng))
        store = Store(outcome, lambda: 1001.0)
        store.start()
        if store.state().pinned:
            store.pin(False)
        store.healthy()
        store.add(release(9), parts(9))
        store.activate()
        assert store.start() == release(9)


@pytest.mark.parametrize("sync", ["fsync content/", "fsync state.new", "fsync_dir content", "fsync_dir "])
def test_each_sync_is_needed_a_disk_that_lies_about_it_is_caught_by_the_same_cuts(sync):
    rng = random.Random(10)
    faults = set()
    for point in range(points()):

        def before(number: int, call: str, point: int = point) -> None:
            if number == point:
                raise PowerCut(call)

        disk = SimulatedDisk(before)
        disk.lies_about = sync
        life = Life(disk)
        with suppress(PowerCut):
            life.run()
        faults = {broken(outcome, life.may_run) for outcome in disk.after_a_cut(rng)} - {""}
        if faults:
            return
    pytest.fail("no cut found it")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_disk_that_is_full_or_read_only_or_fails_at_any_call_keeps_what_runs(number, for_good):
    for point in range(points()):

        def before(count: int, call: str, point: int = point) -> None:
            # Names can be removed on a full disk.
            fits = number == errno.ENOSPC and call.startswith(("unlink", "fsync"))
            if not fits and (count == point or (for_good and count > point)):
                raise OSError(number, "injected")

        disk = SimulatedDisk(before)
        life = Life(disk)
        with suppress(CollabError):
            life.run()
        # A start on such a disk still says what to run: what ran, or a proven one before it.
        running = Store(disk, lambda: 1001.0).start()
        version = 0 if running is None else running.version
        assert version in life.may_run | _before(life.may_run), point
        disk.before = lambda count, call: None
        assert broken(disk, life.may_run | _before(life.may_run)) == ""


def _before(versions: set[int]) -> set[int]:
    """What an unproven release came from."""
    return {{1: 0, 2: 1, 4: 2, 5: 2}.get(version, version) for version in versions}
