"""Runs a model, or a stage of a plan, from a store of releases, and judges new ones beside it.

One thread at a time.  `Runner.answer` answers a request; `Runner.catch_up` does what may wait until
the answer has gone: loading, golden inputs, copies of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from collab.errors import BackendError, CollabError, Conflict, StoreError, TensorError
from collab.runtime.base import Backend, LoadedStage
from collab.updates.health.agreement import agree, finite
from collab.updates.health.content import load, run_golden
from collab.updates.health.gate import (
    FINAL,
    Bounds,
    Commit,
    Compared,
    Drop,
    Failed,
    Gate,
    Load,
    Loaded,
    MarkHealthy,
    Observation,
    Order,
    RollBack,
    RunGolden,
    Served,
    Staged,
    Tick,
)
from collab.updates.release import Release
from collab.updates.store.state import State
from collab.updates.store.store import Store

Answer = list[NDArray[Any]]
Inputs = Sequence[NDArray[Any]]


class Timed(NamedTuple):
    """An answer and what it took."""

    answer: Answer
    ms: float


class Runner:
    """Answers requests by the release that a store says, and lets a candidate prove itself.

    Args:
        store: the releases.
        root: the store's folder.
        backend: what runs them.
        clock: monotonic seconds.
        memory: bytes of this process; without it memory is not compared.
    """

    def __init__(
        self,
        store: Store,
        root: Path,
        backend: Backend,
        clock: Callable[[], float],
        *,
        bounds: Bounds | None = None,
        threads: int = 1,
        memory: Callable[[], int] | None = None,
    ) -> None:
        self._store, self._root, self._backend, self._clock = store, root, backend, clock
        self._bounds, self._threads, self._memory = bounds or Bounds(), threads, memory
        self._old: LoadedStage | None = None
        self._new: LoadedStage | None = None
        self._runs: Release | None = None
        """Of ``_old``."""
        self._judged: Release | None = None
        self._given_up: Release | None = None
        """A candidate that is not judged again by this process."""
        self._shunned: Release | None = None
        """What the store says is to run, and must not: its start could not be written down."""
        self._old_bytes = 0
        self._copy: tuple[Inputs, Timed] | None = None
        self._orders: list[Order] = []
        self.gate: Gate | None = None
        """The way of the candidate, or of the release that was committed last."""

    def start(self) -> Release | None:
        """Load what the store says, going back from what does not load; None if there is nothing to run.

        Raises:
            StoreError: the store cannot be read.
            ModelError, BackendError: the last release there is does not load.
        """
        release = self._store.start()
        state = self._store.state()
        if not self._store.counted:
            # What ends the process could do so for ever.
            self._given_up, self._shunned = state.candidate, state.active
        if release is None:
            return None
        try:
            self._become(release)
        except CollabError as error:
            release = self._instead(release, state, error)
            state = self._store.state()
        if state.active == release and not state.healthy:
            self._prove(state)
        return release

    def close(self) -> None:
        """Free the memory; safe to repeat."""
        for stage in (self._old, self._new):
            if stage is not None:
                stage.close()
        self._old = self._new = self._runs = None

    def answer(self, inputs: Inputs) -> Answer:
        """Answer a request.  Touches no disk.

        Raises:
            StoreError: no release runs here.
            TensorError: the inputs do not fit.
            BackendError: the release that runs cannot compute.
        """
        way = "old" if self.gate is None else self.gate.route()
        if way == "first" and self._new is not None:
            return self._first(self._new, inputs)
        if self._old is None:
            raise StoreError("no release runs here; fetch one, or wait until it was judged")
        timed = self._timed(self._old, inputs)
        if way == "copy" and self._copy is None:
            # The arrays are the requester's, who may write the next request into them.
            self._copy = ([array.copy() for array in inputs], timed)
        return timed.answer

    def catch_up(self) -> None:
        """Do what may wait until an answer has gone; call it after each, and once in a while without any.

        Raises:
            StoreError: the store cannot be read or written; what runs goes on, and it is tried again.
            ModelError, BackendError: what somebody activated by hand does not load; what ran goes on.
        """
        self._follow(self._store.state())
        self._see(Tick())
        copy, self._copy = self._copy, None
        if copy is not None and self._new is not None:
            inputs, old = copy
            self._compare(old, self._try(self._new, inputs))
        while self._orders:
            try:
                result = self._carry_out(self._orders[0])
            except Conflict:  # somebody else was first, which the next call notices
                result = None
            del self._orders[0]
            if result is not None:
                self._see(result)

    def _follow(self, state: State) -> None:
        """Notice what others did with the store: fetched, dropped, activated, went back, pinned."""
        gate = self.gate
        if gate is not None and gate.phase not in FINAL and not self._orders:
            awaited = state.active if gate.phase == "probation" else state.candidate
            if awaited != self._judged:
                gate.abandon("somebody else decided")
                self._unload()
        if (gate is not None and gate.phase not in FINAL) or self._orders:
            return
        if state.active is not None and state.active not in (self._runs, self._shunned):
            self._become(state.active)
            if not state.healthy:
                self._prove(state)
                return
        if state.candidate is not None and state.candidate != self._given_up:
            self._judged = state.candidate
            self.gate = Gate(self._bounds, self._clock(), first=self._old is None)
            self._see(Staged())

    # --- requests ------------------------------------------------------------------

    def _first(self, new: LoadedStage, inputs: Inputs) -> Answer:
        """The candidate answers; the old one does where that fails, and checks it until it is committed."""
        made, old = self._try(new, inputs), self._old
        if self.gate is not None and self.gate.phase == "canary" and old is not None:
            timed = self._timed(old, inputs)
            self._compare(timed, made)
            return made.answer if isinstance(made, Timed) and finite(made.answer) else timed.answer
        good = isinstance(made, Timed) and finite(made.answer)
        self._see(made if isinstance(made, Failed) else Served(good))
        if isinstance(made, Timed) and (good or old is None):
            return made.answer
        if old is None:
            raise BackendError(made.reason if isinstance(made, Failed) else "")
        return self._timed(old, inputs).answer

    def _compare(self, old: Timed, made: Timed | Failed) -> None:
        if isinstance(made, Failed):
            self._see(made)
            return
        self._see(Compared(agree(old.answer, made.answer), finite(made.answer), old.ms, made.ms))

    def _timed(self, stage: LoadedStage, inputs: Inputs) -> Timed:
        start = self._clock()
        answer = stage.run(inputs)
        return Timed(answer, (self._clock() - start) * 1000)

    def _try(self, stage: LoadedStage, inputs: Inputs) -> Timed | Failed:
        try:
            return self._timed(stage, inputs)
        except TensorError:  # the requester's fault
            raise
        except CollabError as error:
            return Failed(str(error))

    # --- orders --------------------------------------------------------------------

    def _see(self, seen: Observation) -> None:
        if self.gate is not None:
            self._orders += self.gate.observe(seen, self._clock())

    def _carry_out(self, order: Order) -> Observation | None:
        if isinstance(order, Load):
            return self._load_beside()
        if isinstance(order, RunGolden) and self._judged is not None and self._new is not None:
            return run_golden(self._path(self._judged), self._new, self._backend)
        if isinstance(order, Commit):
            self._commit()
        elif isinstance(order, MarkHealthy):
            self._store.healthy(only=self._judged)
            self._swap()
        elif isinstance(order, Drop):
            self._unload()
            self._given_up = self._judged
            self._store.drop(order.reason, only=self._judged)
        elif isinstance(order, RollBack):
            self._unload()
            self._store.rollback(order.reason, only=self._judged)
        return None

    def _commit(self) -> None:
        try:
            self._store.activate(only=self._judged)
        except CollabError as error:
            # It stays the candidate, and is judged again when the process starts anew.
            if self.gate is not None:
                self.gate.abandon(f"could not be committed: {error}")
            self._given_up = self._judged
            self._unload()

    def _load_beside(self) -> Observation:
        if self._judged is None:
            return Failed("it has gone")
        before = self._now_bytes()
        try:
            self._new = self._load(self._judged)
        except CollabError as error:
            return Failed(str(error))
        if self._old is not None and not _fits(self._old, self._new):
            return Failed("its inputs or outputs are not those of the release that runs")
        return Loaded(self._now_bytes() - before, self._old_bytes)

    def _become(self, release: Release) -> None:
        """Run a release in place of the one that runs, which goes on if it does not load."""
        before = self._now_bytes()
        stage = self._load(release)
        if self._old is not None:
            self._old.close()
        self._old, self._runs = stage, release
        self._old_bytes = self._now_bytes() - before

    def _instead(self, broken: Release, state: State, error: CollabError) -> Release:
        """Run the newest earlier release that loads.  Where none does, the fault is not the release's."""
        for release in state.previous:
            if release == broken or not self._store.is_whole(release):
                continue
            try:
                self._become(release)
            except CollabError:
                continue
            try:
                self._store.rollback(f"version {broken.version} does not load: {error}", release.version)
            except (Conflict, StoreError):  # the next start tries again
                self._shunned = state.active
            return release
        raise error

    def _prove(self, state: State) -> None:
        """What runs is unproven: it is the new one, beside the one to go back to."""
        self._judged = state.active
        self.gate = Gate(self._bounds, self._clock(), committed=True, first=not state.previous)
        self._new, self._old, self._runs = self._old, None, None
        for release in state.previous[:1]:
            try:
                self._become(release)
            except CollabError:  # going back will find another
                continue

    def _load(self, release: Release) -> LoadedStage:
        return load(self._path(release), self._backend, self._threads)

    def _path(self, release: Release) -> Path:
        return self._root / self._store.path(release)

    def _now_bytes(self) -> int:
        return 0 if self._memory is None else self._memory()

    def _unload(self) -> None:
        if self._new is not None:
            self._new.close()
        self._new = self._copy = None

    def _swap(self) -> None:
        """The new one is the old one from here on."""
        if self._old is not None:
            self._old.close()
        self._old, self._runs, self._new, self._copy = self._new, self._judged, None, None


def _fits(old: LoadedStage, new: LoadedStage) -> bool:
    """Whether one can take the place of the other in a plan: the same tensors, whatever their names."""
    return all(
        [(one.shape, one.dtype) for one in a] == [(one.shape, one.dtype) for one in b]
        for a, b in ((old.inputs, new.inputs), (old.outputs, new.outputs))
    )
