"""One session over one connection: hello, channels, calls, signs of life."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from collab.codec.envelope import MAX_TEXT
from collab.codec.pb import link_pb2 as pb
from collab.codec.wire import Buffer, clean_text, frame, unframe
from collab.core.ids import NodeName
from collab.core.token import Fault
from collab.errors import (
    CollabError,
    LimitExceeded,
    LinkLost,
    Overloaded,
    PeerUnreachable,
    ProtocolError,
    Refused,
)
from collab.link.hello import Identity, decode_hello, encode_hello, refusal_text
from collab.link.mux import Channel, Mux, MuxLimits, Type, head, parse
from collab.link.suspicion import Action as Sign
from collab.link.suspicion import Became, Detector, Health, Probe, SuspicionConfig
from collab.transport.aio import TaskGroup, timeout
from collab.transport.base import Connection

MAX_REFUSALS: Final = 4096
"""Replies to refused calls that may wait to be sent."""
CLOSE_TIMEOUT_S: Final = 1.0

log = logging.getLogger("collab.link")


@dataclass(frozen=True)
class LinkConfig:
    """Times and bounds of a link; times in seconds."""

    hello_timeout_s: float = 5.0
    ping_interval_s: float = 2.0
    silence_limit_s: float = 10.0
    """A peer that sends nothing for this long is taken for dead."""
    suspicion: SuspicionConfig = SuspicionConfig()
    """When a silent peer is suspected before that."""
    call_timeout_s: float = 30.0
    calls_at_once: int = 256
    """Calls of the peer that are served at a time; a reply counts until it is sent."""
    mux: MuxLimits = MuxLimits()


class Handler(Protocol):
    """What happens with what arrives; called in the event loop."""

    def link_up(self, link: Link) -> None:
        """The peer has said hello and can be found."""

    def link_down(self, link: Link, error: CollabError) -> None:
        """The link has ended; called once for each `link_up`."""

    def tensors(self, link: Link, message: Buffer) -> None:
        """An envelope arrived; errors end the link."""

    def call(self, link: Link, verb: str, body: memoryview) -> Awaitable[bytes]:
        """Serve a call; errors of this package travel back to the caller."""
        ...

    def link_suspected(self, link: Link) -> None:
        """The peer is silent longer than loss explains; the link stays open, others are better now."""
        return

    def link_recovered(self, link: Link) -> None:
        """A suspected peer was heard again."""
        return

    def awaits(self, link: Link) -> bool:
        """Whether somebody waits for the peer, beyond calls and messages on the link itself.

        Asked at each sign of life; `Link.attend` says that it has become so.
        """
        return False


def now_us() -> int:
    """Local monotonic time in microseconds."""
    return time.monotonic_ns() // 1000


class Link:
    """A session with one peer; made by `Links`, used by everybody above.

    Messages on one channel arrive once each; within control in order; a large
    tensor message may be overtaken by a smaller one.  Nothing survives the link:
    whoever waits on it gets `LinkLost`.
    """

    def __init__(
        self,
        connection: Connection,
        identity: Identity,
        handler: Handler,
        config: LinkConfig,
        *,
        dialled: bool = False,
    ) -> None:
        self.dialled = dialled
        """Whether this end dialled the peer's own address."""
        self.peer = Identity(NodeName(""), "")
        self.connection = connection
        self.rtt_us = 0
        """Smallest round trip seen, in µs; 0 before the first."""
        self._me = identity
        self._handler = handler
        self._config = config
        self._mux = Mux(connection.max_frame_bytes, config.mux)
        self._wake = asyncio.Event()
        self._ended: CollabError | None = None
        self._calls: dict[int, asyncio.Future[memoryview]] = {}
        self._patient = 0
        """Calls among them that may be long without an answer."""
        self._next_call = 0
        self._serving = 0
        self._refusals = 0
        self._detector = self._begin_detecting()
        self._stirred = asyncio.Event()
        self._suspected = False
        self._closing = False
        self._over = asyncio.Event()
        self._bye_sent = False

    @property
    def ended(self) -> CollabError | None:
        """Why the link ended; None while it lives."""
        return self._ended

    @property
    def alive(self) -> bool:
        """Whether the peer has said hello and the link has not ended."""
        return bool(self.peer.name) and self._ended is None

    @property
    def health(self) -> Health:
        """Whether the peer lives, is slow, suspected or dead."""
        return self._detector.health if self._ended is None else Health.DEAD

    def attend(self) -> None:
        """Ping the peer closely for as long as somebody waits for it; see `Handler.awaits`."""
        if not self._detector.attentive:
            self._stirred.set()

    @property
    def kind(self) -> str:
        """Name of the transport that plans use for this link."""
        return self.connection.kind

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Bytes of messages sent and received so far."""
        return self._mux.sent_bytes, self._mux.received_bytes

    @property
    def rate_mbit_s(self) -> float | None:
        """What large messages to the peer reached lately, at best; None before there were any."""
        return self._detector.rate * 8 or None

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._mux.queued_bytes

    def send_tensors(self, parts: Sequence[Buffer]) -> None:
        """Queue an envelope; returns at once.  Raises `LinkLost` or `LimitExceeded`.

        The buffers must stay unchanged until they are sent.
        """
        if self._ended is not None:
            raise LinkLost(f"link to {self.peer.name!r} has ended: {self._ended}")
        self._mux.send(Channel.TENSORS, parts)
        self._wake.set()
        self.attend()

    async def call(
        self,
        verb: str,
        body: bytes = b"",
        *,
        channel: Channel = Channel.CONTROL,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> memoryview:
        """Call a verb of the peer and return the reply's body.

        A patient call is one that the peer answers when something has come about: it does not have the
        peer pinged as closely as one that is answered at once.

        Raises what the peer reports, `LinkLost`, `LimitExceeded` for a body that it does
        not take, or `PeerUnreachable` when no reply comes in time.
        """
        if self._ended is not None:
            raise LinkLost(f"link to {self.peer.name!r} has ended: {self._ended}")
        self._next_call += 1
        number = self._next_call
        reply: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        self._patient += patient
        limit = self._config.call_timeout_s if timeout_s is None else timeout_s
        try:
            self._send_call(channel, pb.CallHeader(id=number, verb=verb), body)
            if not patient:
                self.attend()
            async with timeout(limit):
                return await reply
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(
                f"node {self.peer.name!r} did not answer {verb} within {limit:g} s"
            ) from error
        finally:
            self._calls.pop(number, None)
            self._patient -= patient

    async def close(self) -> None:
        """Say good-bye after what is queued and end the connection; never raises.

        The peer ends it when it reads the good-bye, so nothing queued is lost; a peer
        that does not within `CLOSE_TIMEOUT_S` is not waited for.
        """
        if self._ended is None:
            self._closing = True
            self._wake.set()
            try:
                async with timeout(CLOSE_TIMEOUT_S):
                    await self._over.wait()
            except (TimeoutError, asyncio.TimeoutError):
                pass
        self._end(LinkLost("closed here"))
        await self.connection.close()

    async def refuse(self, reason: str) -> None:
        """Tell a peer that was greeted why it gets no session, and end the connection; never raises."""
        try:
            async with timeout(CLOSE_TIMEOUT_S):
                await self.connection.send([head(Type.BYE), reason.encode()])
        except (CollabError, TimeoutError, asyncio.TimeoutError):
            pass
        self._end(Refused(reason), abort=False)
        await self.connection.close()

    async def wait_ended(self) -> None:
        """Return when the link has ended."""
        await self._over.wait()

    def abort(self, error: CollabError | None = None) -> None:
        """End the link now; safe to repeat."""
        self._end(error or LinkLost("aborted here"))

    async def serve(self) -> None:
        """Run a greeted link until it ends; `ended` says why, nothing is raised but cancellation."""
        try:
            async with TaskGroup() as group:
                group.create_task(self._write())
                group.create_task(self._signs_of_life())
                await self._read(group)
        except asyncio.CancelledError:
            self._end(LinkLost("stopped here"))
            raise
        except Exception as error:
            self._end(LinkLost("closed here") if self._closing else self._reason(error))
        finally:
            self._end(LinkLost("ended"))
            await self.connection.close()

    # --- hello ---------------------------------------------------------------

    async def greet(self) -> None:
        """Exchange hellos; must come before all else.

        Raises `ProtocolError`, `PeerUnreachable` or `LinkLost`; the connection has
        ended then.
        """
        try:
            await self._hello()
        except (ProtocolError, Refused) as error:
            # Not aborted: this end's hello and the reason shall arrive, so that the other end sees why.
            await self.refuse(str(error))
            raise
        except BaseException as error:
            self._end(error if isinstance(error, CollabError) else LinkLost("stopped here"))
            raise

    async def _hello(self) -> None:
        try:
            async with timeout(self._config.hello_timeout_s):
                hello = encode_hello(self._me, self._config.mux)
                await self.connection.send([head(Type.HELLO), hello])
                data = await self.connection.receive()
        except (TimeoutError, asyncio.TimeoutError) as error:
            limit_s = self._config.hello_timeout_s
            raise PeerUnreachable(
                f"{self.connection.address}: connected, but no hello within {limit_s:g} s"
            ) from error
        greeting = decode_hello(data, self.connection.address, self._me, self.connection.principal)
        self.peer = greeting.peer
        self._mux.accept_hello(
            greeting.max_message_bytes, greeting.tensor_window_bytes, greeting.blob_window_bytes
        )

    # --- loops ---------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                parts = self._mux.next_frame()
                if parts is not None:
                    self._detector.wrote(self._mux.sent_bytes, now_us())
                    await self.connection.send(parts)
                elif self._closing and not self._bye_sent:
                    self._bye_sent = True
                    await self.connection.send([head(Type.BYE)])
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except LinkLost:
            # Reading says why, behind what the peer sent before it went.
            return

    async def _read(self, group: TaskGroup) -> None:
        receive, mux = self.connection.receive, self._mux
        while True:
            data = await receive()
            type_, channel, flags, number, value, body = parse(data)
            heard_us = now_us()
            self._show(self._detector.heard(len(data), heard_us))
            if type_ is Type.DATA:
                message = mux.receive(channel, flags, number, value, body)
                for window in mux.windows_due():
                    self._send_frame(window)
                if message is not None:
                    self._dispatch(group, message.channel, message.data)
            elif type_ is Type.WINDOW:
                mux.window(channel, value)
                self._wake.set()
            elif type_ is Type.PING:
                self._send_frame(head(Type.PONG, value=value))
            elif type_ is Type.PONG:
                self._detector.pong(value, heard_us)
                self._take_rtt(heard_us - value)
            elif type_ is Type.BYE:
                raise LinkLost(
                    f"the peer said good-bye: {refusal_text(body)}" if len(body) else "the peer said good-bye"
                )
            else:
                raise ProtocolError("frame: a second hello")

    def _take_rtt(self, sample_us: int) -> None:
        if 0 <= sample_us < 60_000_000:
            # The minimum drifts up slowly, so that a changed route is noticed.
            drifted_us = self.rtt_us + self.rtt_us // 16 + 1 if self.rtt_us else sample_us
            self.rtt_us = max(1, min(sample_us, drifted_us))

    def _begin_detecting(self) -> Detector:
        config = self._config
        ping_us, limit_us = int(config.ping_interval_s * 1e6), int(config.silence_limit_s * 1e6)
        return Detector(now_us(), ping_us, limit_us, config.suspicion)

    async def _signs_of_life(self) -> None:
        """Ping the peer and judge its silence, at the times that the detector names."""
        self._detector = detector = self._begin_detecting()
        loop = asyncio.get_running_loop()
        while True:
            awaited = len(self._calls) > self._patient or self._mux.queued_bytes > 0
            awaited = awaited or self._handler.awaits(self)
            self._show(detector.tick(now_us(), awaited=awaited))
            timer = loop.call_later((detector.due_us - now_us()) / 1e6, self._stirred.set)
            try:
                await self._stirred.wait()
            finally:
                timer.cancel()
            self._stirred.clear()

    def _show(self, signs: list[Sign]) -> None:
        for sign in signs:
            if isinstance(sign, Probe):
                self._send_frame(head(Type.PING, value=sign.value))
            else:
                self._became(sign)

    def _became(self, sign: Became) -> None:
        silent_s = sign.silent_us / 1e6
        if sign.health is Health.DEAD:
            raise LinkLost(f"no sign of life for {silent_s:.1f} s")
        if sign.health is Health.SUSPECTED:
            log.info("%s is suspected, after %.3f s of silence", self.peer.name, silent_s)
            self._suspected = True
            self._handler.link_suspected(self)
        elif self._suspected:
            self._suspected = False
            log.info("%s was heard again, after %.3f s of silence", self.peer.name, silent_s)
            self._handler.link_recovered(self)

    def _send_frame(self, data: bytes) -> None:
        self._mux.send_frame(data)
        self._wake.set()

    # --- calls ---------------------------------------------------------------

    def _send_call(
        self, channel: Channel, header: pb.CallHeader, body: bytes, sent: Callable[[], None] | None = None
    ) -> None:
        self._mux.send(channel, frame(header.SerializeToString(), (body,)), sent)
        self._wake.set()

    def _dispatch(self, group: TaskGroup, channel: Channel, data: Buffer) -> None:
        if channel is Channel.TENSORS:
            self._handler.tensors(self, data)
            return
        if not len(data):
            return
        head_bytes, body = unframe(data)
        try:
            header = pb.CallHeader.FromString(bytes(head_bytes))
        except (DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError("call: the header cannot be read") from error
        if header.reply:
            self._take_reply(header, body)
        elif self._serving < self._config.calls_at_once:
            self._serving += 1
            group.create_task(self._serve(channel, header.id, header.verb, body))
        elif self._refusals < MAX_REFUSALS:
            self._refusals += 1
            refusal = Overloaded("too many calls at once on this link; wait for replies")
            self._reply_fault(channel, header.id, refusal, self._refusal_sent)
        else:
            raise LimitExceeded(f"call: over {MAX_REFUSALS} replies wait for the peer to read them")

    def _take_reply(self, header: pb.CallHeader, body: memoryview) -> None:
        reply = self._calls.get(header.id)
        if reply is None or reply.done():
            return
        if header.HasField("fault"):
            fault = header.fault
            reply.set_exception(Fault(fault.code, fault.message, fault.node, fault.stage).to_error())
        else:
            reply.set_result(body)

    async def _serve(self, channel: Channel, number: int, verb: str, body: memoryview) -> None:
        try:
            result = await self._handler.call(self, verb, body)
            self._send_call(channel, pb.CallHeader(id=number, reply=True), result, self._reply_sent)
        except CollabError as error:
            self._reply_fault(channel, number, error, self._reply_sent)
        except Exception as error:
            log.exception("verb %.40s for %s failed", verb, self.peer.name)
            what = f"{verb[:40]}: internal error of {self._me.name!r}, {type(error).__name__}; see its log"
            self._reply_fault(channel, number, CollabError(what), self._reply_sent)

    def _reply_fault(
        self, channel: Channel, number: int, error: CollabError, sent: Callable[[], None]
    ) -> None:
        header = pb.CallHeader(id=number, reply=True)
        header.fault.code, header.fault.message = error.code, clean_text(str(error), MAX_TEXT)
        self._send_call(channel, header, b"", sent)

    def _reply_sent(self) -> None:
        self._serving -= 1

    def _refusal_sent(self) -> None:
        self._refusals -= 1

    def _end(self, error: CollabError, *, abort: bool = True) -> None:
        if self._ended is not None:
            return
        self._ended = error
        self._over.set()
        if abort:
            self.connection.abort()
        for reply in self._calls.values():
            if not reply.done():
                reply.set_exception(LinkLost(f"link to {self.peer.name!r} ended: {error}"))

    def _reason(self, error: Exception) -> CollabError:
        """The error of this package in an exception group; a foreign one is logged."""
        cause: BaseException = error
        while inner := getattr(cause, "exceptions", None):
            cause = inner[0]
        if isinstance(cause, CollabError):
            return cause
        log.error("the link to %s fails", self.peer.name, exc_info=cause)
        return CollabError(f"internal error, {type(cause).__name__}; see the log")
