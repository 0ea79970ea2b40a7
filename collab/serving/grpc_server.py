"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from collab.codec.pb import grpc_service_pb2 as pb
from collab.errors import CollabError, ConfigError, PeerUnreachable
from collab.serving.about import (
    EXTENSIONS,
    NAME,
    VERSION,
    model_config,
    model_metadata,
    model_statistics,
)
from collab.serving.access import Access, Action, bearer
from collab.serving.grpc_body import parse_request, put_parameters, write_response
from collab.serving.inference import answer
from collab.serving.limits import ServeLimits
from collab.serving.offers import Offers
from collab.serving.status import one_line, status_of
from collab.serving.tls import Certificates
from collab.telemetry.context import SERVED, parse_traceparent
from collab.transport.base import split_host_port

SERVICE: Final = "inference.GRPCInferenceService"
_ENDPOINT_ROOM: Final = 1 << 20
"""Bytes of a message beside its tensors."""
_STOP_S: Final = 5.0
STREAM: Final = "ModelStreamInfer"
_OPEN: Final = frozenset({"ServerLive", "ServerReady"})


Verb = Callable[[Any], Awaitable[Any]]


class _Calls:
    """What each unary verb answers."""

    def __init__(self, offers: Offers, limits: ServeLimits) -> None:
        self._offers = offers
        self._limits = limits
        self.unary: dict[str, tuple[Any, Action, Verb]] = {
            "ServerLive": (pb.ServerLiveRequest, "look", self._live),
            "ServerReady": (pb.ServerReadyRequest, "look", self._ready),
            "ModelReady": (pb.ModelReadyRequest, "look", self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, "look", self._server),
            "ModelMetadata": (pb.ModelMetadataRequest, "look", self._model),
            "ModelConfig": (pb.ModelConfigRequest, "look", self._config),
            "ModelStatistics": (pb.ModelStatisticsRequest, "look", self._statistics),
            "ModelInfer": (pb.ModelInferRequest, "infer", self.infer),
            "RepositoryIndex": (pb.RepositoryIndexRequest, "look", self._index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, "operate", self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, "operate", self._unload),
        }
        """Request, what its caller needs to be allowed, and the answer, by verb."""

    async def _live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._offers.ready)

    async def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._offers.is_ready(request.name, request.version))

    async def _server(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=NAME, version=VERSION, extensions=EXTENSIONS)

    async def _model(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        told = model_metadata(self._offers.get(request.name, request.version))
        for side in ("inputs", "outputs"):
            told[side] = [pb.ModelMetadataResponse.TensorMetadata(**tensor) for tensor in told[side]]
        return pb.ModelMetadataResponse(**told)

    async def _config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(self._offers.get(request.name, request.version)))

    async def _statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        offers = self._offers.some(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=model_statistics(offers))

    async def infer(
        self, request: pb.ModelInferRequest, left_s: float | None = None
    ) -> pb.ModelInferResponse:
        """One call; ``left_s`` is the time that gRPC's own deadline leaves."""
        offer = self._offers.get(request.model_name, request.model_version)
        call = parse_request(request, offer.plan, self._limits.deadline_s)
        if left_s is not None and left_s < call.wishes.deadline_s:
            call = replace(call, wishes=replace(call.wishes, deadline_s=max(left_s, 0.0)))
        return write_response(await answer(offer, call))

    async def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        found = pb.RepositoryIndexResponse()
        for one in self._offers.index(request.ready):
            found.models.add(**one._asdict())
        return found

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        await self._offers.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        await self._offers.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


