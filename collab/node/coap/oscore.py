"""Object security for foreign CoAP clients (RFC 8613): who asks, and answers for them alone.

aiocoap's ``oscore`` module does the cryptography and reads the options.  What it persists
itself it writes from the event loop, so contexts are kept here: numbers are reserved on the
disk before they are used (RFC 8613 B.1.1), and after an unclean end a client has to show
that it is there before its requests count again (B.1.2).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiocoap
from aiocoap import oscore

from collab.core.identity import Principal
from collab.errors import CollabError, Refused
from collab.node.coap.answers import AMPLIFICATION, SILENT, Code, Declined
from collab.node.coap.endpoint import remote_host
from collab.security.object_security import (
    ALGORITHM,
    HASH,
    MAX_NUMBER,
    WINDOW,
    ContextFolder,
    Seen,
    Used,
    open_contexts,
)
from collab.transport.aio import TaskGroup

log = logging.getLogger("collab.node.coap")

RESERVED: Final = 4096
"""Sequence numbers of ours that are written as used at a time; an answer needs none, a notification one."""
_ECHO_BYTES: Final = 8
_PIV_BYTES: Final = 5
"""RFC 8613 6.1."""
_HEADER: Final = 4
_MAX_AGE_ZERO: Final = 2
_HOST, _OBSERVE, _PORT, _OSCORE, _BLOCK2, _BLOCK1 = 3, 6, 7, 9, 23, 27
_DISCARDED: Final = frozenset({1, 4, 5, 11, 12, 15, 17})
"""Options that only count where they are protected (class E, RFC 8613 4.1 and 8.2)."""
_PROXY: Final = frozenset({35, 39})

_COSE_FAILED: Final = "Failed to decode COSE"
_NO_CONTEXT: Final = "Security context not found"


class _Context(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """One client's context in use."""

    alg_aead = oscore.algorithms[ALGORITHM]
    hashfun = oscore.hashfunctions[HASH]
    id_context = None

    def __init__(self, folder: ContextFolder, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self.folder = folder
        self.sender_id, self.recipient_id, secret, salt = folder.keys
        self.derive_keys(salt, secret)
        self.recipient_replay_window = oscore.ReplayWindow(WINDOW, lambda: None)
        seen = folder.sequence.received
        if seen != "unknown":
            self.recipient_replay_window.initialize_from_persisted(
                {"index": seen.index, "bitfield": seen.bitfield}
            )
        self.sender_sequence_number = self._reserved = folder.sequence.next_to_send
        self._spawn = spawn
        self._reserving = False
        self._echo = secrets.token_bytes(_ECHO_BYTES)

    @property
    def echo_recovery(self) -> bytes | None:
        """What a client has to repeat before its requests count; None where replays are known."""
        return None if self.recipient_replay_window.is_initialized() else self._echo

    def reserve(self) -> None:
        """Write the next numbers as used, and what was seen as unknown.  Blocks on the disk."""
        upto = min(self._reserved + RESERVED, MAX_NUMBER)
        self.folder.store(Used(upto, "unknown"))
        self._reserved = upto

    def post_seqnoincrease(self) -> None:
        """A number was taken; raises `oscore.ContextUnavailable` for one that is not reserved."""
        if self._reserved - self.sender_sequence_number < RESERVED // 2 and not self._reserving:
            self._reserving = True
            self._spawn(self._reserve())
        if self.sender_sequence_number > self._reserved:
            self.sender_sequence_number = self._reserved
            raise oscore.ContextUnavailable("no sequence numbers are reserved")

    async def _reserve(self) -> None:
        try:
            await asyncio.to_thread(self.reserve)
        except CollabError as error:
            log.warning("OSCORE context %s: %s", self.folder.path, error)
        finally:
            self._reserving = False

    def close(self) -> None:
        """Write what was really used and seen.  Blocks on the disk."""
        window = self.recipient_replay_window
        used = Used(self.sender_sequence_number, "unknown")
        if window.is_initialized():
            used = Used(used.next_to_send, Seen(**window.persist()))
        try:
            self.folder.store(used)
        finally:
            self.folder.close()


class ProtectedPipe:
    """A request that was protected, and the way of its answers; stands for the library's pipe."""

    def __init__(self, outer: Any, request: Any, request_id: Any, context: _Context) -> None:
        self.request = request
        self.caller: Principal = context.folder.client
        self.key = ("oscore", context.recipient_id)
        """Tells clients apart, from wherever they ask."""
        self._outer = outer
        self._request_id = request_id
        self._context = context

    def add_response(self, response: Any, is_last: bool = False) -> None:
        """Protect an answer and send it."""
        number = response.opt.observe
        if number is not None:
            response.opt.observe = 0  # within, it has no value (RFC 8613 4.1.3.5.2)
        try:
            outer, _ = self._context.protect(response, self._request_id)
        except oscore.ContextUnavailable as error:
            log.warning("OSCORE context %s: %s", self._context.folder.path, error)
            _refuse(self._outer, Declined(Code.UNAVAILABLE, ""))
            return
        if number is not None:
            outer.opt.observe = number
        self._outer.add_response(outer, is_last=is_last)

    async def check(self) -> None:
        """Raise `Refused` if the context was taken back."""
        if not await asyncio.to_thread(self._context.folder.present):
            raise Refused(f"the context of {self.caller} was taken back")


class ObjectSecurity:
    """All contexts of a node.  Use as an asynchronous context manager, which loads them.

    Entering raises `Refused` or `ConfigError` for contexts that cannot be used.
    """

    def __init__(self, directory: Path, node: Principal) -> None:
        self._directory = directory
        self._node = node
        self._contexts: dict[bytes, _Context] = {}
        self._tasks = TaskGroup()

    async def __aenter__(self) -> ObjectSecurity:
        folders = await asyncio.to_thread(open_contexts, self._directory, self._node)
        if not folders:
            log.warning("%s holds no context: no protected request will be answered", self._directory)
        contexts = [_Context(folder, self._tasks.create_task) for folder in folders]
        try:
            for context in contexts:
                await asyncio.to_thread(context.reserve)
            await self._tasks.__aenter__()
        except BaseException:
            for folder in folders:
                folder.close()
            raise
        self._contexts = {context.recipient_id: context for context in contexts}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            contexts, self._contexts = tuple(self._contexts.values()), {}
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_close, contexts)))

    async def open(self, pipe: Any) -> ProtectedPipe | None:
        """The request that a protected one holds; None where it is refused and that was answered.

        Whoever shows no context learns nothing but that: the answer is a code and one line,
        at most `AMPLIFICATION` times as long as the question, and a multicast gets none.
        """
        try:
            context = self._found(pipe.request)
            inner, request_id = _unprotected(pipe.request, context)
        except oscore.ReplayErrorWithEcho as error:
            try:
                pipe.add_response(error.to_message(), is_last=True)
            except oscore.ContextUnavailable:
                _refuse(pipe, Declined(Code.UNAVAILABLE, ""))
            return None
        except Declined as declined:
            _refuse(pipe, declined)
            return None
        inner.remote = pipe.request.remote
        opened = ProtectedPipe(pipe, inner, request_id, context)
        try:
            await opened.check()
        except Refused as error:
            log.warning("a protected CoAP request is refused: %s", error)
            _refuse(pipe, Declined(Code.UNAUTHORIZED, _NO_CONTEXT))
            return None
        return opened

    def _found(self, request: Any) -> _Context:
        """The context that a request names; raises `Declined`."""
        if request.opt.oscore is None:
            raise Declined(Code.UNAUTHORIZED, "OSCORE is needed")
        if request.code not in (aiocoap.POST, aiocoap.FETCH):
            raise Declined(Code.BAD_REQUEST, "OSCORE needs POST or FETCH")
        for option in request.opt.option_list():
            number = int(option.number)
            if number in _PROXY:
                raise Declined(Code.NO_PROXY, "no proxy")
            if number % 2 and number not in _DISCARDED | {_HOST, _PORT, _OSCORE}:
                raise Declined(Code.BAD_OPTION, f"option {number}")
        try:
            header = oscore.verify_start(request)
        except Exception:  # it raises more than it says
            raise Declined(Code.BAD_OPTION, _COSE_FAILED) from None
        number = header.pop(oscore.COSE_PIV, None)
        kid = header.pop(oscore.COSE_KID, None)
        header.pop(oscore.COSE_KID_CONTEXT, None)
        if number is None or kid is None or len(number) > _PIV_BYTES or header:
            raise Declined(Code.BAD_OPTION, _COSE_FAILED)
        context = self._contexts.get(kid)
        if context is None:
            raise Declined(Code.UNAUTHORIZED, _NO_CONTEXT)
        return context


