"""The whole model in this process, for requests that no node can answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from collab.client.runner import LOCAL_PATH, Result
from collab.codec.tensors import Array, check_array
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, DeadlineExceeded, Overloaded, TensorError
from collab.link.link import now_us
from collab.transport.aio import timeout

MAX_WAITING: Final = 64
"""Requests that wait for the model or are computed; more are refused."""

RunWhole = Callable[[Sequence[Array]], list[Array]]
"""From arrays to arrays, in the order of the model's inputs and outputs; it blocks."""


class LocalModel:
    """Computes one request at a time in a thread; `close` it in the end."""

    def __init__(
        self,
        run: RunWhole,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        most: int = MAX_WAITING,
    ) -> None:
        self._run = run
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._most = most
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collab-local")

    @property
    def granted(self) -> int:
        """Requests that may be under way at a time."""
        return self._most

    async def run(self, inputs: Mapping[str, Array], deadline_s: float) -> Result:
        """One inference; raises `Overloaded`, `DeadlineExceeded` or `TensorError`."""
        for spec in self._inputs:
            if spec.name not in inputs:
                raise TensorError(f"input {spec.name!r} {spec.dtype}{list(spec.shape)} is missing")
            check_array(spec, inputs[spec.name])
        if self._waiting >= self._most:
            raise Overloaded(f"{self._waiting} requests wait for the whole model here; try again later")
        start_us = now_us()
        until_us = start_us + int(deadline_s * 1e6)
        self._waiting += 1
        work = self._thread.submit(self._compute, inputs, until_us)
        try:
            async with timeout(deadline_s):
                arrays = await asyncio.wrap_future(work)
        except (TimeoutError, asyncio.TimeoutError):
            message = f"no answer from the whole model here within {deadline_s * 1000:g} ms"
            raise DeadlineExceeded(message) from None
        finally:
            self._waiting -= 1
        named = {spec.name: array for spec, array in zip(self._outputs, arrays, strict=True)}
        return Result(named, (now_us() - start_us) / 1000, (), (), attempts=0, via=LOCAL_PATH)

    def _compute(self, inputs: Mapping[str, Array], until_us: int) -> list[Array]:
        """What it computes too late nobody waits for."""
        if now_us() >= until_us:
            raise DeadlineExceeded("the request's time ran out while it waited for the whole model here")
        try:
            return self._run([inputs[spec.name] for spec in self._inputs])
        except Exception as error:  # a runtime may raise anything
            text = " ".join(str(error).split())[:200]
            raise BackendError(f"the whole model here failed: {type(error).__name__}: {text}") from error

    async def close(self) -> None:
        """End the thread; what waits is withdrawn."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
