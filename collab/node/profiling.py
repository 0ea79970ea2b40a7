"""Measures this device for planners: stages, hand-overs between threads, codecs, links to other nodes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np

from collab.client.measuring import (
    LINK_GAP_S,
    MAX_BUDGET_MS,
    MAX_PROBE_BYTES,
    Pace,
    checked_share,
    probe_link,
    time_codec,
)
from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import Array, Payload, encode
from collab.core.codecs import parse_codec
from collab.core.ids import (
    REQUESTER,
    Attempt,
    Digest,
    EdgeId,
    Epoch,
    NodeName,
    PlanName,
    RequestId,
    StageId,
    check_digest,
    check_name,
)
from collab.core.plan import Edge, NodeRef, Plan, StageSpec
from collab.core.tensor import ITEMSIZE, TensorSpec
from collab.core.token import Fault, Key
from collab.errors import BackendError, LimitExceeded, PeerUnreachable, TensorError, UsageError
from collab.link.link import Link
from collab.link.links import dialled_as, is_kind
from collab.node.program import Program, monotonic_us
from collab.node.session import Computed, Work
from collab.node.worker import Worker
from collab.runtime.base import LoadedStage
from collab.runtime.cpu import resident_bytes
from collab.runtime.energy import EnergyMeter
from collab.runtime.sample import zero_inputs
from collab.transport.aio import timeout

if TYPE_CHECKING:
    from collab.node.service import NodeService

_MAX_RUNS: Final = 1000
_MAX_THREADS: Final = 256
_MAX_SAMPLE_BYTES: Final = 8 << 20
_MAX_TENSORS: Final = 256
_MAX_CODECS: Final = 16
_MAX_SIZES: Final = 16
_MAX_ROUNDS: Final = 100
_MAX_ENDPOINTS: Final = 16
_RUN_GAP_S: Final = 0.001
"""Pause between runs at least: in a plan stages wait for others, and runs after a pause are slower."""
_LINK_WAIT_S: Final = 5.0
_JOB_WAIT_S: Final = 30.0
_DAY_US: Final = 86_400_000_000


class Profiler:
    """The measuring verbs of one node; one measurement at a time."""

    def __init__(self, node: NodeService) -> None:
        self._node = node
        self._turn = asyncio.Lock()

    # --- stages ----------------------------------------------------------------------

    async def stage(self, request: pb.ProfileRequest) -> pb.ProfileReply:
        """Time a blob of the store as a stage.

        Raises `LimitExceeded` for numbers out of bounds, `StoreError` for a blob that is not
        here, `ModelError` or `BackendError` for one that does not load or run.
        """
        _bounded("Profile.runs", request.runs, 1, _MAX_RUNS)
        _bounded("Profile.threads", request.threads or 1, 1, _MAX_THREADS)
        _check_time("Profile", request.budget_ms, request.share)
        sha256 = check_digest(request.sha256, "Profile.sha256:")
        async with self._turn:
            reply = await self._node.stages.off_loop(self._time_stage, sha256, request)
            if request.hand_over:
                reply.hand_over_ms[:] = await self._time_hand_over(sha256, request)
        reply.in_flight = sum(info.in_flight for info in self._node.session.plans())
        return reply

    def _load(self, sha256: Digest, threads: int) -> LoadedStage:
        return self._node.default_backend.load(self._node.stages.store.path(sha256), threads)

    def _time_stage(self, sha256: Digest, request: pb.ProfileRequest) -> pb.ProfileReply:
        """Runs outside of the event loop."""
        pace, threads = Pace(request.share), max(1, request.threads)
        cpu = time.thread_time if threads == 1 else time.process_time
        load = _load_average()
        _give_back_memory()
        before, begun = resident_bytes(), time.perf_counter()
        stage = self._load(sha256, threads)
        reply = pb.ProfileReply(load=load, load_ms=(time.perf_counter() - begun) * 1000)
        try:
            inputs = zero_inputs(stage)
            stage.run(inputs)
            reply.memory_bytes = max(0, resident_bytes() - before) if before else 0
            time.sleep(pace.rest_s(time.perf_counter() - begun))
            stage.run(inputs)
            spent_ms, budget_ms = 0.0, request.budget_ms or MAX_BUDGET_MS
            energy, started = EnergyMeter(), time.perf_counter()
            while len(reply.run_ms) < request.runs:
                cpu_begun, begun = cpu(), time.perf_counter()
                stage.run(inputs)
                took_ms, cpu_ms = (time.perf_counter() - begun) * 1000, (cpu() - cpu_begun) * 1000
                reply.run_ms.append(took_ms)
                reply.cpu_ms.append(cpu_ms)
                spent_ms += took_ms
                if spent_ms > budget_ms:
                    break
                time.sleep(max(_RUN_GAP_S, pace.rest_s(took_ms / 1000)))
            reply.energy_j = energy.used_j() or 0.0
            reply.elapsed_ms = (time.perf_counter() - started) * 1000
            return reply
        finally:
            stage.close()

    async def _time_hand_over(self, sha256: Digest, request: pb.ProfileRequest) -> list[float]:
        """What jobs take from the event loop through a worker and back, less the stage's own runs, in ms."""
        stage = await self._node.stages.off_loop(self._load, sha256, max(1, request.threads))
        plan = _plan_of(stage, self._node.name)
        program = Program(plan, plan.stages[0], self._node.name, stage)
        inputs: Payload = tuple(
            encode(spec, array) for spec, array in zip(stage.inputs, zero_inputs(stage), strict=True)
        )
        loop, pace = asyncio.get_running_loop(), Pace(request.share)
        waiting: list[asyncio.Future[Computed | Fault]] = []

        def done(_: Work, result: Computed | Fault) -> None:
            if not waiting[0].done():
                waiting[0].set_result(result)

        worker = Worker(program, loop, done)
        work = Work(Key(plan.name, Epoch(1), RequestId(bytes(16)), Attempt(0)), 0)
        times: list[float] = []
        try:
            while len(times) < request.runs and sum(times) < (request.budget_ms or MAX_BUDGET_MS):
                waiting[:] = [loop.create_future()]
                begun = time.perf_counter()
                worker.submit(work, ((EdgeId(0), inputs),), monotonic_us() + _DAY_US)
                async with timeout(_JOB_WAIT_S):
                    result = await waiting[0]
                took_s = time.perf_counter() - begun
                if isinstance(result, Fault):
                    raise BackendError(f"Profile: {result.message}")
                times.append(max(0.0, took_s * 1000 - result.hop.compute_us / 1000))
                await asyncio.sleep(max(LINK_GAP_S, pace.rest_s(took_s)))
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise BackendError(f"Profile: a run takes over {_JOB_WAIT_S:g} s") from error
        finally:
            await worker.close()
        return times

    # --- codecs ------------------------------------------------------------------------

    async def codecs(self, request: pb.ProfileCodecsRequest) -> pb.ProfileCodecsReply:
        """Time codecs on sample tensors; raises `LimitExceeded`, `PlanError` or `TensorError`."""
        _bounded("ProfileCodecs.codecs", len(request.codecs), 1, _MAX_CODECS)
        _bounded("ProfileCodecs.tensors", len(request.tensors), 1, _MAX_TENSORS)
        _bounded("ProfileCodecs.tensors", sum(len(t.data) for t in request.tensors), 1, _MAX_SAMPLE_BYTES)
        _check_time("ProfileCodecs", request.budget_ms, request.share)
        names = [str(parse_codec(name)) for name in request.codecs]
        tensors = [_tensor(i, sample) for i, sample in enumerate(request.tensors)]
        async with self._turn:
            reply = pb.ProfileCodecsReply()
            for name in names:
                # Not in the disk's thread, which others may wait for.
                speed = await asyncio.to_thread(
                    time_codec,
                    name,
                    tensors,
                    budget_ms=request.budget_ms or MAX_BUDGET_MS,
                    share=request.share,
                )
                reply.codecs.add(codec=name, encode_mb_s=speed.encode_mb_s, decode_mb_s=speed.decode_mb_s)
        return reply

    # --- links -------------------------------------------------------------------------

    async def peer(self, request: pb.ProbePeerRequest) -> pb.ProbePeerReply:
        """Probe the link to another node, dialled for the time of it where there is none.

        Raises `LimitExceeded`, `UsageError`, or `PeerUnreachable` where no link of that
        transport can be had.
        """
        name = NodeName(check_name(request.peer, "ProbePeer.peer"))
        if name == self._node.name:
            raise UsageError(f"ProbePeer.peer: {name!r} is the node itself")
        _bounded("ProbePeer.endpoints", len(request.endpoints), 0, _MAX_ENDPOINTS)
        _bounded("ProbePeer.sizes", len(request.sizes), 1, _MAX_SIZES)
        _bounded("ProbePeer.sizes", max(request.sizes), 0, MAX_PROBE_BYTES)
        _bounded("ProbePeer.rounds", request.rounds, 1, _MAX_ROUNDS)
        _check_time("ProbePeer", request.budget_ms, request.share)
        async with self._turn:
            link, dialled = await self._link_to(name, request.kind, request.endpoints)
            try:
                probed = await probe_link(
                    link,
                    sizes=list(request.sizes),
                    rounds=request.rounds,
                    budget_ms=request.budget_ms or MAX_BUDGET_MS,
                    share=request.share,
                )
            finally:
                if dialled:
                    await link.close()
        samples = [
            pb.ProbeSample(up_bytes=s.up_bytes, down_bytes=s.down_bytes, ms=s.ms) for s in probed.samples
        ]
        return pb.ProbePeerReply(samples=samples, lost=probed.lost, relayed=link.connection.relayed)

    async def _link_to(self, name: NodeName, kind: str, endpoints: Sequence[str]) -> tuple[Link, bool]:
        """A live link of a transport, and whether it was dialled for this."""
        links = self._node.links
        link = links.get(name, kind)
        if link is not None and link.kind == kind:
            return link, False
        addresses = [dialled_as(at, kind) for at in endpoints if is_kind(at, kind)]
        if not addresses:
            raise PeerUnreachable(f"node {name!r}: no link by {kind[:40]!r}, and no address to dial by it")
        try:
            async with timeout(_LINK_WAIT_S):
                return await links.connect_any(addresses, name), True
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"node {name!r}: no link by {kind!r} within {_LINK_WAIT_S:g} s") from error