def _unprotected(request: Any, context: _Context) -> tuple[Any, Any]:
    """What a request holds, and what ties answers to it; raises `Declined` (codes of RFC 8613 8.2)."""
    try:
        inner, request_id = context.unprotect(request)
    except oscore.ReplayErrorWithEcho:
        raise
    except oscore.ReplayError:
        code, why = Code.UNAUTHORIZED, "Replay detected"
    except oscore.DecodeError:
        code, why = Code.BAD_OPTION, _COSE_FAILED
    except Exception:  # a wrong key, or what the library's parser makes of nonsense
        code, why = Code.BAD_REQUEST, "Decryption failed"
    else:
        if inner.code.is_request():
            return inner, request_id
        code, why = Code.BAD_REQUEST, "no request"
    log.warning("a protected CoAP request is refused: %s (%s)", why, remote_host(request.remote))
    raise Declined(code, why)


def _refuse(pipe: Any, declined: Declined) -> None:
    """Answer in the clear: a code, and a line where the question was long enough for it."""
    request, line = pipe.request, declined.reply.body
    asked = _HEADER + len(request.token) + len(request.opt.encode()) + len(request.payload)
    if _HEADER + len(request.token) + _MAX_AGE_ZERO + 1 + len(line) > AMPLIFICATION * asked:
        line = b""
    silent = {"no_response": SILENT} if request.remote.is_multicast_locally else {}
    answer = aiocoap.Message(code=aiocoap.Code(int(declined.reply.code)), payload=line, **silent)
    answer.opt.max_age = 0
    pipe.add_response(answer, is_last=True)


def _close(contexts: Sequence[_Context]) -> None:
    for context in contexts:
        try:
            context.close()
        except Refused as error:
            log.info("OSCORE: %s", error)
        except CollabError as error:
            log.error("OSCORE: %s", error)  # what was reserved stays used
