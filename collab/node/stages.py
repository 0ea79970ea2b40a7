"""The stages in this node's memory, by plan and epoch: loading and unloading them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from collab.core.ids import Digest, Epoch, NodeName, PlanName, StageId
from collab.core.plan import Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.token import Priority
from collab.core.validate import flow
from collab.errors import BackendError, CollabError, PlanError
from collab.node.actions import Work
from collab.node.first_run import FirstRuns, StageTry
from collab.node.observing import Observer
from collab.node.program import Program, monotonic_us
from collab.node.store import Store
from collab.node.worker import Done, Worker
from collab.runtime.base import Backend, LoadedStage, RuntimeClass
from collab.updates.policies.reference import decode_reference

log = logging.getLogger("collab.node")

T = TypeVar("T")
Specs = tuple[TensorSpec, ...]


class _LoadedEpoch:
    """One epoch of one plan: a worker for each of this node's stages, by index."""

    def __init__(self, plan: Plan, workers: dict[int, Worker], observers: Mapping[int, Observer]) -> None:
        self.plan = plan
        self.workers = workers
        self.observers = observers
        on_edge = flow(plan)
        self.edge_kinds = tuple(edge.transport for edge in plan.edges)
        self.edge_specs: tuple[Specs, ...] = tuple(tuple(on_edge[i].values()) for i in sorted(on_edge))


