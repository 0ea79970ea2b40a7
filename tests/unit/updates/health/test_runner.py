"""Releases that are good, worse, slower, crashing or broken, run beside the one that runs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import BackendError, Conflict, TensorError
from collab.runtime.function import Functions
from collab.updates.health.gate import Bounds
from collab.updates.health.runner import Runner
from collab.updates.health.sequential import Rates
from collab.updates.release import Release, ReleaseInfo
from collab.updates.store.disk import RealDisk
from collab.updates.store.store import Store

INPUT, OUTPUT = TensorSpec("x", (1, 8), "float32"), TensorSpec("y", (1, 8), "float32")
RNG = np.random.default_rng(5)
BOUNDS = Bounds(copies=0.5, probation=30, disagreement=Rates(fine=0.05, worse=0.3))


class Clock:
    """Monotonic seconds that pass as models compute."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """A store, models that are functions, and a runner that can be started again."""

    def __init__(self, root) -> None:
        self.root, self.clock = root, Clock()
        self.store = Store(RealDisk(root), lambda: 1000.0 + self.clock.now)
        self.asked = {name: 0 for name in MODELS}
        kinds = {name.encode(): (self._timed(name), (INPUT,), (OUTPUT,)) for name in MODELS}
        kinds[b"wide"] = (lambda arrays: arrays, (INPUT,), (TensorSpec("y", (1, 9), "float32"),))
        self.backend = Functions(kinds)
        self.requests = self.failed = self.wrong = 0
        self.runner = self.start()

    def _timed(self, name: str):
        def run(arrays):
            self.asked[name] += 1
            self.clock.now += 0.002 if name == "slow" else 0.001
            return [MODELS[name](arrays[0], self.asked[name])]

        return run

    def start(self) -> Runner:
        self.runner = Runner(self.store, self.root, self.backend, self.clock, bounds=BOUNDS)
        self.runner.start()
        return self.runner

    def fetch(self, version: int, name: str) -> None:
        data = name.encode()
        info = ReleaseInfo(family="digits", version=version)
        self.store.add(
            Release(
                name=f"digits/{version}",
                version=version,
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                custom=info,
            ),
            [data],
        )

    def ask(self, times: int) -> None:
        for _ in range(times):
            x = RNG.random((1, 8), np.float32)
            try:
                answer = self.runner.answer([x])[0]
                self.wrong += int(answer.argmax()) != int(x.argmax()) or not np.isfinite(answer).all()
            except BackendError:
                self.failed += 1
            self.requests += 1
            self.runner.catch_up()

    def install(self, name: str = "good") -> None:
        self.fetch(1, name)
        self.runner.catch_up()
        self.ask(BOUNDS.probation)
        assert self.store.state().healthy
        self.requests = 0

    def last(self):
        return self.store.state().history[-1]


def _crashing(x, count):
    if count > 20:
        raise BackendError("out of memory")
    return x


MODELS = {
    "good": lambda x, count: x,
    "better": lambda x, count: x + np.float32(0.001),
    "shuffled": lambda x, count: np.roll(x, 1),
    "slow": lambda x, count: x,
    "crashing": _crashing,
    "nan": lambda x, count: x * np.float32("nan") if count > 20 else x,
    "worse": lambda x, count: np.roll(x, 1) if count > 17 and count % 2 else x,
}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def test_the_first_release_runs_once_it_loads_and_proves_itself(lab):
    lab.install()
    assert lab.store.state().active.version == 1
    assert lab.failed == lab.wrong == 0


def test_a_good_release_takes_over_and_no_request_is_lost(lab):
    lab.install()
    lab.fetch(2, "better")
    lab.ask(2000)
    state = lab.store.state()
    assert (state.active.version, state.healthy, state.previous[0].version) == (2, True, 1)
    assert lab.failed == lab.wrong == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("shuffled", "differ"),
        ("slow", "as long"),
        ("crashing", "canary: out of memory"),
        ("nan", "canary: an answer has numbers that are not finite"),
        ("worse", "canary: 4 of 9 answers differ"),
    ],
)
def test_one_that_is_worse_slower_or_crashing_touches_one_in_a_hundred_and_fails_none(lab, name, why):
    lab.install()
    lab.fetch(2, name)
    lab.ask(1)
    while lab.runner.gate.phase in ("shadow", "canary"):
        lab.ask(1)
    state = lab.store.state()
    assert (state.active.version, state.candidate, lab.last().action) == (1, None, "dropped")
    assert why in lab.last().reason
    assert lab.failed == 0
    assert lab.wrong <= lab.requests * 0.01


def test_one_whose_tensors_do_not_fit_or_that_does_not_load_is_dropped_at_once(lab):
    lab.install()
    lab.fetch(2, "wide")
    lab.ask(2)
    assert "inputs or outputs" in lab.last().reason
    lab.fetch(3, "unknown")
    lab.ask(2)
    assert "no function" in lab.last().reason
    lab.fetch(4, "better")
    lab.ask(1)
    assert lab.runner.gate.phase == "shadow"


def commit(lab) -> None:
    lab.fetch(2, "better")
    while lab.store.state().candidate is not None:
        lab.ask(10)


def test_a_restart_in_probation_goes_on_with_it(lab):
    lab.install()
    commit(lab)
    lab.start()
    assert lab.runner.gate.phase == "probation"
    lab.ask(BOUNDS.probation)
    state = lab.store.state()
    assert (state.active.version, state.healthy) == (2, True)


def test_a_failure_in_probation_is_answered_by_the_old_one_and_rolls_back(lab, monkeypatch):
    lab.install()
    commit(lab)
    monkeypatch.setitem(MODELS, "better", lambda x, count: x * np.float32("nan"))
    lab.ask(50)
    assert (lab.store.state().active.version, lab.last().action) == (1, "rolled back")
    assert lab.failed == lab.wrong == 0


def test_one_that_brings_the_process_down_over_and_over_is_gone_back_from(lab):
    lab.install()
    commit(lab)
    for _ in range(4):
        lab.start()
    assert (lab.store.state().active.version, lab.last().action) == (1, "rolled back")
    lab.ask(5)
    assert lab.failed == lab.wrong == 0


def test_a_release_whose_file_rots_on_the_disk_is_done_without_at_the_next_start(lab):
    lab.install()
    lab.fetch(2, "better")
    lab.store.activate()
    (lab.root / lab.store.path(lab.store.state().active)).write_bytes(b"rotten")
    lab.start()
    lab.ask(5)
    assert lab.store.state().active.version == 1


def test_what_somebody_does_with_the_store_is_followed(lab):
    lab.install()
    lab.fetch(2, "shuffled")
    lab.store.activate()
    lab.ask(1)
    assert lab.runner.answer([np.eye(1, 8, dtype=np.float32)])[0].argmax() == 1
    lab.store.rollback("by hand")
    lab.ask(1)
    assert lab.runner.answer([np.eye(1, 8, dtype=np.float32)])[0].argmax() == 0


def test_a_pin_ends_a_trial_under_way(lab):
    lab.install()
    lab.fetch(2, "better")
    lab.ask(5)
    lab.store.pin(True)
    lab.ask(5)
    assert lab.runner.gate.reason == "somebody else decided"


def test_what_was_activated_by_hand_has_to_prove_itself_too(lab):
    lab.install()
    lab.fetch(2, "better")
    lab.store.activate()
    lab.ask(BOUNDS.probation + 1)
    state = lab.store.state()
    assert (state.active.version, state.healthy) == (2, True)


def test_without_a_runtime_nothing_is_gone_back_from(lab, monkeypatch):
    lab.install()
    commit(lab)

    def missing(model, threads):
        raise BackendError("no runtime is installed")

    monkeypatch.setattr(lab.backend, "load", missing)
    with pytest.raises(BackendError, match="no runtime"):
        lab.start()
    assert lab.store.state().active.version == 2


def test_a_release_that_no_longer_loads_gives_way_to_the_one_before_it(lab):
    lab.install()
    commit(lab)
    del lab.backend._stages[b"better"]
    lab.start()
    lab.ask(5)
    assert lab.store.state().active.version == 1
    assert "does not load" in lab.last().reason


@pytest.mark.parametrize("committed", [False, True])
def test_on_a_read_only_disk_nothing_unproven_is_run_or_judged(lab, monkeypatch, committed):
    lab.install()
    lab.fetch(2, "shuffled")
    if committed:
        lab.store.activate()

    def read_only(*arguments):
        raise OSError(30, "Read-only file system")

    for call in ("write", "fsync", "rename", "unlink", "lock"):
        monkeypatch.setattr(RealDisk, call, read_only)
    lab.start()
    lab.ask(20)
    assert lab.asked["shuffled"] == 0
    assert lab.failed == lab.wrong == 0


def test_only_the_release_that_was_judged_is_committed(lab):
    lab.install()
    lab.fetch(2, "better")
    judged = lab.store.state().candidate
    lab.fetch(3, "shuffled")
    for change in (lab.store.activate, lambda only: lab.store.drop("worse", only)):
        with pytest.raises(Conflict, match="somebody else"):
            change(only=judged)
    assert lab.store.state().candidate.version == 3


def test_a_disk_that_cannot_be_written_costs_the_release_and_no_request(lab, monkeypatch):
    lab.install()
    lab.fetch(2, "better")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RealDisk, "write", full)
    lab.ask(2000)
    assert "disk is full" in lab.runner.gate.reason
    assert lab.store.state().active.version == 1
    assert lab.failed == lab.wrong == 0


def test_a_wrong_input_is_the_requesters_fault_not_the_candidates(lab):
    lab.install()
    commit(lab)
    with pytest.raises(TensorError):
        lab.runner.answer([])
    assert lab.runner.gate.phase == "probation"


def test_too_much_memory_drops_a_release(lab):
    lab.install()
    memory = iter([0, 10 << 20, 10 << 20, 60 << 20])
    runner = Runner(lab.store, lab.root, lab.backend, lab.clock, memory=lambda: next(memory))
    runner.start()
    lab.fetch(2, "better")
    runner.catch_up()
    assert "memory" in lab.last().reason
