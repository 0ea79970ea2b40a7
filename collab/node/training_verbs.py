"""The control verbs of federated training: checks who calls and what comes, then asks `NodeTraining`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import check_digest, check_name
from collab.errors import LimitExceeded, Refused
from collab.node.stages import Stages
from collab.node.training import NodeTraining
from collab.node.training_masked import MAX_MESSAGE_BYTES
from collab.node.training_offer import order_of, read_offer
from collab.node.training_work import Part
from collab.node.verbs import Caller, Implementation

MAX_PART_BYTES: Final = 1 << 20
"""Most that `GetBlob` gives at a time."""
MAX_PARTS: Final = 4
"""Weights that one order needs at most: the model's, the control variate's, and room."""


class TrainingVerbs:
    """One method for each verb."""

    def __init__(self, training: NodeTraining, stages: Stages) -> None:
        self._training = training
        self._stages = stages

    def implementations(self) -> dict[str, Implementation]:
        """Methods by verb."""
        table: dict[str, Callable[[Caller, Any], Awaitable[Any]]] = {
            "GetBlob": self.get_blob,
            "DescribeTraining": self.describe,
            "OfferTraining": self.offer,
            "BeginTraining": self.begin,
            "TrainingStatus": self.status,
            "EndTraining": self.end,
            "MaskTraining": self.mask,
        }
        return table

    async def get_blob(self, caller: Caller, request: pb.GetBlobRequest) -> pb.GetBlobReply:
        """A part of a blob; other nodes may read no more than the update that was made for them."""
        self._training.check(caller, "GetBlob")
        sha256 = check_digest(request.sha256, "GetBlob.sha256:")
        if caller.role == "node" and not self._training.is_update(sha256):
            raise Refused(f"GetBlob: blob {sha256[:12]} is not for {caller.name!r}")
        limit = min(request.limit or MAX_PART_BYTES, MAX_PART_BYTES)
        read = self._stages.store.read
        total, data = await self._stages.off_loop(read, sha256, request.offset, limit)
        return pb.GetBlobReply(total_bytes=total, data=data)

    async def describe(self, caller: Caller, request: pb.DescribeTrainingRequest) -> pb.DescribeTrainingReply:
        """What this node can do in a run."""
        self._training.check(caller, "DescribeTraining")
        trainable = request.trainable and check_digest(request.trainable, "DescribeTraining.trainable:")
        if request.run:
            check_name(request.run, "DescribeTraining.run:")
        return await self._training.describe(request.run, trainable or None)

    async def offer(self, caller: Caller, request: pb.OfferTrainingRequest) -> pb.OfferTrainingReply:
        """Take an order or decline it."""
        self._training.check(caller, "OfferTraining")
        return await self._training.offer(read_offer(request))

    async def begin(self, caller: Caller, request: pb.BeginTrainingRequest) -> pb.BeginTrainingReply:
        """Do the work of an order that was accepted."""
        self._training.check(caller, "BeginTraining")
        if len(request.parts) > MAX_PARTS:
            raise LimitExceeded(f"BeginTraining: {len(request.parts)} parts, over {MAX_PARTS}")
        parts = [
            Part(
                check_digest(part.weights, "BeginTraining.weights:"),
                check_digest(part.blob, "BeginTraining.blob:"),
                check_digest(part.base, "BeginTraining.base:") if part.base else None,
            )
            for part in request.parts
        ]
        order = order_of(request.order)
        return pb.BeginTrainingReply(state=await self._training.begin(order, request.order.evaluate, parts))

    async def status(self, caller: Caller, request: pb.TrainingStatusRequest) -> pb.TrainingStatusReply:
        """Where an order stands."""
        self._training.check(caller, "TrainingStatus")
        order, wait_s = order_of(request.order), request.wait_ms / 1000
        state = await self._training.status(order, request.order.evaluate, wait_s)
        return pb.TrainingStatusReply(state=state)

    async def end(self, caller: Caller, request: pb.EndTrainingRequest) -> pb.EndTrainingReply:
        """An order is over."""
        self._training.check(caller, "EndTraining")
        order = order_of(request.order)
        await self._training.end(order, request.order.evaluate, request.counted, request.leave)
        return pb.EndTrainingReply()

    async def mask(self, caller: Caller, request: pb.MaskTrainingRequest) -> pb.MaskTrainingReply:
        """One message of a secure sum, and the answer to it."""
        if len(request.message) > MAX_MESSAGE_BYTES:
            raise LimitExceeded(
                f"MaskTraining: {len(request.message)} bytes, at most {MAX_MESSAGE_BYTES} are taken"
            )
        said = await self._training.mask(order_of(request.order), request.message)
        return pb.MaskTrainingReply(message=said)