def _bounded(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise LimitExceeded(f"{what}: {value}; give {least} to {most}")


def _check_time(verb: str, budget_ms: float, share: float) -> None:
    if not 0 <= budget_ms <= MAX_BUDGET_MS:
        raise LimitExceeded(f"{verb}.budget_ms: {budget_ms:g}; give 0 to {MAX_BUDGET_MS:g}")
    checked_share(share)


def _load_average() -> float:
    """Load of the last minute by cores; 0 where the system does not say."""
    with suppress(OSError):
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    return 0.0


def _give_back_memory() -> None:
    """Return what is free in this process to the system, so that growth can be seen; glibc alone can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _tensor(index: int, sample: pb.SampleTensor) -> tuple[TensorSpec, Array]:
    where = f"ProfileCodecs.tensors[{index}]"
    if sample.dtype not in ITEMSIZE:
        raise TensorError(f"{where}: dtype {sample.dtype[:40]!r} cannot travel")
    spec = TensorSpec(f"t{index}", tuple(int(size) for size in sample.shape), sample.dtype).check()
    if spec.nbytes != len(sample.data):
        raise TensorError(f"{where}: {len(sample.data)} bytes where its shape needs {spec.nbytes}")
    return spec, np.frombuffer(sample.data, np.dtype(sample.dtype)).reshape(spec.shape)


def _plan_of(stage: LoadedStage, node: NodeName) -> Plan:
    """A plan of one stage, for its worker; never deployed."""
    name = StageId("profiled")
    ends = (
        Edge(source=REQUESTER, target=name, tensors=tuple(spec.name for spec in stage.inputs)),
        Edge(source=name, target=REQUESTER, tensors=tuple(spec.name for spec in stage.outputs)),
    )
    return Plan(
        name=PlanName("profile"),
        models=(),
        inputs=stage.inputs,
        outputs=stage.outputs,
        stages=(StageSpec(id=name, nodes=(node,), inputs=stage.inputs, outputs=stage.outputs),),
        edges=ends,
        nodes=(NodeRef(name=node),),
    )
