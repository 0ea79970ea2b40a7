"""Calls of a node's control verbs over a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from collab.client.measuring import Probed, Sample
from collab.codec.pb import control_pb2 as pb
from collab.codec.verbs import VERBS
from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import Plan, from_json
from collab.core.profile import CodecSpeed
from collab.errors import ProtocolError
from collab.link.link import Link
from collab.link.mux import Channel
from collab.updates.health.trial import Counts, Trial
from collab.updates.health.trial_messages import counts_message, counts_of, trial_message, trial_of
from collab.updates.policies.condition import Condition, decode_condition

_PART_BYTES: Final = 1 << 20
_LOAD_TIMEOUT_S: Final = 120.0
_LEASE_TIMEOUT_S: Final = 5.0

Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


class Control:
    """A node's verbs, typed; raises what the node reports, or a `PeerError`."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def name(self) -> NodeName:
        """Name of the node."""
        return self.link.peer.name

    async def call(
        self,
        verb: str,
        request: Message,
        *,
        channel: Channel = Channel.CONTROL,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> Any:
        """Call any verb; the reply is the verb's reply message; see `Link.call`."""
        data = request.SerializeToString()
        body = await self.link.call(verb, data, channel=channel, timeout_s=timeout_s, patient=patient)
        try:
            return VERBS[verb].reply.FromString(bytes(body))
        except (DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"node {self.name!r}: its reply to {verb} cannot be read") from error

    async def describe(self) -> pb.DescribeReply:
        """What the node is, and what it holds."""
        reply: pb.DescribeReply = await self.call("Describe", pb.DescribeRequest())
        return reply

    async def status(self) -> pb.StatusReply:
        """What the node is doing."""
        reply: pb.StatusReply = await self.call("Status", pb.StatusRequest())
        return reply

    async def prepare(self, plan: str, epoch: int, digest: str, holder: str) -> pb.PrepareReply:
        """Load a reserved epoch; may take as long as loading its stages."""
        request = pb.PrepareRequest(plan=plan, epoch=epoch, digest=digest, holder=holder)
        reply: pb.PrepareReply = await self.call("Prepare", request, timeout_s=_LOAD_TIMEOUT_S)
        return reply

    async def epoch(
        self, verb: str, plan: str, epoch: int, digest: str, holder: str, timeout_s: float | None = None
    ) -> None:
        """Commit, Abort, Retire or Unload an epoch."""
        request = pb.EpochRequest(plan=plan, epoch=epoch, digest=digest, holder=holder)
        await self.call(verb, request, timeout_s=timeout_s)

    async def lease(self, plan: str, epoch: int, want: int, short: bool = False) -> pb.LeaseReply:
        """Ask for admission credits; fewer than wanted may be granted, even none.

        ``short`` says that requests found none since the last lease.
        """
        request = pb.LeaseRequest(plan=plan, epoch=epoch, want=want, short=short)
        reply: pb.LeaseReply = await self.call("Lease", request, timeout_s=_LEASE_TIMEOUT_S)
        return reply

    async def profile(self, request: pb.ProfileRequest) -> pb.ProfileReply:
        """Times of running a blob of the node's store as a stage."""
        timeout_s = _LOAD_TIMEOUT_S + _paced_s(request.budget_ms, request.share)
        reply: pb.ProfileReply = await self.call("Profile", request, timeout_s=timeout_s)
        return reply

    async def profile_codecs(self, request: pb.ProfileCodecsRequest) -> list[CodecSpeed]:
        """How fast the node encodes and decodes sample tensors, codec by codec."""
        timeout_s = _LOAD_TIMEOUT_S + len(request.codecs) * _paced_s(request.budget_ms, request.share)
        reply = await self.call("ProfileCodecs", request, timeout_s=timeout_s)
        return [
            CodecSpeed(codec=c.codec, encode_mb_s=c.encode_mb_s, decode_mb_s=c.decode_mb_s)
            for c in reply.codecs
        ]

    async def probe_peer(self, request: pb.ProbePeerRequest) -> Probed:
        """What the node measures of its link to another one; up is from the node asked."""
        timeout_s = _LOAD_TIMEOUT_S + _paced_s(request.budget_ms, request.share)
        reply = await self.call("ProbePeer", request, timeout_s=timeout_s)
        samples = [Sample(s.up_bytes, s.down_bytes, s.ms) for s in reply.samples]
        return Probed(samples, reply.lost)

    async def condition(self) -> Condition:
        """How the node's device is, and what its answers are like; raises `InputError` for what cannot be."""
        reply = await self.call("Condition", pb.ConditionRequest())
        return decode_condition(reply.json, self.name)

    async def feedback(self, request: pb.FeedbackRequest) -> pb.FeedbackReply:
        """Say whether an answer of the node was right."""
        reply: pb.FeedbackReply = await self.call("Feedback", request, timeout_s=_LEASE_TIMEOUT_S)
        return reply

    async def put_revocations(self, crl: bytes) -> int:
        """Hand on the authority's revocation list; the number of the one that the node goes by now."""
        request = pb.PutRevocationsRequest(crl=crl)
        reply = await self.call("PutRevocations", request, timeout_s=_LEASE_TIMEOUT_S)
        return int(reply.number)

    async def put_trial(self, trial: Trial) -> None:
        """Announce a trial of a plan, its next phase or its end; raises `Conflict` for an older one."""
        await self.call("PutTrial", pb.PutTrialRequest(trial=trial_message(trial)))

    async def observe(self, plan: PlanName, known: Trial | None, counts: Counts | None) -> Trial | None:
        """Say what was seen of a plan's trial, and ask for it; None where there is none.

        Of one that is known, candidate and bounds are not said again.
        """
        request = pb.ObserveRequest(
            plan=plan,
            known_number=known.number if known is not None else 0,
            known_phase=known.phase if known is not None else "",
            counts=counts_message(counts) if counts is not None else None,
        )
        reply = await self.call("Observe", request, timeout_s=_LEASE_TIMEOUT_S, patient=True)
        return trial_of(reply.trial)

    async def get_trial(self, plan: PlanName) -> tuple[Trial | None, dict[str, Counts]]:
        """A plan's trial, without candidate and bounds, and what its requesters have seen, by name.

        An operator or a controller that asks keeps the trial alive on the node.
        """
        reply = await self.call("GetTrial", pb.GetTrialRequest(plan=plan), timeout_s=_LEASE_TIMEOUT_S)
        return trial_of(reply.trial), {one.requester: counts_of(one.counts) for one in reply.counts}

    async def missing(self, digests: list[Digest]) -> dict[Digest, int]:
        """Blobs that the node lacks, with the bytes of each that it holds already."""
        reply = await self.call("BlobStatus", pb.BlobStatusRequest(sha256=digests))
        return {
            d: held
            for d, held, complete in zip(digests, reply.bytes, reply.complete, strict=True)
            if not complete
        }

    async def drop_blobs(self, digests: list[Digest]) -> int:
        """Remove blobs that no loaded plan of the node uses; how many were there."""
        return int((await self.call("DropBlobs", pb.DropBlobsRequest(sha256=digests))).dropped)

    async def current_plan(self, name: PlanName) -> tuple[Epoch, Plan]:
        """Epoch and plan that are current under a name; raises `NotLoaded` if there is none."""
        reply = await self.call("GetPlan", pb.GetPlanRequest(plan=name))
        return Epoch(reply.epoch), from_json(reply.json)

    async def put_blob(
        self, sha256: Digest, data: bytes, offset: int = 0, progress: Progress | None = None
    ) -> None:
        """Send a blob from where the node's part ends; the node checks the digest."""
        view = memoryview(data)
        while True:
            part = bytes(view[offset : offset + _PART_BYTES])
            request = pb.PutBlobRequest(sha256=sha256, total_bytes=len(data), offset=offset, data=part)
            reply = await self.call("PutBlob", request, channel=Channel.BLOBS)
            if progress:
                progress(len(part))
            offset = reply.bytes
            if reply.complete:
                return
            await asyncio.sleep(0)


def _paced_s(budget_ms: float, share: float) -> float:
    """How long a measurement may take with its pauses."""
    return budget_ms / 1000 / (share or 1.0)