class Stages:
    """Workers by plan, epoch and stage; the disk and the loading stay off the event loop."""

    def __init__(
        self,
        node: NodeName,
        store: Store,
        backends: Mapping[str, Backend],
        done: Done,
        first_runs: FirstRuns | None = None,
        samples_s: float | None = None,
    ) -> None:
        self.store = store
        self._first_runs = first_runs
        self._samples_s = samples_s
        """Requests a second of which each stage's values are looked at; None: nothing is noted of any."""
        self._node = node
        self._backends = backends
        self._done = done
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="collab-disk")
        self._loaded: dict[tuple[PlanName, Epoch], _LoadedEpoch] = {}
        self._loading: dict[tuple[PlanName, Epoch], Plan] = {}
        self._unloaded_fallbacks = 0

    async def off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in the one thread that uses the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments)

    def plan(self, name: PlanName, epoch: Epoch) -> Plan | None:
        """A loaded epoch's plan."""
        loaded = self._loaded.get((name, epoch))
        return loaded.plan if loaded else None

    def used_digests(self) -> list[Digest]:
        """Blobs that must stay in the store."""
        plans = [*(loaded.plan for loaded in self._loaded.values()), *self._loading.values()]
        stages = [s.sha256 for plan in plans for s in plan.stages_on(self._node) if s.sha256]
        return [*stages, *(m.reference for plan in plans for m in plan.models if m.reference)]

    @property
    def codec_fallbacks(self) -> int:
        """Tensors that lossy codecs could not keep within their plans' error, since the node started."""
        workers = (worker for loaded in self._loaded.values() for worker in loaded.workers.values())
        return self._unloaded_fallbacks + sum(worker.codec_fallbacks for worker in workers)

    def queued(self) -> dict[tuple[PlanName, StageId], int]:
        """Jobs that wait for each loaded stage, those of all epochs together."""
        found: dict[tuple[PlanName, StageId], int] = {}
        for (name, _), loaded in self._loaded.items():
            for index, worker in loaded.workers.items():
                key = (name, loaded.plan.stages[index].id)
                found[key] = found.get(key, 0) + worker.queued
        return found

    def left_out(self) -> dict[str, int]:
        """Requests that members of ensembles were left out of, by ``PLAN/STAGE/MEMBER``; of loaded stages."""
        found: dict[str, int] = {}
        for (name, _), loaded in self._loaded.items():
            for index, worker in loaded.workers.items():
                for member, count in worker.left_out.items():
                    key = f"{name}/{loaded.plan.stages[index].id}/{member}"
                    found[key] = found.get(key, 0) + count
        return found

    def worker(self, name: PlanName, epoch: Epoch, stage: int) -> Worker | None:
        """The worker of a loaded stage, by the stage's index."""
        loaded = self._loaded.get((name, epoch))
        return loaded.workers.get(stage) if loaded else None

    def drop(self, work: Work) -> None:
        """Free a job that a worker has not begun."""
        worker = self.worker(work.key.plan, work.key.epoch, work.stage)
        if worker is not None:
            worker.drop(work)

    def expected_us(
        self, name: PlanName, epoch: Epoch, stage: int, priority: Priority, requester: NodeName
    ) -> int | None:
        """How long one more job of a requester would take a stage; None where it should be tried."""
        worker = self.worker(name, epoch, stage)
        return worker.expected_us(priority, requester, monotonic_us()) if worker is not None else None

    def specs(self, name: PlanName, epoch: Epoch, edge: int) -> Specs | None:
        """The tensors that an edge of a loaded plan carries; None if there is no such edge here."""
        loaded = self._loaded.get((name, epoch))
        return loaded.edge_specs[edge] if loaded and edge < len(loaded.edge_specs) else None

    def kind(self, name: PlanName, epoch: Epoch, edge: int) -> str:
        """The transport of an edge; empty where the plan is not loaded here."""
        loaded = self._loaded.get((name, epoch))
        return loaded.edge_kinds[edge] if loaded and edge < len(loaded.edge_kinds) else ""

    async def load(self, plan: Plan, epoch: Epoch) -> None:
        """Load this node's stages of a plan; nothing is kept if one of them fails.

        Raises `StoreError`, `IntegrityError`, `ModelError`, `BackendError` or `PlanError`.
        """
        key = (plan.name, epoch)
        await self.unload(*key)
        self._loading[key] = plan
        programs: list[Program] = []
        try:
            await self._run_first(plan)
            for stage in plan.stages_on(self._node):
                program = await self.off_loop(self._program, plan, stage)
                programs.append(program)
        except BaseException:
            for program in programs:
                program.close()
            raise
        finally:
            del self._loading[key]
        loop = asyncio.get_running_loop()
        workers = {plan.stage_index(p.stage.id): Worker(p, loop, self._done) for p in programs}
        observers = {plan.stage_index(p.stage.id): p.observer for p in programs if p.observer is not None}
        self._loaded[key] = _LoadedEpoch(plan, workers, observers)

    def observed(self) -> list[tuple[Plan, Epoch, Mapping[int, Observer]]]:
        """What is noted of each loaded epoch, by the stage's index."""
        return [(loaded.plan, epoch, loaded.observers) for (_, epoch), loaded in self._loaded.items()]

    def _observer(self, plan: Plan, stage: StageSpec) -> Observer | None:
        if self._samples_s is None:
            return None
        model = next((m for m in plan.models if m.id == stage.model), None) if stage.sha256 else None
        if model is not None and model.reference is not None:
            try:
                data = self.store.path(model.reference).read_bytes()
                reference = decode_reference(data, f"models ({model.id}).reference")
                return Observer(plan, stage, reference, self._samples_s, monotonic_us)
            except (CollabError, OSError) as error:
                log.warning("plan %r: nothing is compared with its reference: %s", plan.name, error)
        return Observer(plan, stage, None, self._samples_s, monotonic_us)

    async def _run_first(self, plan: Plan) -> None:
        """Run stages in a process of their own where they have not run here before."""
        if self._first_runs is None or not self._first_runs.concerns(plan):
            return
        tries = [
            await self.off_loop(self._stage_try, stage)
            for stage in plan.stages_on(self._node)
            if stage.sha256 is not None
        ]
        await self._first_runs.run(tries)

    def _stage_try(self, stage: StageSpec) -> tuple[StageTry, RuntimeClass]:
        assert stage.sha256 is not None
        path = self.store.path(stage.sha256)
        one = StageTry(stage.id, str(path.absolute()), stage.sha256, stage.backend, stage.threads)
        return one, self._backend(stage).runtime_class()

    def _backend(self, stage: StageSpec) -> Backend:
        backend = self._backends.get(stage.backend)
        if backend is None:
            known = ", ".join(sorted(self._backends))
            raise BackendError(
                f"stage {stage.id!r}: back end {stage.backend!r} is not here; this node has {known}"
            )
        return backend

    def _program(self, plan: Plan, stage: StageSpec) -> Program:
        observer = self._observer(plan, stage)
        if stage.transform is not None:
            return Program(plan, stage, self._node, _transform(stage), observer)
        if stage.sha256 is None:
            return Program(plan, stage, self._node, None, observer)
        loaded = self._backend(stage).load(self.store.path(stage.sha256), stage.threads)
        if stage.each:
            loaded = _each_row(stage, loaded)
        _check_signature(stage, loaded)
        return Program(plan, stage, self._node, loaded, observer)

    async def unload(self, name: PlanName, epoch: Epoch) -> None:
        """Stop the workers of an epoch and free its stages; nothing happens if it is not loaded."""
        loaded = self._loaded.pop((name, epoch), None)
        if loaded is not None:
            await asyncio.gather(*(worker.close() for worker in loaded.workers.values()))
            self._unloaded_fallbacks += sum(worker.codec_fallbacks for worker in loaded.workers.values())

    async def unload_all(self) -> None:
        """Unload every epoch."""
        for name, epoch in tuple(self._loaded):
            await self.unload(name, epoch)

    async def close(self) -> None:
        """Unload everything and let go of the store."""
        await self.unload_all()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._disk.shutdown)
        self.store.close()


def _transform(stage: StageSpec) -> LoadedStage:
    """A transform; nodes that run none do not load what makes them."""
    from collab.runtime.transforms.stage import TransformStage

    return TransformStage(stage)


def _each_row(stage: StageSpec, loaded: LoadedStage) -> LoadedStage:
    from collab.runtime.transforms.stage import EachRow

    return EachRow(loaded, stage)


def _check_signature(stage: StageSpec, loaded: LoadedStage) -> None:
    """The loaded bytes must take and give what the plan says."""
    for what, planned, real in (
        ("inputs", stage.in_file(stage.inputs), loaded.inputs),
        ("outputs", stage.in_file(stage.outputs), loaded.outputs),
    ):
        if planned != real:
            loaded.close()
            raise PlanError(f"stages ({stage.id}).{what}: the plan says {planned}, the stage has {real}")
