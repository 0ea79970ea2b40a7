"""Calls of a node's verbs of federated training over a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Digest
from collab.errors import ProtocolError
from collab.federated.orders import OrderId
from collab.link.mux import Channel

PART_BYTES: Final = 1 << 20
_PREPARE_S: Final = 120.0
"""Loading a model and its data, or decoding weights, may take this long."""
_MARGIN_S: Final = 15.0

Keep = Callable[[int, bytes], None]
"""Takes a part of a blob at an offset; called off the event loop."""


class TrainingControl:
    """A node's training, typed; raises what the node reports, or a `PeerError`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def describe(self, run: str, trainable: Digest) -> pb.DescribeTrainingReply:
        """What the node can do in a run."""
        request = pb.DescribeTrainingRequest(run=run, trainable=trainable)
        reply: pb.DescribeTrainingReply = await self._control.call(
            "DescribeTraining", request, timeout_s=_PREPARE_S
        )
        return reply

    async def offer(self, request: pb.OfferTrainingRequest) -> pb.OfferTrainingReply:
        """Ask the node to train or evaluate."""
        reply: pb.OfferTrainingReply = await self._control.call("OfferTraining", request)
        return reply

    async def begin(self, order: pb.TrainingOrder, parts: Sequence[pb.EncodedWeights]) -> pb.TrainingState:
        """Have the node do what it has accepted."""
        request = pb.BeginTrainingRequest(order=order, parts=parts)
        state: pb.TrainingState = (
            await self._control.call("BeginTraining", request, timeout_s=_PREPARE_S)
        ).state
        return state

    async def status(self, order: pb.TrainingOrder, wait_s: float) -> pb.TrainingState:
        """Where the work stands, as soon as it is over or after so long."""
        request = pb.TrainingStatusRequest(order=order, wait_ms=int(wait_s * 1000))
        limit_s = wait_s + _MARGIN_S
        reply = await self._control.call("TrainingStatus", request, timeout_s=limit_s, patient=True)
        state: pb.TrainingState = reply.state
        return state

    async def end(self, order: pb.TrainingOrder, *, counted: bool = False, leave: bool = False) -> None:
        """The order's update was counted, or is not wanted."""
        await self._control.call(
            "EndTraining", pb.EndTrainingRequest(order=order, counted=counted, leave=leave)
        )

    async def mask(self, order: pb.TrainingOrder, message: bytes) -> bytes:
        """The answer to a message of a secure sum."""
        request = pb.MaskTrainingRequest(order=order, message=message)
        reply: pb.MaskTrainingReply = await self._control.call("MaskTraining", request)
        return reply.message

    async def get_blob(self, sha256: Digest, size: int, offset: int, keep: Keep) -> None:
        """Read a blob from an offset to its end; who has all of it checks the digest.

        Raises `ProtocolError` for a blob of another size than was announced.
        """
        while offset < size:
            request = pb.GetBlobRequest(sha256=sha256, offset=offset, limit=PART_BYTES)
            reply = await self._control.call("GetBlob", request, channel=Channel.BLOBS)
            if reply.total_bytes != size or not 0 < len(reply.data) <= min(PART_BYTES, size - offset):
                raise ProtocolError(
                    f"node {self._control.name!r}: blob {sha256[:12]} is not of the {size} bytes announced"
                )
            await asyncio.to_thread(keep, offset, reply.data)
            offset += len(reply.data)
            await asyncio.sleep(0)


def order_message(order: OrderId, evaluate: bool = False) -> pb.TrainingOrder:
    """An order as a message."""
    return pb.TrainingOrder(run=order.run, round=order.round, attempt=order.attempt, evaluate=evaluate)
