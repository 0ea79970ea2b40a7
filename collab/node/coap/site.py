"""Between the CoAP library and the resources: options, blocks, observers, strangers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiocoap
from aiocoap.numbers import TransportTuning
from aiocoap.numbers.contentformat import ContentFormat

from collab.core.identity import Principal
from collab.errors import CollabError, Refused
from collab.node.coap.answers import (
    AMPLIFICATION,
    OVERLOADED_S,
    SILENT,
    Ask,
    Code,
    Declined,
    Reply,
    error_reply,
)
from collab.node.coap.blocks import BERT, Block, BlockLimits, Downloads, Uploads, cut, fitting
from collab.node.coap.endpoint import Stream, remote_host
from collab.node.coap.resources import WELL_KNOWN, Resources

if TYPE_CHECKING:
    from collab.node.coap.oscore import ObjectSecurity, ProtectedPipe

log = logging.getLogger("collab.node.coap")

MAX_REQUESTS: Final = 64
"""Requests being answered at a time; more get 5.03."""
MAX_OBSERVERS: Final = 64
MAX_OBSERVERS_EACH: Final = 8
"""For one host; a registration beyond is answered once, as RFC 7641 4.1 allows."""
MAX_LEISURELY: Final = 16
"""Multicast requests that wait for their answer at a time; more get none."""
LEISURE_S: Final = 5.0
"""DEFAULT_LEISURE (RFC 7252 8.2)."""
UDP_BODY: Final = 256 * 1024
"""Bytes of a body over UDP, which takes a round trip for each KiB."""
_LEAST_ANSWER: Final = 128
"""What every request may be answered with; smaller blocks would cost more than they save."""
_REQUEST_HEAD: Final = 24

_IF_MATCH, _HOST, _ETAG, _IF_NONE_MATCH, _OBSERVE, _PORT = 1, 3, 4, 5, 6, 7
_PATH, _FORMAT, _QUERY, _ACCEPT, _BLOCK2, _BLOCK1 = 11, 12, 15, 17, 23, 27
_KNOWN: Final = frozenset({_HOST, _PORT, _PATH, _QUERY, _ACCEPT, _BLOCK2, _BLOCK1, _FORMAT, _OBSERVE, _ETAG})
_PROXY: Final = frozenset({35, 39})
"""Proxy-Uri and Proxy-Scheme (RFC 7252 5.10.2)."""
_LARGEST_BLOCK: Final = 1024
"""Of a datagram (RFC 7959 2.2)."""


class _Reliable(TransportTuning):  # type: ignore[misc]
    """Notifications ask for acknowledgement: who does not want them gets no more (RFC 7641 4.5)."""

    reliability = True


class _From(NamedTuple):
    """Who asks, and over what."""

    remote: Any
    key: Hashable
    """Tells clients apart."""
    host: Hashable
    stream: Stream | None
    caller: Principal | None
    protected: ProtectedPipe | None = None

    async def check(self) -> None:
        """Raise `Refused` if whoever asked has lost the right to since."""
        if self.protected is not None:
            await self.protected.check()
        elif self.stream is not None:
            self.stream.principal()


class Site:
    """The library's entry: it calls `render_to_pipe` in a task of its own for each request.

    With ``contexts``, whatever comes without TLS has to be protected by one of them.
    """

    def __init__(
        self,
        resources: Resources,
        limits: BlockLimits = BlockLimits(),
        rng: random.Random | None = None,
        contexts: ObjectSecurity | None = None,
    ) -> None:
        self._resources = resources
        self._contexts = contexts
        self._uploads = Uploads(limits)
        self._downloads = Downloads(limits)
        self._rng = rng or random.Random()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answering = 0
        self._leisurely = 0
        self._observers: Counter[Hashable] = Counter()
        self._news = self._rng.getrandbits(16)
        """Counts notifications: later ones have larger numbers (RFC 7641 4.4)."""

    async def close(self) -> None:
        """End what is being answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def render_to_pipe(self, pipe: Any) -> None:
        """Answer one request, perhaps more than once."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        stream = pipe.request.remote if isinstance(pipe.request.remote, Stream) else None
        try:
            if stream is not None:
                stream.busy += 1
            await self._serve(pipe, stream)
        finally:
            self._tasks.discard(task)
            if stream is not None:
                stream.busy -= 1

    async def _serve(self, pipe: Any, stream: Stream | None) -> None:
        if pipe.request.remote.is_multicast_locally:
            await self._serve_many(pipe)
            return
        if self._contexts is not None and (stream is None or not stream.secured):
            opened = await self._contexts.open(pipe)
            if opened is not None:
                who = _From(pipe.request.remote, opened.key, opened.caller, stream, opened.caller, opened)
                await self._serve_one(opened, who)
            return
        try:
            who = _From(
                pipe.request.remote,
                pipe.request.remote if stream is not None else pipe.request.remote.sockaddr[:2],
                remote_host(pipe.request.remote),
                stream,
                None if stream is None else stream.principal(),
            )
        except Refused as error:
            pipe.add_response(_message(Reply(Code.UNAUTHORIZED, str(error).encode())), is_last=True)
            return
        await self._serve_one(pipe, who)

    async def _serve_one(self, pipe: Any, who: _From) -> None:
        request = pipe.request
        if self._answering >= MAX_REQUESTS:
            busy = Declined(Code.UNAVAILABLE, "too many requests; try again later", max_age_s=OVERLOADED_S)
            pipe.add_response(_message(busy.reply), is_last=True)
            return
        self._answering += 1
        try:
            ask, response = await self._answered(request, who)
        finally:
            self._answering -= 1
        if request.opt.observe == 0 and ask is not None and response.code == aiocoap.CONTENT:
            await self._observed(pipe, who, ask, response)
        else:
            pipe.add_response(response, is_last=True)

    async def _serve_many(self, pipe: Any) -> None:
        """A multicast request: only the list, only with something in it, only after a while."""
        request = pipe.request
        ask = Ask(int(request.code), request.opt.uri_path, request.opt.uri_query, request.opt.accept)
        response = aiocoap.Message(code=aiocoap.CONTENT, no_response=SILENT)
        listed = self._contexts is None and ask.path == WELL_KNOWN and ask.code == Code.GET
        if listed and self._leisurely < MAX_LEISURELY:
            self._leisurely += 1
            try:
                await asyncio.sleep(self._rng.uniform(0, LEISURE_S))
                reply = await self._resources.answer(ask)
                if reply.body:
                    everybody = _From(request.remote, ("all", request.remote.sockaddr[:2]), "", None, None)
                    response = self._block(_Whole(request, everybody.key), reply, everybody)
            except (Declined, CollabError):
                pass  # no errors in answer to a multicast (RFC 7252 8.2)
            finally:
                self._leisurely -= 1
        pipe.add_response(response, is_last=True)

    # --- one request ----------------------------------------------------------------

    async def _answered(self, request: Any, who: _From) -> tuple[Ask | None, Any]:
        """What was asked, once it is complete, and the answer."""
        try:
            _check_options(request)
            ask = Ask(
                int(request.code),
                tuple(request.opt.uri_path),
                tuple(request.opt.uri_query),
                _number(request.opt.accept),
                _number(request.opt.content_format),
                caller=who.caller,
                host=who.host,
            )
            key = (who.key, ask[:5])
            block2 = _block(request.opt.block2)
            window = _window(request, block2, who)
            ask = ask._replace(start=window.start, room=window.room)
            if block2 is not None and block2.number:
                reply = self._downloads.find(key, _now())
                if reply is None and ask.code != Code.GET:
                    raise Declined(Code.INCOMPLETE, "the answer is not kept any more; ask again")
            else:
                reply = None
            if reply is None:
                body = self._body(request, who, ask, key)
                if body is None:
                    return None, _continue(request)
                ask = ask._replace(body=body)
                reply = await self._resources.answer(ask)
            if reply.total is not None:
                response = _of_many(reply, window)
            else:
                response = self._block(_Whole(request, key), reply, who)
            if request.opt.block1 is not None:
                response.opt.block1 = request.opt.block1
            return ask, response
        except Declined as declined:
            return None, _message(declined.reply, request.opt.block1)
        except CollabError as error:
            return None, _message(error_reply(error), request.opt.block1)
        except Exception:
            log.exception("a CoAP request for %r failed", request.opt.uri_path)
            return None, _message(Reply(Code.INTERNAL, b"this is a fault of the node; see its log"))

    def _body(self, request: Any, who: _From, ask: Ask, key: Hashable) -> Any:
        """The complete body; None while more is to come."""
        most = self._resources.most_bytes(ask)
        if who.stream is None and most > UDP_BODY:
            most = UDP_BODY
        block = _block(request.opt.block1)
        if block is None:
            if len(request.payload) > most:
                raise Declined(Code.TOO_LARGE, f"the body has more than {most} bytes", size1=most)
            return request.payload
        if block.exponent == BERT and who.stream is None:
            raise Declined(Code.BAD_REQUEST, "blocks of size exponent 7 are for TCP (RFC 8323 6)")
        announced = request.opt.size1
        if announced is not None and announced > most:
            raise Declined(Code.TOO_LARGE, f"the body has more than {most} bytes", size1=most)
        return self._uploads.feed(key, who.host, block, request.payload, most, _now())

    def _block(self, whole: _Whole, reply: Reply, who: _From) -> Any:
        """The answer, or the block of it that was asked for or fits."""
        request, key = whole
        response = _message(reply)
        wanted = _block(request.opt.block2)
        most, exponent = _room(request, wanted, who)
        if wanted is not None:
            exponent = min(exponent, wanted.exponent)
        elif len(reply.body) <= most:
            return response
        if wanted is not None and not wanted.number and len(reply.body) <= Block(0, False, exponent).size:
            response.opt.block2 = (0, False, exponent)
            return response
        start = wanted.start if wanted is not None else 0
        size = Block(0, False, exponent).size
        found = cut(reply.body, Block(start // size, False, exponent), most)
        if found is None:
            raise Declined(Code.BAD_REQUEST, "the answer ends before that block")
        self._downloads.keep(key, reply, _now())
        response.payload, option = found
        response.opt.block2 = tuple(option)
        response.opt.etag = hashlib.sha256(reply.body).digest()[:8]
        if not option.number:
            response.opt.size2 = len(reply.body)
        return response

    # --- observing --------------------------------------------------------------------

    async def _observed(self, pipe: Any, who: _From, ask: Ask, first: Any) -> None:
        """Answer, and answer again when there is news (RFC 7641)."""
        change = self._resources.change(ask)
        crowded = self._observers.total() >= MAX_OBSERVERS or self._observers[who.host] >= MAX_OBSERVERS_EACH
        if change is None or crowded:
            pipe.add_response(first, is_last=True)
            return
        self._observers[who.host] += 1
        try:
            last = False
            first.opt.observe = self._next()
            pipe.add_response(first, is_last=False)
            while not last:
                last = await change()
                await who.check()
                _, response = await self._answered(pipe.request, who)
                last = last or response.code != aiocoap.CONTENT
                if not last:
                    response.opt.observe = self._next()
                response.transport_tuning = _Reliable()
                pipe.add_response(response, is_last=last)
        except Refused as error:
            pipe.add_response(_message(Reply(Code.UNAUTHORIZED, str(error).encode())), is_last=True)
        finally:
            self._observers[who.host] -= 1
            if not self._observers[who.host]:
                del self._observers[who.host]

    def _next(self) -> int:
        self._news = (self._news + 1) % (1 << 24)
        return self._news


def _room(request: Any, wanted: Block | None, who: _From) -> tuple[int, int]:
    """Bytes of an answer, and the exponent of the largest block that fits."""
    if who.stream is not None:
        return who.stream.maximum_payload_size, who.stream.maximum_block_size_exp
    if who.protected is not None:
        return _LARGEST_BLOCK, fitting(_LARGEST_BLOCK)  # fresh and proven: nobody else can ask for it
    most = max(_LEAST_ANSWER, AMPLIFICATION * (len(request.payload) + _REQUEST_HEAD))
    if wanted is not None and wanted.number:
        most = wanted.size  # asked for again and again: the address is real, or the gain is none
    return most, fitting(most)


class _Window(NamedTuple):
    """The block that is asked for."""

    start: int
    room: int
    exponent: int


def _window(request: Any, wanted: Block | None, who: _From) -> _Window:
    most, exponent = _room(request, wanted, who)
    if wanted is not None:
        exponent = min(exponent, wanted.exponent)
    size = Block(0, False, exponent).size
    room = max(most // size, 1) * size if exponent == BERT else size
    return _Window(wanted.start if wanted is not None else 0, room, exponent)


def _of_many(reply: Reply, window: _Window) -> Any:
    """One block of what is never held as a whole."""
    assert reply.total is not None
    if window.start and window.start >= reply.total:
        raise Declined(Code.BAD_REQUEST, "the answer ends before that block")
    response = _message(reply)
    response.opt.etag = reply.etag
    if reply.total > window.room:
        size = Block(0, False, window.exponent).size
        more = window.start + len(reply.body) < reply.total
        response.opt.block2 = (window.start // size, more, window.exponent)
        if not window.start:
            response.opt.size2 = reply.total
    return response


class _Whole(NamedTuple):
    """A request and what an answer to it is kept under."""

    request: Any
    key: Hashable


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _block(option: Any) -> Block | None:
    return None if option is None else Block(option.block_number, bool(option.more), option.size_exponent)


def _check_options(request: Any) -> None:
    """Refuse critical options that are not known (RFC 7252 5.4.1), and to be a proxy (5.10.2)."""
    for option in request.opt.option_list():
        number = int(option.number)
        if number in _PROXY:
            raise Declined(Code.NO_PROXY, "this node is no proxy")
        if number % 2 and number not in _KNOWN:
            raise Declined(Code.BAD_OPTION, f"option {number} is critical and not known here")


def _continue(request: Any) -> Any:
    return _message(Reply(Code.CONTINUE), request.opt.block1)


def _message(reply: Reply, block1: Any = None) -> Any:
    message = aiocoap.Message(code=aiocoap.Code(int(reply.code)), payload=reply.body)
    if reply.format is not None:
        message.opt.content_format = ContentFormat(reply.format)
    if reply.max_age_s is not None:
        message.opt.max_age = reply.max_age_s
    if reply.size1 is not None:
        message.opt.size1 = reply.size1
    if reply.location:
        message.opt.location_path = reply.location
    if block1 is not None:
        message.opt.block1 = block1
    return message
