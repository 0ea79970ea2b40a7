"""Plans that a node keeps, and counts of their lives: on a disk, and through a loss of power anywhere."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.errors import CollabError, StoreError
from collab.node.kept import KeptPlans
from collab.node.lives import Kept, at_start
from collab.updates.store.disk import RealDisk
from tests.unit import functions
from tests.unit.node.plans import chain
from tests.unit.updates.store.simulated import Folder, PowerCut, SimulatedDisk

NAME = PlanName("p")


@pytest.fixture
def plans(tmp_path: Path) -> KeptPlans:
    return KeptPlans(RealDisk(tmp_path))


def commit(plans: KeptPlans, epoch: int, *, proven: bool = False, plan: Plan | None = None) -> None:
    plans.write(plan or chain("a").replace(credits=epoch), Epoch(epoch))
    plans.keep(NAME, Epoch(epoch))
    if proven:
        plans.prove(NAME, Epoch(epoch))


def one(plans: KeptPlans) -> Kept:
    (found,), broken = plans.all()
    assert not broken
    assert found.current.plan.credits == found.current.epoch
    return found


def seen(plans: KeptPlans) -> tuple[int, int | None, int | None]:
    """Epoch, lives, and the epoch before."""
    found = one(plans)
    before = None if found.before is None else found.before.epoch
    return found.current.epoch, found.current.lives, before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_plan_is_kept_from_its_commit_until_it_is_forgotten(plans: KeptPlans, tmp_path: Path):
    plans.write(chain("a"), Epoch(3))
    assert KeptPlans(RealDisk(tmp_path)).all() == ([], [])
    assert names(tmp_path) == []
    commit(plans, 4)
    plans.write(chain("a"), Epoch(5))
    assert seen(KeptPlans(RealDisk(tmp_path))) == (4, 1, None)

    plans.forget(NAME, Epoch(3))
    assert seen(plans)[0] == 4, "an older epoch is no reason to forget the current one"
    plans.forget(NAME, Epoch(4))
    plans.forget(NAME, Epoch(4))
    assert plans.all() == ([], [])
    assert names(tmp_path) == []


def test_a_plan_that_was_not_committed_can_be_taken_back(plans: KeptPlans, tmp_path: Path):
    plans.write(chain("a"), Epoch(1))
    plans.drop(NAME, Epoch(1))
    plans.drop(NAME, Epoch(1))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"epoch":1}', b'{"epoch":1,"plan":{"name":5}}', b"\xff\x00"]
)
def test_a_kept_plan_that_cannot_be_read_is_named_and_harms_no_other(
    plans: KeptPlans, tmp_path: Path, content: bytes
):
    commit(plans, 1)
    (tmp_path / "broken.json").write_bytes(content)
    kept, broken = plans.all()
    assert [entry.current.plan.name for entry in kept] == ["p"]
    assert len(broken) == 1
    assert broken[0].startswith("broken.json: ")
    plans.forget(PlanName("broken"), Epoch(1))
    assert not plans.all()[1]


def test_what_an_older_release_kept_is_proven(plans: KeptPlans, tmp_path: Path):
    commit(plans, 1)
    path = tmp_path / "p.json"
    path.write_text(path.read_text().replace(',"unproven":true', ""))
    assert seen(plans) == (1, None, None)


def test_lives_are_counted_until_the_epoch_is_proven(plans: KeptPlans, tmp_path: Path):
    commit(plans, 1)
    assert [plans.begin(NAME, Epoch(1)), plans.begin(NAME, Epoch(1)), plans.end(NAME, Epoch(1))] == [2, 3, 2]
    assert seen(plans) == (1, 2, None)
    assert [plans.end(NAME, Epoch(1)) for _ in range(3)] == [1, 0, 0]
    assert seen(plans) == (1, 0, None)
    plans.prove(NAME, Epoch(1))
    assert seen(plans) == (1, None, None)
    assert names(tmp_path) == ["p.1.proven", "p.json"]


def test_the_epoch_before_stays_until_the_new_one_is_proven(plans: KeptPlans, tmp_path: Path):
    commit(plans, 1, proven=True)
    commit(plans, 2)
    plans.forget(NAME, Epoch(1))
    assert seen(plans) == (2, 1, 1)
    commit(plans, 3)
    assert seen(plans) == (3, 1, 1), "not the one that never proved itself"
    plans.prove(NAME, Epoch(2))
    assert seen(plans) == (3, 1, 1)
    plans.prove(NAME, Epoch(3))
    assert seen(plans) == (3, None, None)
    assert names(tmp_path) == ["p.3.proven", "p.json"]


def test_without_a_proven_one_the_last_unproven_one_is_kept(plans: KeptPlans):
    commit(plans, 1)
    plans.begin(NAME, Epoch(1))
    commit(plans, 2)
    found = one(plans)
    assert found.before is not None
    assert (found.current.epoch, found.before.epoch, found.before.lives) == (2, 1, 2)


def test_going_back_is_remembered_until_the_next_epoch(plans: KeptPlans, tmp_path: Path):
    commit(plans, 1, proven=True)
    commit(plans, 2)
    plans.begin(NAME, Epoch(2))
    plans.go_back(NAME)
    found = one(KeptPlans(RealDisk(tmp_path)))
    assert (found.current.epoch, found.current.lives, found.before) == (1, None, None)
    assert str(found.left) == "epoch 2 ended the process 2 times"
    assert one(plans).left == found.left
    commit(plans, 3)
    assert one(plans).left is None
    assert seen(plans) == (3, 1, 1)


def test_plans_whose_names_look_alike_are_told_apart(plans: KeptPlans):
    for name in ("p", "p.1", "p.1.proven"):
        plans.write(chain("a", name=name), Epoch(1))
        plans.keep(PlanName(name), Epoch(1))
    plans.begin(PlanName("p.1"), Epoch(1))
    plans.prove(PlanName("p.1.proven"), Epoch(1))
    lives = {found.current.plan.name: found.current.lives for found in plans.all()[0]}
    assert lives == {"p": 1, "p.1": 2, "p.1.proven": None}
    plans.forget(NAME, Epoch(1))
    assert [found.current.lives for found in plans.all()[0]] == [2, None]


def test_stages_that_may_be_gone_back_to_are_sheltered(plans: KeptPlans, tmp_path: Path):
    with_stages = functions.chain("a", "a")[0].replace(name=NAME)
    commit(plans, 1, proven=True, plan=with_stages)
    assert plans.sheltered == frozenset()
    commit(plans, 2)
    assert plans.sheltered == {functions.digest(0), functions.digest(1)}
    again = KeptPlans(RealDisk(tmp_path))
    again.all()
    assert again.sheltered == plans.sheltered
    plans.prove(NAME, Epoch(2))
    assert plans.sheltered == frozenset()


class Full(RealDisk):
    """Takes no byte; names it does."""

    def write(self, path: str, data: bytes) -> None:
        if data:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, data)


def test_lives_are_counted_and_gone_back_from_on_a_full_disk(plans: KeptPlans, tmp_path: Path):
    commit(plans, 1, proven=True)
    commit(plans, 2)
    full = KeptPlans(Full(tmp_path))
    with pytest.raises(StoreError, match="cannot keep plan 'p': No space left on device"):
        full.write(chain("a"), Epoch(3))
    full.begin(NAME, Epoch(2))
    assert seen(full) == (2, 2, 1)
    full.go_back(NAME)
    assert seen(full) == (1, None, None)


@pytest.mark.parametrize(
    ("call", "change", "what"),
    [
        ("fsync", lambda plans: plans.write(chain("a"), Epoch(2)), "keep plan 'p'"),
        ("unlink", lambda plans: plans.forget(NAME, Epoch(1)), "forget plan 'p'"),
        ("rename", lambda plans: plans.begin(NAME, Epoch(1)), "count the starts of plan 'p'"),
        ("rename", lambda plans: plans.prove(NAME, Epoch(1)), "call plan 'p' proven"),
        ("rename", lambda plans: plans.go_back(NAME), "go back to the former epoch of plan 'p'"),
        ("unlink", lambda plans: plans.drop(NAME, Epoch(1)), "drop plan 'p'"),
    ],
)
def test_every_error_of_the_disk_leaves_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, change: Callable[[KeptPlans], None], what: str
):
    disk = RealDisk(tmp_path)
    plans = KeptPlans(disk)
    commit(plans, 1)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk, call, fail)
    with pytest.raises(StoreError, match=f"cannot {what}: Read-only file system"):
        change(plans)


# --- loss of power -----------------------------------------------------------------------


class Life:
    """What a node does with a plan; ``may_run`` are epochs that may be loaded if the power goes now."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.plans = KeptPlans(disk)
        self.may_run: set[int] = {0}
        self.floor = 0
        """Bad lives that the newest epoch has for certain."""

    def _to(self, epoch: int, *changes: Callable[[], object], floor: int = 0) -> None:
        self.may_run |= {epoch}
        self.floor = min(self.floor, floor)
        for change in changes:
            change()
        self.may_run, self.floor = {epoch}, floor

    def run(self) -> None:
        plans = self.plans

        def put(epoch: int) -> list[Callable[[], object]]:
            plan = chain("a").replace(credits=epoch)
            return [lambda: plans.write(plan, Epoch(epoch)), lambda: plans.keep(NAME, Epoch(epoch))]

        self._to(1, *put(1))
        self._to(1, lambda: plans.prove(NAME, Epoch(1)))
        self._to(2, *put(2), floor=1)
        self._to(2, lambda: plans.begin(NAME, Epoch(2)), floor=2)
        self._to(2, lambda: plans.end(NAME, Epoch(2)), floor=1)
        self._to(2, lambda: plans.begin(NAME, Epoch(2)), floor=2)
        self._to(2, lambda: plans.begin(NAME, Epoch(2)), floor=3)
        self._to(1, lambda: plans.go_back(NAME))
        self._to(3, *put(3), floor=1)
        self._to(4, *put(4), floor=1)
        self._to(4, lambda: plans.prove(NAME, Epoch(4)))
        self._to(0, lambda: plans.forget(NAME, Epoch(4)))


