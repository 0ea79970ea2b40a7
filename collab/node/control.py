"""What the control verbs do on this node."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from collab import __version__
from collab.client.measuring import MAX_PROBE_BYTES
from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import CODECS
from collab.core.ids import Digest, Epoch, PlanName, check_digest
from collab.core.plan import Plan, from_json, to_json
from collab.core.streams import check_declared
from collab.core.transforms import EACH, KINDS
from collab.errors import LimitExceeded, NotLoaded, Refused
from collab.node.profiling import Profiler
from collab.node.program import monotonic_us
from collab.node.serving import MAX_PART_BYTES
from collab.node.training_verbs import TrainingVerbs
from collab.node.verbs import Caller, Implementation
from collab.runtime.cpu import resident_bytes
from collab.telemetry.histogram import BOUNDS_US

if TYPE_CHECKING:
    from collab.node.service import NodeService

MAX_FAULT: Final = 300
"""Characters of what is said of an epoch."""


class NodeControl:
    """The verbs of `collab.codec.verbs`, one method each."""

    def __init__(self, service: NodeService) -> None:
        self._node = service
        self._profiler = Profiler(service)
        self._started = time.monotonic()

    def implementations(self) -> dict[str, Implementation]:
        """Methods by verb."""
        table: dict[str, Callable[[Caller, Any], Awaitable[Any]]] = {
            "Describe": self.describe,
            "Probe": self.probe,
            "BlobStatus": self.blob_status,
            "PutBlob": self.put_blob,
            "DropBlobs": self.drop_blobs,
            "Reserve": self.reserve,
            "Prepare": self.prepare,
            "Commit": self.commit,
            "Abort": self.abort,
            "Retire": self.retire,
            "Unload": self.unload,
            "GetPlan": self.get_plan,
            "Lease": self.lease,
            "Status": self.status,
            "Profile": self.profile,
            "ProfileCodecs": self.profile_codecs,
            "ProbePeer": self.probe_peer,
            "Drain": self.drain,
            "PutRevocations": self.put_revocations,
            "TakeReports": self.take_reports,
            "GetReleaseFile": self.get_release_file,
            **TrainingVerbs(self._node.training, self._node.stages).implementations(),
            **self._node.trials.implementations(),
            **self._node.feedback.implementations(),
        }
        return table

    async def describe(self, _: Caller, __: pb.DescribeRequest) -> pb.DescribeReply:
        """Name, device, runtime class, store, plans."""
        node = self._node
        device = node.device
        assert device is not None
        runtime = device.runtime_class
        return pb.DescribeReply(
            name=node.name,
            endpoints=node.endpoints,
            software=f"collab/{__version__}",
            device=device.model,
            memory_bytes=device.memory_bytes,
            cores=device.cores,
            runtime_class=pb.RuntimeClass(
                backend=runtime.backend,
                version=runtime.version,
                machine=runtime.machine,
                cpu_features=runtime.cpu_features,
                delegate=runtime.delegate,
            ),
            models=await node.stages.off_loop(node.stages.store.digests),
            state=node.state,
            plans=self._plans(),
            transports=node.schemes,
            codecs=CODECS,
            wall_clock_ms=int(time.time() * 1000),
            reports=self._reports(),
            remarks=device.remarks,
            sources=[] if node.streams is None else node.streams.describe("sources"),
            sinks=[] if node.streams is None else node.streams.describe("sinks"),
            transforms=(*KINDS, EACH),
        )

    def _plans(self) -> list[pb.LoadedPlan]:
        node = self._node
        return [
            pb.LoadedPlan(
                plan=info.plan,
                epoch=info.epoch,
                digest=info.digest,
                state=info.state,
                stages=[stage.id for stage in info.stages],
                in_flight=info.in_flight,
                primary=info.primary or "",
                fault=node.proving.fault(info.plan, info.epoch)[:MAX_FAULT],
                release=info.release,
                trial=node.trials.phase(info.plan) if info.state == "serving" else "",
            )
            for info in node.session.plans()
        ]

    async def probe(self, _: Caller, request: pb.ProbeRequest) -> pb.ProbeReply:
        """Take some bytes and give some back, for measuring a link."""
        if max(request.reply_bytes, len(request.body)) > MAX_PROBE_BYTES:
            raise LimitExceeded(f"Probe: over {MAX_PROBE_BYTES} bytes")
        begun = time.perf_counter()
        reply = pb.ProbeReply(received_bytes=len(request.body), body=bytes(request.reply_bytes))
        if request.timed:
            # What reading this request and writing this reply copy, done once more for the clock.
            body = memoryview(request.SerializeToString())
            copying = time.perf_counter()
            pb.ProbeRequest.FromString(bytes(body))
            reply.SerializeToString()
            now = time.perf_counter()
            reply.handling_us = int(((now - begun) + (now - copying)) * 1e6)
        return reply

    async def blob_status(self, _: Caller, request: pb.BlobStatusRequest) -> pb.BlobStatusReply:
        """Bytes held of each blob; a complete one is checked, a corrupted one is removed."""
        stages = self._node.stages
        reply = pb.BlobStatusReply()
        for name in request.sha256:
            size, complete = await stages.off_loop(
                stages.store.checked, check_digest(name, "BlobStatus.sha256:")
            )
            reply.bytes.append(size)
            reply.complete.append(complete)
        return reply

    async def put_blob(self, caller: Caller, request: pb.PutBlobRequest) -> pb.PutBlobReply:
        """Add a part to a blob; another node may where it has this one train."""
        stages = self._node.stages
        if caller.role == "node":
            self._node.training.check(caller, "PutBlob")
        sha256 = check_digest(request.sha256, "PutBlob.sha256:")
        held = await stages.off_loop(
            stages.store.put,
            sha256,
            request.total_bytes,
            request.offset,
            request.data,
            self._node.used_digests(),
        )
        return pb.PutBlobReply(bytes=held, complete=held == request.total_bytes)

    async def drop_blobs(self, _: Caller, request: pb.DropBlobsRequest) -> pb.DropBlobsReply:
        """Remove blobs that no loaded plan uses; those that are used, or not here, stay as they are."""
        stages = self._node.stages
        wanted = {check_digest(name, "DropBlobs.sha256:") for name in request.sha256}
        free = wanted - set(self._node.used_digests())
        return pb.DropBlobsReply(dropped=await stages.off_loop(stages.store.drop, sorted(free)))

    async def get_plan(self, caller: Caller, request: pb.GetPlanRequest) -> pb.GetPlanReply:
        """The plan that is current under a name."""
        name = PlanName(request.plan)
        current = self._node.session.current(name)
        plan = None if current is None else self._node.stages.plan(name, current[0])
        _check_stream(caller, plan)
        if current is None or plan is None:
            raise NotLoaded(f"plan {name[:80]!r}: none of that name is current here")
        return pb.GetPlanReply(epoch=current[0], json=to_json(plan))

    async def reserve(self, _: Caller, request: pb.ReserveRequest) -> pb.ReserveReply:
        """Take the right to bring up an epoch of a plan, if what is current is what the caller believes."""
        expected = None
        if request.expected_epoch:
            expected = (Epoch(request.expected_epoch), Digest(request.expected_digest))
        plan = from_json(request.plan)
        self._node.check_fits(plan)
        if plan.streams:
            own = self._node.streams
            sources, sinks = ({}, {}) if own is None else (own.sources, own.sinks)
            check_declared(plan.streams, self._node.name, sources, sinks)
        self._node.session.reserve(plan, Epoch(request.epoch), request.holder, monotonic_us(), expected)
        return pb.ReserveReply()

    async def prepare(self, _: Caller, request: pb.PrepareRequest) -> pb.PrepareReply:
        """Load the stages of a reserved epoch and reach the nodes next to it."""
        before = resident_bytes()
        await self._node.prepare(
            PlanName(request.plan), Epoch(request.epoch), Digest(request.digest), request.holder
        )
        return pb.PrepareReply(memory_bytes=max(0, resident_bytes() - before))

    async def commit(self, _: Caller, request: pb.EpochRequest) -> pb.EpochReply:
        """Make a prepared epoch the current one."""
        await self._node.commit(
            PlanName(request.plan), Epoch(request.epoch), Digest(request.digest), request.holder
        )
        self._look_at_streams()
        return pb.EpochReply()

    async def abort(self, _: Caller, request: pb.EpochRequest) -> pb.EpochReply:
        """Give a reservation back and unload what was prepared under it."""
        await self._node.abort(
            PlanName(request.plan), Epoch(request.epoch), Digest(request.digest), request.holder
        )
        return pb.EpochReply()

    async def retire(self, _: Caller, request: pb.EpochRequest) -> pb.EpochReply:
        """Admit no further requests to an epoch."""
        await self._node.retire(PlanName(request.plan), Epoch(request.epoch))
        self._look_at_streams()
        return pb.EpochReply()

    async def unload(self, _: Caller, request: pb.EpochRequest) -> pb.EpochReply:
        """Free an epoch; requests under way get an error."""
        await self._node.unload(PlanName(request.plan), Epoch(request.epoch))
        self._look_at_streams()
        return pb.EpochReply()

    async def lease(self, caller: Caller, request: pb.LeaseRequest) -> pb.LeaseReply:
        """Lease admission credits to the caller."""
        now = monotonic_us()
        plan, epoch = PlanName(request.plan), Epoch(request.epoch)
        _check_stream(caller, self._node.stages.plan(plan, epoch))
        if request.want == 0:
            self._node.session.release(plan, epoch, caller.name)
            return pb.LeaseReply()
        lease = self._node.session.lease(plan, epoch, caller.name, request.want, now, request.short)
        return pb.LeaseReply(granted=lease.granted, valid_us=max(0, lease.expires_us - now))

    async def status(self, _: Caller, __: pb.StatusRequest) -> pb.StatusReply:
        """Plans, counters, peers, memory."""
        node = self._node
        return pb.StatusReply(
            plans=self._plans(),
            counters=[pb.Counter(name=name, value=value) for name, value in sorted(node.counters().items())],
            peers=[
                pb.Peer(
                    name=link.peer.name,
                    address=link.connection.address,
                    rtt_us=link.rtt_us,
                    kind=link.kind,
                    role=link.peer.role,
                    relayed=link.connection.relayed,
                    sent_bytes=link.carried_bytes[0],
                    received_bytes=link.carried_bytes[1],
                )
                for link in node.links.all()
            ],
            found=[
                pb.Found(
                    name=peer.name,
                    endpoints=peer.endpoints,
                    cluster=peer.cluster,
                    by=peer.found,
                    conflict=peer.conflict,
                )
                for peer in node.membership.peers
            ],
            resident_bytes=resident_bytes(),
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            reports=self._reports(),
            state=node.state,
            stages=self._stages(),
            answers=[
                pb.PlanAnswers(plan=name, buckets=tally.seconds.counts.buckets, **tally.outcomes)
                for name, tally in node.tally.plans.items()
            ],
            bounds_us=BOUNDS_US,
            cpu_us=int(time.process_time() * 1e6),
            streams=[] if node.streams is None else node.streams.states(),
        )

    def _stages(self) -> list[pb.StageLoad]:
        loads = []
        for (plan, stage), queued in self._node.stages.queued().items():
            tally = self._node.tally.stages.get((plan, stage))
            runs, failed = (tally.parts[0].counts.number, tally.failed) if tally is not None else (0, 0)
            loads.append(pb.StageLoad(plan=plan, stage=stage, queued=queued, runs=runs, failed=failed))
        return loads

    def _reports(self) -> pb.ReportState:
        reporter = self._node.reporter
        return pb.ReportState(waiting=reporter.waiting, dropped=reporter.dropped)

    async def take_reports(self, _: Caller, request: pb.TakeReportsRequest) -> pb.TakeReportsReply:
        """What this node answered alone; forgets what the caller says that it has."""
        taken = await self._node.reporter.take(request.after, request.limit, request.acknowledge)
        reports = [
            pb.Report(
                number=record.number,
                plan=record.plan,
                epoch=record.epoch,
                request=bytes.fromhex(record.request),
                at_ms=record.at_ms,
                compute_us=record.compute_us,
                outcome=record.outcome,
                digest=bytes.fromhex(record.digest),
                alone=record.alone,
            )
            for record in taken
        ]
        return pb.TakeReportsReply(reports=reports, state=self._reports())

    async def get_release_file(self, _: Caller, request: pb.GetReleaseFileRequest) -> pb.GetReleaseFileReply:
        """A part of a file of a repository, or of the content of a release."""
        limit = min(request.limit or MAX_PART_BYTES, MAX_PART_BYTES)
        read = self._node.releases.read
        total, data = await self._node.stages.off_loop(
            read, request.repository, request.path, request.offset, limit
        )
        return pb.GetReleaseFileReply(total_bytes=total, data=data)

    async def profile(self, _: Caller, request: pb.ProfileRequest) -> pb.ProfileReply:
        """Time a blob of the store as a stage on this device."""
        return await self._profiler.stage(request)

    async def profile_codecs(self, _: Caller, request: pb.ProfileCodecsRequest) -> pb.ProfileCodecsReply:
        """Time codecs on this device."""
        return await self._profiler.codecs(request)

    async def probe_peer(self, _: Caller, request: pb.ProbePeerRequest) -> pb.ProbePeerReply:
        """Measure the link to another node."""
        return await self._profiler.peer(request)

    async def drain(self, _: Caller, __: pb.DrainRequest) -> pb.DrainReply:
        """Admit nothing more; what is under way finishes."""
        self._node.drain()
        self._look_at_streams()
        return pb.DrainReply(in_flight=sum(info.in_flight for info in self._node.session.plans()))

    def _look_at_streams(self) -> None:
        if self._node.streams is not None:
            self._node.streams.look()

    async def put_revocations(self, _: Caller, request: pb.PutRevocationsRequest) -> pb.PutRevocationsReply:
        """Go by the authority's latest revocation list, and keep it over restarts."""
        security = self._node.security
        if security is None:
            raise Refused("PutRevocations: this node has no identity; enrol it first")
        number = security.reload_revocations(request.crl)
        await self._node.stages.off_loop(security.store_revocations)
        return pb.PutRevocationsReply(number=number)


def _check_stream(caller: Caller, plan: Plan | None) -> None:
    """A node's streams may ask for plans that have one of its, and no other."""
    base = caller.name.partition("~")[0]
    if caller.role == "stream" and plan is not None and base not in {s.source.node for s in plan.streams}:
        raise Refused(f"plan {plan.name!r} has no stream of node {base!r}; name its source under streams")
