"""The gRPC protocol over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from collab.codec.pb import grpc_service_pb2 as pb
from collab.errors import NodeLost, Overloaded, StageFailed
from collab.security.api_keys import ROLES, ApiKey, add_api_key, read_api_keys
from collab.serving.access import Access
from collab.serving.door import DoorSettings, FrontDoor
from collab.serving.limits import ServeLimits
from collab.serving.rate import RateLimit
from tests.grpc_runtime import grpc_runtime
from tests.unit.serving.stand_in import Double, opener

__all__ = ["grpc_runtime"]

KEY = tuple[dict[str, str], tuple[ApiKey, ...]]


class Asker:
    """Calls verbs by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, verb: str, request: Any, **options: Any) -> Any:
        kind = getattr(pb, type(request).__name__.removesuffix("Request") + "Response")
        path = f"/inference.GRPCInferenceService/{verb}"
        call = self._channel.unary_unary(path, type(request).SerializeToString, kind.FromString)
        return await call(request, **options)

    def stream(self, requests: Any) -> Any:
        return self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )(requests)


@asynccontextmanager
async def serving(
    access: Access = Access(), limits: ServeLimits = ServeLimits(), client: Double | None = None
) -> AsyncIterator[Asker]:
    read, open_plan = opener({"m": client or Double()})
    settings = DoorSettings(None, "127.0.0.1:0", access, limits)
    async with (
        FrontDoor([Path("m")], read, open_plan, settings) as door,
        grpc.aio.insecure_channel(door.grpc) as channel,
    ):
        yield Asker(channel)


def infer(rows: int = 1, model: str = "m", **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    request.raw_input_contents.append(np.ones((rows, 2), np.float32).tobytes())
    return request


async def status(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return str(failure.value.code().name)


async def test_each_verb_answers_as_the_protocol_says():
    async with serving() as ask:
        assert (await ask("ServerLive", pb.ServerLiveRequest())).live
        assert (await ask("ServerReady", pb.ServerReadyRequest())).ready
        assert (await ask("ModelReady", pb.ModelReadyRequest(name="m", version="3"))).ready
        assert not (await ask("ModelReady", pb.ModelReadyRequest(name="m", version="9"))).ready
        assert (await ask("ServerMetadata", pb.ServerMetadataRequest())).name == "collab"
        model = await ask("ModelMetadata", pb.ModelMetadataRequest(name="m"))
        assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, 2])]
        answer = await ask("ModelInfer", infer(3, id="7"))
        assert (answer.id, answer.model_version, list(answer.outputs[0].shape)) == ("7", "3", [3, 2])
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2] * 6
        config = (await ask("ModelConfig", pb.ModelConfigRequest(name="m"))).config
        assert (config.max_batch_size, config.output[0].data_type) == (256, pb.TYPE_FP32)
        (stats,) = (await ask("ModelStatistics", pb.ModelStatisticsRequest())).model_stats
        assert (stats.inference_count, stats.execution_count) == (3, 3), "a batch is three requests"
        assert (stats.inference_stats.success.count, stats.batch_stats[0].compute_infer.count) == (1, 3)
        assert await status(ask("ModelStatistics", pb.ModelStatisticsRequest(name="n"))) == "NOT_FOUND"
        listed = await ask("RepositoryIndex", pb.RepositoryIndexRequest())
        assert [(one.name, one.state) for one in listed.models] == [("m", "READY")]
        await ask("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="m"))
        assert not (await ask("ModelReady", pb.ModelReadyRequest(name="m"))).ready
        await ask("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="m"))
        assert (await ask("ModelReady", pb.ModelReadyRequest(name="m"))).ready


async def test_errors_have_their_status():
    client = Double()
    async with serving(client=client, limits=ServeLimits(body_bytes=1000)) as ask:
        assert await status(ask("ModelInfer", infer(model="n"))) == "NOT_FOUND"
        assert await status(ask("ModelInfer", pb.ModelInferRequest(model_name="m"))) == "INVALID_ARGUMENT"
        assert await status(ask("ModelInfer", infer(300_000))) == "RESOURCE_EXHAUSTED"
        assert await status(ask("TraceSetting", pb.ServerLiveRequest())) == "UNIMPLEMENTED"
        for error, name in {
            Overloaded("full"): "UNAVAILABLE",
            NodeLost("node 'a'"): "UNAVAILABLE",
            StageFailed("stage 's'"): "INTERNAL",
        }.items():
            client.error = error
            assert await status(ask("ModelInfer", infer())) == name


async def test_a_call_has_no_more_time_than_grpc_gives_it():
    client = Double()
    async with serving(client=client) as ask:
        await ask("ModelInfer", infer(), timeout=5.0)
    assert client.asked[0][0] < 6, "less than the default"


@pytest.mark.parametrize("way", ["call", "stream"])
async def test_what_is_asked_is_withdrawn_when_its_client_goes_away(way: str):
    client = Double(granted=1)
    client.hold = asyncio.Event()
    async with serving(client=client) as ask:

        async def stream() -> None:
            async for _ in ask.stream(iter([infer(), infer()])):
                pass

        asked = asyncio.ensure_future(ask("ModelInfer", infer()) if way == "call" else stream())
        await asyncio.wait_for(client.was_asked.wait(), 5)
        asked.cancel()
        await asyncio.wait_for(client.withdrawn.wait(), 5)
        client.hold.set()
        assert (await ask("ModelInfer", infer(), timeout=5)).model_name == "m"
    assert len(client.asked) == 2


async def test_a_stream_answers_in_order_and_outlives_a_request_that_fails():
    async with serving() as ask:
        requests = [infer(n % 3 + 1, id=str(n)) for n in range(50)]
        requests[7] = infer(model="n", id="7")
        answers = [answer async for answer in ask.stream(iter(requests))]
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(50)]
    assert [n for n, answer in enumerate(answers) if answer.error_message] == [7]
    assert "'n' is not served here" in answers[7].error_message


@pytest.fixture
def keys(tmp_path: Path) -> KEY:
    made = {role: add_api_key(tmp_path / "keys", role, role) for role in ROLES}
    return made, read_api_keys(tmp_path / "keys")


async def test_keys_and_rates_bind_here_too(keys: KEY):
    made, known = keys
    async with serving(Access(keys=known, rate=RateLimit(3))) as ask:
        assert (await ask("ServerLive", pb.ServerLiveRequest())).live
        assert await status(ask("ServerMetadata", pb.ServerMetadataRequest())) == "UNAUTHENTICATED"
        guessed = (("authorization", "Bearer collab-guessed"),)
        call = ask("ServerMetadata", pb.ServerMetadataRequest(), metadata=guessed)
        assert await status(call) == "UNAUTHENTICATED"
        viewer = (("authorization", f"Bearer {made['viewer']}"),)
        assert (await ask("ServerMetadata", pb.ServerMetadataRequest(), metadata=viewer)).name == "collab"
        assert await status(ask("ModelInfer", infer(), metadata=viewer)) == "PERMISSION_DENIED"

        async def read_one() -> None:
            async for _ in ask.stream(iter([infer()])):
                pass

        assert await status(read_one()) == "UNAUTHENTICATED"
        operator = (("x-api-key", made["operator"]),)
        for _ in range(3):
            await ask("ModelInfer", infer(), metadata=operator)
        assert await status(ask("ModelInfer", infer(), metadata=operator)) == "RESOURCE_EXHAUSTED"