class _Service(grpc.GenericRpcHandler):
    """Hands each call to its verb, once its caller is known and may ask."""

    def __init__(self, calls: _Calls, access: Access, limits: ServeLimits) -> None:
        self._calls = calls
        self._access = access
        self._limits = limits
        self._handlers = {
            f"/{SERVICE}/{verb}": self._handler(verb, *about) for verb, about in calls.unary.items()
        }
        self._handlers[f"/{SERVICE}/{STREAM}"] = grpc.stream_stream_rpc_method_handler(
            self._stream, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
        )

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; None for one that is not ours."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, verb: str, kind: Any, action: Action, ask: Verb) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                self._admit(verb, action, context)
                if verb == "ModelInfer":
                    return await self._calls.infer(request, context.time_remaining())
                return await ask(request)
            except CollabError as error:
                await _abort(context, error)

        # Every answer is a message, whichever.
        return grpc.unary_unary_rpc_method_handler(
            call, kind.FromString, lambda message: message.SerializeToString()
        )

    def _admit(self, verb: str, action: Action, context: Any) -> None:
        if verb in _OPEN:
            return
        told = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        key = bearer(told.get("authorization"), told.get("x-api-key"))
        SERVED.set(parse_traceparent(told.get("traceparent", "")))
        self._access.admit(key, _address(context.peer()), time.monotonic()).check(action)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers in the order of the requests, of which several are under way at a time."""
        waiting: asyncio.Queue[asyncio.Task[Any] | CollabError | None] = asyncio.Queue(
            self._limits.stream_calls
        )
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for request in requests:
                    self._admit(STREAM, "infer", context)
                    task = asyncio.ensure_future(self._one(request, context))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    await waiting.put(task)
                await waiting.put(None)
            except CollabError as error:
                await waiting.put(error)

        reader = asyncio.ensure_future(read())
        try:
            while (task := await waiting.get()) is not None:
                if isinstance(task, CollabError):
                    await _abort(context, task)
                else:
                    # When the client goes away this is cancelled, and then all of its calls at once.
                    await asyncio.wait((task,))
                    yield task.result()
        finally:
            left = [reader, *tasks]
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _one(self, request: Any, context: Any) -> Any:
        try:
            return pb.ModelStreamInferResponse(
                infer_response=await self._calls.infer(request, context.time_remaining())
            )
        except CollabError as error:
            # The stream goes on; the answer says which request failed.
            failed = pb.ModelInferResponse(id=request.id[:256], model_name=request.model_name[:256])
            put_parameters(failed.parameters, [("triton_final_response", True)])
            return pb.ModelStreamInferResponse(error_message=one_line(error), infer_response=failed)


async def _abort(context: Any, error: CollabError) -> None:
    await context.abort(getattr(grpc.StatusCode, status_of(error).grpc), one_line(error))


def _address(peer: str) -> str:
    """A peer's address without its port, from ``ipv4:HOST:PORT`` or ``ipv6:[HOST]:PORT``."""
    return peer.partition(":")[2].rpartition(":")[0]


class GrpcServer:
    """Serves the protocol, health and reflection at one address; an asynchronous context manager."""

    def __init__(
        self, offers: Offers, place: str, access: Access, limits: ServeLimits, tls: Certificates | None = None
    ) -> None:
        self._place = place
        self._tls = tls
        self._limits = limits
        self._service = _Service(_Calls(offers, limits), access, limits)
        self._server: Any = None
        self.address = ""
        """Where it serves, as HOST:PORT."""

    async def __aenter__(self) -> GrpcServer:
        """Listen; raises `ConfigError` for certificates, `PeerUnreachable` for an address in use."""
        host, port = split_host_port(self._place)
        most = self._limits.body_bytes + _ENDPOINT_ROOM
        options = (
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self._limits.calls),
            ("grpc.max_metadata_size", self._limits.header_bytes),
            ("grpc.so_reuseport", 0),
        )
        credentials = None if self._tls is None else self._tls.grpc_credentials()
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._limits.calls)
        server.add_generic_rpc_handlers((self._service,))
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if credentials is None:
                bound = server.add_insecure_port(place)
            else:
                bound = server.add_secure_port(place, credentials)
        except RuntimeError as error:
            raise PeerUnreachable(f"--grpc {self._place}: cannot listen there; is it in use?") from error
        if not bound:
            raise ConfigError("--tls-cert, --tls-key, --client-ca: cannot be used for gRPC")
        await server.start()
        for name in (health.OVERALL_HEALTH, SERVICE):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        return self

    async def __aexit__(self, *failure: Any) -> None:
        """Take nothing new, let calls finish for a while, and end."""
        if self._server is not None:
            await self._server.stop(_STOP_S)