def check(life: Life, found: SimulatedDisk) -> None:
    """What is found after the power came back."""
    if "" not in found.folders:
        return
    plans = KeptPlans(found)
    kept, broken = plans.all()
    assert not broken
    epochs = {entry.current.epoch for entry in kept} or {0}
    assert epochs <= life.may_run, (epochs, life.may_run)
    for entry in kept:
        if entry.current.epoch == max(life.may_run) and len(life.may_run) == 1 and life.floor:
            assert entry.current.lives is not None
            assert entry.current.lives >= life.floor
        if entry.current.lives is not None and entry.current.epoch >= 2:
            assert entry.before is not None, "there is a way back until the epoch is proven"
            assert entry.before.lives is None
    # A node that has found this can go on, and go back.
    for entry in kept:
        while (do := at_start(one(plans), NodeName("a"))) == "count":
            plans.begin(NAME, one(plans).current.epoch)
        if do == "go back":
            plans.go_back(NAME)
            assert one(plans).current.epoch < entry.current.epoch
        commit(plans, 9, proven=True)
        assert seen(plans) == (9, None, None)


def fresh_disk(before: Callable[[int, str], None] = lambda number, call: None) -> SimulatedDisk:
    disk = SimulatedDisk(before)
    disk.folders[""] = Folder()
    return disk


def test_power_may_go_at_every_call_of_a_plans_life():
    whole = fresh_disk()
    Life(whole).run()
    assert len(whole.calls) > 40
    rng = random.Random(5)
    tried = 0
    for cut in range(len(whole.calls)):

        def cut_there(number: int, _: str, cut: int = cut) -> None:
            if number == cut:
                raise PowerCut

        disk = fresh_disk(cut_there)
        life = Life(disk)
        with suppress(PowerCut):
            life.run()
        for found in disk.after_a_cut(rng):
            check(life, found)
            tried += 1
    assert tried > 100


def test_a_disk_that_fails_at_any_call_leaves_an_epoch_that_may_run():
    whole = fresh_disk()
    Life(whole).run()
    for broken in range(len(whole.calls)):

        def fail(number: int, _: str, broken: int = broken) -> None:
            if number >= broken:
                raise OSError(errno.EIO, "Input/output error")

        disk = fresh_disk(fail)
        life = Life(disk)
        with suppress(CollabError):
            life.run()
        disk.before = lambda number, call: None
        check(life, disk)
