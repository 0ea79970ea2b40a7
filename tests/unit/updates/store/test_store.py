"""What a store takes, keeps, goes back to and says."""

from __future__ import annotations

import pytest

from collab.errors import Conflict, InputError, IntegrityError, Refused, StoreError
from collab.updates.store import state as rules
from collab.updates.store.disk import RealDisk
from collab.updates.store.state import MAX_HISTORY, MAX_PREVIOUS, MAX_TRIALS, State
from collab.updates.store.store import Store
from tests.unit.updates.store.releases import content, parts, release


class Clock:
    """Moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return Store(RealDisk(tmp_path), clock)


def install(store: Store, *versions: int) -> None:
    for version in versions:
        store.add(release(version), parts(version))
        store.activate()
        store.healthy()


def test_a_new_store_runs_nothing(store):
    assert store.start() is None


def test_a_release_runs_once_it_is_activated(store, tmp_path):
    store.add(release(1), parts(1))
    assert store.start() is None
    store.activate()
    assert store.start() == release(1)
    assert (tmp_path / store.path(release(1))).read_bytes() == content(1)


def test_content_that_is_not_what_was_signed_is_refused_and_leaves_nothing(store, tmp_path):
    for wrong in (parts(2), [content(1)[:-1]], [content(1), b"x" * 1000]):
        with pytest.raises(IntegrityError, match="not what was signed"):
            store.add(release(1), wrong)
    assert store.state() == State()
    assert list((tmp_path / "content").iterdir()) == []


def test_a_source_that_breaks_off_leaves_nothing(store, tmp_path):
    def source():
        yield b"model"
        raise Refused("withdrawn")

    with pytest.raises(Refused):
        store.add(release(1), source())
    assert list((tmp_path / "content").iterdir()) == []


def test_what_was_here_is_not_taken_again_after_going_back(store):
    install(store, 1, 2)
    store.rollback("by hand")
    assert store.state().activation == 3
    for version in (1, 2):
        with pytest.raises(Refused, match="not above 2"):
            store.add(release(version), parts(version))


def test_old_content_comes_back_under_a_new_version_without_being_fetched(store):
    install(store, 1, 2)
    again = release(3, content(1))
    store.add(again, [])
    store.activate()
    assert store.start() == again


def test_another_family_is_refused(store):
    install(store, 1)
    with pytest.raises(Refused, match="family"):
        store.add(release(2, family="faces"), parts(2))


def test_a_pinned_store_takes_nothing_and_drops_what_waits(store):
    install(store, 1)
    store.add(release(2), parts(2))
    assert store.pin(True).candidate is None
    with pytest.raises(Refused, match="pin --off"):
        store.add(release(3), parts(3))
    store.pin(False)
    store.add(release(3), parts(3))


def test_nothing_is_taken_while_what_runs_is_unproven(store):
    install(store, 1)
    store.add(release(2), parts(2))
    store.activate()
    with pytest.raises(Conflict, match="not been called healthy"):
        store.add(release(3), parts(3))


def test_a_crash_loop_goes_back_by_itself(store, clock):
    install(store, 1)
    store.add(release(2), parts(2))
    store.activate()
    ran = []
    for _ in range(4):
        clock.now += 60
        running = store.start()
        ran.append(running.version)
    assert ran == [2, 2, 2, 1]
    last = store.state().history[-1]
    assert (last.action, last.version, last.reason.partition(":")[0]) == ("rolled back", 1, "crash loop")


def test_starts_far_apart_or_healthy_ones_are_no_crash_loop(store, clock):
    install(store, 1)
    store.add(release(2), parts(2))
    store.activate()
    for _ in range(6):
        clock.now += 500
        assert store.start() == release(2)
    store.healthy()
    for _ in range(6):
        assert store.start() == release(2)


def test_a_clock_that_stands_or_goes_back_does_not_hide_a_crash_loop(store, clock):
    install(store, 1)
    store.add(release(2), parts(2))
    store.activate()
    ran = []
    for _ in range(4):
        clock.now -= 3600
        ran.append(store.start().version)
    assert ran == [2, 2, 2, 1]


def test_a_candidate_that_ends_the_process_again_and_again_is_dropped(store):
    install(store, 1)
    store.add(release(2), parts(2))
    for _ in range(MAX_TRIALS):
        store.start()
        assert store.state().candidate == release(2)
    store.start()
    state = store.state()
    assert state.candidate is None
    assert state.active == release(1)
    assert "while it was judged" in state.history[-1].reason


def test_content_that_rots_is_done_without(store, tmp_path):
    install(store, 1, 2)
    (tmp_path / store.path(release(2))).write_bytes(content(2)[:-1] + b"?")
    assert store.start() == release(1)
    assert "was lost" in store.state().history[-1].reason


def test_the_only_release_can_be_fetched_again_when_its_content_rots(store, tmp_path):
    install(store, 1)
    (tmp_path / store.path(release(1))).unlink()
    assert store.start() is None
    store.add(release(1), parts(1))
    store.activate()
    assert store.start() == release(1)


def test_either_copy_of_the_state_is_enough(store, tmp_path):
    install(store, 1, 2)
    for copy in ("state-0", "state-1"):
        whole = (tmp_path / copy).read_bytes()
        (tmp_path / copy).write_bytes(whole[: len(whole) // 2])
        assert store.start() == release(2)
        (tmp_path / copy).write_bytes(whole)


def test_no_whole_copy_of_the_state_is_one_clear_error(store, tmp_path):
    install(store, 1, 2)
    for copy in ("state-0", "state-1"):
        (tmp_path / copy).write_bytes(b"{")
    with pytest.raises(IntegrityError, match="no copy of the state is whole"):
        store.start()


def test_a_state_of_a_newer_collab_is_refused(store, tmp_path):
    import hashlib

    body = b'{"wings":2}'
    digest = hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "state-0").write_bytes(b'{"sha256":"' + digest + b'","state":' + body + b"}")
    with pytest.raises(InputError, match="wings"):
        store.state()


def test_content_and_history_are_bounded(store, tmp_path):
    install(store, *range(1, 8))
    state = store.state()
    assert [one.version for one in state.previous] == [6, 5, 4]
    # What the older copy of the state speaks of is kept as well.
    assert len(list((tmp_path / "content").iterdir())) <= MAX_PREVIOUS + 2


def test_the_history_is_bounded():
    state = State()
    for version in range(1, MAX_HISTORY):
        state = rules.healthy(rules.activate(rules.stage(state, release(version), 0.0), 0.0), 0.0)
    assert len(state.history) == MAX_HISTORY
    assert state.history[-1].version == MAX_HISTORY - 1


def test_going_back_to_a_version_that_is_not_kept_names_those_that_are(store):
    install(store, 1, 2, 3)
    with pytest.raises(Conflict, match="are: 2, 1"):
        store.rollback("by hand", version=9)
    assert store.rollback("by hand", version=1).active == release(1)
    with pytest.raises(Conflict, match="no earlier release"):
        store.rollback("by hand")


def test_pinning_nothing_and_activating_nothing_are_refused(store):
    with pytest.raises(Conflict, match="no release to pin"):
        store.pin(True)
    with pytest.raises(Conflict, match="fetch a release first"):
        store.activate()


def test_a_candidate_whose_content_rots_is_not_activated(store, tmp_path):
    install(store, 1)
    store.add(release(2), parts(2))
    (tmp_path / store.path(release(2))).unlink()
    with pytest.raises(IntegrityError, match="lost"):
        store.activate()
    assert store.start() == release(1)


def test_a_folder_that_cannot_be_one_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="release store"):
        Store(RealDisk(tmp_path / "file"), lambda: 0.0).add(release(1), parts(1))


def test_dropping_and_unpinning_nothing_change_nothing():
    assert rules.drop(State(), "worse", 0.0) == State()
    assert rules.pin(State(), False, 0.0) == State()
    assert rules.healthy(State(), 0.0) == State()
