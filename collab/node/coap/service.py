"""Serves foreign CoAP clients at an address of a node."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import aiocoap

from collab.errors import Refused
from collab.node.coap.endpoint import close_endpoint, open_endpoint
from collab.node.coap.jobs import Jobs
from collab.node.coap.resources import Resources
from collab.node.coap.running import MakeLinks, Runner
from collab.node.coap.site import Site
from collab.node.service import NodeService
from collab.transport.aio import TaskGroup
from collab.transport.base import Security, is_loopback, split_host_port

if TYPE_CHECKING:
    from collab.node.coap.oscore import ObjectSecurity

log = logging.getLogger("collab.node.coap")


class CoapService:
    """A CoAP server of one node's resources.  Use as an asynchronous context manager.

    With ``security`` it is ``coaps+tcp`` only and clients prove who they are; without it,
    ``coap`` and ``coap+tcp``, off loopback only where ``insecure_networks`` allows.
    ``contexts`` adds both for clients that protect what they ask (RFC 8613), whoever can
    reach them.  ``make_links`` makes the links over which plans are run.
    """

    def __init__(
        self,
        node: NodeService,
        place: str,
        security: Security | None,
        insecure_networks: bool,
        make_links: MakeLinks,
        contexts: ObjectSecurity | None = None,
    ) -> None:
        self.endpoints: list[str] = []
        """Where clients can reach it, once entered."""
        self._node = node
        self._host, self._port = split_host_port(place)
        self._security = security
        self._insecure_networks = insecure_networks
        self._make_links = make_links
        self._contexts = contexts
        self._stack = AsyncExitStack()
        if security is None and not insecure_networks and not is_loopback(self._host):
            raise Refused(
                f"--coap {place}: this is not loopback and this node has no identity; enrol it with "
                "'collab cluster join TOKEN', or, on a network that you trust, confirm with "
                "--insecure --insecure-network"
            )

    async def __aenter__(self) -> CoapService:
        await self._stack.__aenter__()
        try:
            runner = await self._stack.enter_async_context(Runner(self._node, self._make_links))
            tasks = await self._stack.enter_async_context(TaskGroup())
            jobs = Jobs(tasks.create_task)
            self._stack.callback(jobs.close)
            if self._contexts is not None:
                await self._stack.enter_async_context(self._contexts)
            site = Site(
                Resources(self._node, runner, jobs, self._security is not None), contexts=self._contexts
            )
            plain = self._security is None or self._contexts is not None
            context, endpoints = await open_endpoint(site, self._host, self._port, self._security, plain)
            self._stack.push_async_callback(self._close, context, site)
            self.endpoints += endpoints
        except BaseException:
            await self._stack.aclose()
            raise
        log.info("CoAP clients are served at %s", ", ".join(self.endpoints))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.endpoints.clear()
        await self._stack.aclose()

    async def _close(self, context: aiocoap.Context, site: Site) -> None:
        await site.close()
        await close_endpoint(context)
