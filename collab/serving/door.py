"""The front door: plans, who may ask, and a server for each protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collab.errors import BackendError, Refused
from collab.serving.access import Access
from collab.serving.grpc_server import GrpcServer
from collab.serving.limits import ServeLimits
from collab.serving.offers import Offers, OpenPlan, ReadPlan
from collab.serving.tls import Certificates, Loaded, TlsFiles
from collab.transport.base import is_loopback, split_host_port

if TYPE_CHECKING:
    from collab.serving.gate import App


@dataclass(frozen=True)
class DoorSettings:
    """How a front door serves.

    Attributes:
        listen: HOST:PORT of REST; None serves none.
        grpc: HOST:PORT of gRPC; None serves none.
        bundles: by plan, the files that may be its packaged model.
        open_network: whether to listen off loopback without TLS and keys.
    """

    listen: str | None
    grpc: str | None
    access: Access
    limits: ServeLimits = ServeLimits()
    tls: TlsFiles | None = None
    bundles: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    open_network: bool = False


def check_places(settings: DoorSettings) -> None:
    """Raise `Refused` where others could read or ask what they should not."""
    for option, place in (("--listen", settings.listen), ("--grpc", settings.grpc)):
        if place is None or settings.open_network or is_loopback(split_host_port(place)[0]):
            continue
        if settings.tls is None:
            raise Refused(
                f"{option} {place}: is off loopback and not encrypted; give --tls-cert and --tls-key, "
                "or --open-network where something in front does that"
            )
        if settings.access.keys is None and settings.tls.client_ca is None:
            raise Refused(
                f"{option} {place}: is off loopback and anybody could ask; give --api-keys or --client-ca, "
                "or --open-network"
            )


class FrontDoor:
    """Serves plans; an asynchronous context manager.

    ``page`` answers, at the address of REST, what is none of the protocol's paths.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: ReadPlan,
        open_plan: OpenPlan,
        settings: DoorSettings,
        page: App | None = None,
    ) -> None:
        check_places(settings)
        self.offers = Offers(files, read, open_plan)
        self._settings = settings
        self._page = page
        self._stack = AsyncExitStack()
        self._tls: Certificates | None = None
        self.listen = ""
        """URL of REST."""
        self.grpc = ""
        """HOST:PORT of gRPC."""

    async def __aenter__(self) -> FrontDoor:
        """Open the plans and listen; raises what either raises."""
        settings = self._settings
        if settings.tls is not None:
            self._tls = Certificates(await asyncio.to_thread(settings.tls.load))
        async with AsyncExitStack() as stack:
            await self.offers.start()
            stack.push_async_callback(self.offers.close)
            if settings.grpc is not None:
                calls = GrpcServer(self.offers, settings.grpc, settings.access, settings.limits, self._tls)
                self.grpc = (await stack.enter_async_context(calls)).address
            if settings.listen is not None:
                # Importing the web framework reads files.
                server = await asyncio.to_thread(self._rest, settings.listen)
                self.listen = (await stack.enter_async_context(server)).address
            self._stack = stack.pop_all()
        return self

    def renew(self, loaded: Loaded) -> None:
        """Show new connections another certificate, and ask for theirs of another authority."""
        assert self._tls is not None, "it serves with TLS"
        self._tls.renew(loaded)

    def _rest(self, place: str) -> Any:
        settings = self._settings
        try:
            from collab.serving.files import FileDesk
            from collab.serving.gate import Beside, Gate
            from collab.serving.http_server import HttpServer
            from collab.serving.rest import Rest, application
        except ModuleNotFoundError as error:
            raise BackendError(
                f"REST needs {error.name}, which is missing: pip install 'collab[serve]'; or --listen none"
            ) from error
        app = application(Rest(self.offers, settings.limits, FileDesk(settings.bundles)))
        gate = Gate(app, settings.access, settings.limits, time.monotonic)
        served = gate if self._page is None else Beside(gate, self._page)
        return HttpServer(served, place, settings.limits, self._tls)

    async def __aexit__(self, *failure: Any) -> None:
        """Stop listening, let requests finish, close the plans."""
        await self._stack.aclose()
