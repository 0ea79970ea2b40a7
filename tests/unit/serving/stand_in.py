"""A plan and a client of it that compute at once, in place of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collab.client.runner import Result
from collab.codec.tensors import Array
from collab.core.ids import Epoch
from collab.core.plan import ModelRef, Plan
from collab.core.tensor import TensorSpec
from collab.core.token import Priority
from collab.serving.offers import Offer, Opened

SPEC = TensorSpec("x", (1, 2), "float32")
MADE = TensorSpec("y", (1, 2), "float32")


def plan(
    name: str = "m", inputs: tuple[TensorSpec, ...] = (SPEC,), outputs: tuple[TensorSpec, ...] = (MADE,)
) -> Plan:
    """One that says what goes in and out, and no more."""
    model = ModelRef(sha256="0" * 64, ops=1)
    return Plan(name=name, models=(model,), inputs=inputs, outputs=outputs, stages=(), edges=(), nodes=())


class Double:
    """Answers each input doubled; keeps what it was asked."""

    def __init__(self, of: Plan | None = None, granted: int = 4) -> None:
        self.plan = of or plan()
        self.epoch = Epoch(3)
        self.granted = granted
        self.asked: list[tuple[float, Priority, str]] = []
        self.most = 0
        self.closed = False
        self.opened = asyncio.Event()
        self.was_asked = asyncio.Event()
        self.withdrawn = asyncio.Event()
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self._now = 0

    async def run(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float,
        priority: Priority,
        *,
        only: str,
        trace: Any = None,
    ) -> Result:
        self.asked.append((deadline_s, priority, only))
        self.was_asked.set()
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await (asyncio.sleep(0) if self.hold is None else self.hold.wait())
            if self.error is not None:
                raise self.error
            doubled = {
                made.name: (inputs[given.name] * 2).astype(made.dtype)
                for given, made in zip(self.plan.inputs, self.plan.outputs, strict=True)
            }
            return Result(doubled, 1.0, (), ("a", "b"), epoch=self.epoch)
        except asyncio.CancelledError:
            self.withdrawn.set()
            raise
        finally:
            self._now -= 1

    async def close(self) -> None:
        self.closed = True

    @property
    def offer(self) -> Offer:
        return Offer(Opened(self, self.close))


def opener(
    clients: Mapping[str, Double],
) -> tuple[Callable[[Path], Awaitable[Plan]], Callable[[Plan], Awaitable[Opened]]]:
    """What reads plans from "files", which are names, and opens them."""

    async def read(file: Path) -> Plan:
        return clients[file.name].plan

    async def open_plan(of: Plan) -> Opened:
        client = clients[of.name]
        if client.error is not None:
            raise client.error
        client.opened.set()
        return Opened(client, client.close)

    return read, open_plan


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)
