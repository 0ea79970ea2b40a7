"""The control verbs, health and reflection as plain gRPC services, for tools."""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from collab.codec.verbs import VERBS
from collab.core.ids import NodeName
from collab.errors import (
    CollabError,
    Conflict,
    InputError,
    IntegrityError,
    LimitExceeded,
    NotLoaded,
    Overloaded,
    ProtocolError,
    Refused,
)
from collab.node.service import NodeService
from collab.node.verbs import Caller
from collab.transport.grpc import peer_principal

SERVICE: Final = "collab.v1.Control"
LINK_SERVICE: Final = "collab.v1.Link"
_TOOL: Final = Caller(NodeName("grpc-tool"), "operator")

_STATUS: Final[tuple[tuple[type[CollabError], grpc.StatusCode], ...]] = (
    (LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotLoaded, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ABORTED),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (IntegrityError, grpc.StatusCode.DATA_LOSS),
    (CollabError, grpc.StatusCode.FAILED_PRECONDITION),
)
"""Statuses by error; the first that fits."""


class _ControlService(grpc.GenericRpcHandler):
    """Unary calls of ``collab.v1.Control``; the bodies are those of calls over links."""

    def __init__(self, service: NodeService) -> None:
        self._service = service

    def service(self, handler_call_details: Any) -> Any:
        _, package, verb = [*handler_call_details.method.split("/"), "", ""][:3]
        if package != SERVICE or verb not in VERBS:
            return None

        async def call(body: bytes, context: Any) -> bytes:
            try:
                proven = peer_principal(context, self._service.security)
                caller = _TOOL if proven is None else Caller(proven.name, proven.role)
                return await self._service.dispatcher.call(caller, verb, body)
            except CollabError as error:
                code = next(status for kind, status in _STATUS if isinstance(error, kind))
                await context.abort(code, f"{error.code}: {error}")
                raise

        return grpc.unary_unary_rpc_method_handler(call)


class Facade:
    """Adds the services to a gRPC server before it starts."""

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._health = health.aio.HealthServicer()

    def __call__(self, server: grpc.aio.Server) -> None:
        """Add control, health and reflection."""
        server.add_generic_rpc_handlers((_ControlService(self._service),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, LINK_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def serving(self, serves: bool) -> None:
        """Tell health checks whether the node takes requests."""
        status = health_pb2.HealthCheckResponse
        for name in (health.OVERALL_HEALTH, SERVICE, LINK_SERVICE):
            await self._health.set(name, status.SERVING if serves else status.NOT_SERVING)
